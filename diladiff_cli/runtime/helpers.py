"""The main process leads and the others help: for work whose input only the main process can read in order."""

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list, gather_object

from diladiff_cli.runtime.processes import process_state

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=7)  # of helpers, while the main process does what it can only do alone


def led(lead: Callable[[], R]) -> R:
    """What ``lead`` returns on the main process, on all processes; the others help until then.

    Args:
        lead: Called on the main process alone. Inside it :func:`shared_out` has helpers.
    """
    state = process_state(PATIENCE)
    if state.num_processes == 1:
        return lead()
    if state.is_main_process:
        result = lead()
        _told({"result": result})
        return result
    return _help()


def shared_out(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Items and what ``work`` makes of them, in order, inside :func:`led`; the processes take turns.

    Args:
        work: What to do; it must not depend on anything but the item, and pickle.
        items: Read by the main process alone, as many at once as there are processes.
    """
    state = process_state()
    if state.num_processes == 1:
        yield from ((item, work(item)) for item in items)
        return
    _told({"work": work})
    rest = iter(items)
    while part := list(islice(rest, state.num_processes)):
        _told({"items": part})
        yield from zip(part, _gathered(work, part), strict=True)


def _help() -> Any:
    """Do a share of all work that the main process has, until it has its result."""
    while "result" not in (message := _told(None)):
        if "work" in message:
            work = message["work"]
        else:
            _gathered(work, message["items"])
    return message["result"]


def _told(message: dict[str, Any] | None) -> dict[str, Any]:
    """The main process's message, on all processes."""
    (told,) = broadcast_object_list([message])
    return dict(told)


def _gathered(work: Callable[[T], R], part: list[T]) -> list[R]:
    """The results of a part's items, of which each process makes at most one."""
    mine = process_state().process_index
    found: list[R] = gather_object([work(item) for item in part[mine : mine + 1]])
    return found
