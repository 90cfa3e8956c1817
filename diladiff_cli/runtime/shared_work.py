"""The main process leads and the others help: for work whose input only the main process can read in order."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch.distributed as dist

from diladiff_cli.notes import several_processes
from diladiff_cli.runtime.processes import process_state

T = TypeVar("T")
R = TypeVar("R")

PATIENCE = timedelta(days=7)  # of helpers, while the main process does what it can only do alone

_groups: list[Any] = []  # of the calls of run_on_main that are under way, which have a patience of their own


def run_on_main(lead: Callable[[], R]) -> R:
    """What ``lead`` returns or raises on the main process, on all processes; the others help until then.

    Args:
        lead: Called on the main process alone. Inside it :func:`map_over_processes` has helpers.
    """
    if not several_processes() or process_state().num_processes == 1:
        return lead()
    _groups.append(dist.new_group(backend="gloo", timeout=PATIENCE))
    try:
        return _lead(lead) if process_state().is_main_process else _help()
    finally:
        dist.destroy_process_group(_groups.pop())


def map_over_processes(work: Callable[[T], R], items: Iterable[T]) -> Iterator[tuple[T, R]]:
    """Items and what ``work`` makes of them, in order, inside :func:`run_on_main`; the processes take turns.

    Args:
        work: What to do; must depend on its item alone, and be picklable.
        items: Read by the main process alone, as many at once as there are processes.
    """
    if not _groups:
        yield from ((item, work(item)) for item in items)
        return
    _broadcast({"work": work})
    rest = iter(items)
    while part := list(islice(rest, dist.get_world_size())):
        _broadcast({"items": part})
        yield from zip(part, _gathered(work, part), strict=True)


def _lead(lead: Callable[[], R]) -> R:
    try:
        result = lead()
    except Exception as error:
        _broadcast({"error": _portable(error)})
        raise
    _broadcast({"result": result})
    return result


def _help() -> Any:
    """Do a share of all work that the main process has, until it has its result."""
    while "result" not in (message := _broadcast(None)):
        if "error" in message:
            raise message["error"]
        if "work" in message:
            work = message["work"]
        else:
            _gathered(work, message["items"])
    return message["result"]


def _broadcast(message: dict[str, Any] | None) -> dict[str, Any]:
    """The main process's message, on all processes."""
    box = [message]
    dist.broadcast_object_list(box, src=0, group=_groups[-1])
    return dict(box[0] or {})


def _gathered(work: Callable[[T], R], part: list[T]) -> list[R]:
    """On the main process the results of a part's items, of which each process makes at most one.

    Raises:
        Exception: On the main process, what a process met at its item.
    """
    rank = dist.get_rank()
    mine: tuple[R | None, Exception | None] = (None, None)
    try:
        if rank < len(part):
            mine = (work(part[rank]), None)
    except Exception as error:  # told to the main process, and by it to all
        mine = (None, _portable(error))
    gathered: list[Any] | None = [None] * dist.get_world_size() if rank == 0 else None
    dist.gather_object(mine, gathered, dst=0, group=_groups[-1])
    results = (gathered or [])[: len(part)]
    for _, fault in results:
        if fault is not None:
            raise fault
    return [result for result, _ in results]


def _portable(error: Exception) -> Exception:
    """The error, or where another process could not read it one of the same words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its class makes of it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
