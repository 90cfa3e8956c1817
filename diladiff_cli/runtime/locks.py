"""Locks that keep two commands from writing the same file or folder at once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.folders import real
from diladiff_cli.runtime.processes import process_state


@contextmanager
def sole_writer(place: Path) -> Iterator[None]:
    """Keep others from writing a file or folder until the block ends, or this process does.

    The lock is an empty file beside ``place``, which a kill leaves there. Where none can be made, or the file system
    has no locks, nobody is kept away: whoever writes ``place`` will tell what is wrong with it.

    Raises:
        UserError: Another process is writing it.
    """
    where = real(place)
    file = where.with_name(f".{where.name}.lock")
    lock = FileLock(file, timeout=0)
    with suppress(OSError, NotImplementedError):
        where.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise _busy(place) from error
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):
                file.unlink()  # while it is held: once it is not, it may be another's
            lock.release()


@contextmanager
def sole_run(place: Path) -> Iterator[None]:
    """:func:`sole_writer` for processes that share a run, all of which call this: the main one holds the lock.

    Raises:
        UserError: On all processes, another run is writing it.
    """
    with ExitStack() as held:
        free = [True]
        if process_state().is_main_process:
            try:
                held.enter_context(sole_writer(place))
            except UserError:
                free = [False]
        broadcast_object_list(free)
        if not free[0]:
            raise _busy(place)
        yield


def _busy(place: Path) -> UserError:
    return UserError(f"another process is writing {place}", "wait until it ends, or choose another --out")
