"""Locks that keep two runs from writing the same file or folder at once.

Not those of ``filelock``: they leave their file behind, and on some file systems without locks they refuse for ever.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import ParamSpec, TypeVar

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.folders import real
from diladiff_cli.runtime.processes import from_main, process_state

P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def sole_writer(place: Path, option: str = "--out") -> Iterator[bool]:
    """Keep others from writing a file or folder until the block ends, or this process does.

    The lock is an empty file beside ``place``, which a kill leaves there. Where none can be made, or the file system
    has no locks, nobody is kept away: whoever writes ``place`` will report what is wrong with it.

    Args:
        place: What is to be written; folders above it are made, and removed where they stay empty.
        option: What names it, for the error.

    Yields:
        Whether others are kept away.

    Raises:
        UserError: Another run is writing it.
    """
    where = real(place)
    file = where.with_name(f".{where.name}.lock") if where.name else where / ".lock"
    made = [folder for folder in file.parents if not folder.exists()]
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
    held = None
    try:
        with suppress(OSError):
            try:
                held = _locked(file)
            except BlockingIOError as error:
                remedy = f"wait until it ends, or choose another {option}"
                raise UserError(f"another run is writing {place}", remedy) from error
        yield held is not None
    finally:
        if held is not None:
            with suppress(OSError):
                if _is_at(held, file):  # while it is held: once it is not, it may be another's
                    file.unlink()
            os.close(held)
        with suppress(OSError):
            for folder in made:
                folder.rmdir()


@contextmanager
def sole_run(place: Path) -> Iterator[None]:
    """:func:`sole_writer` for processes that share a run, all of which call this: the main one holds the lock.

    Raises:
        UserError: On all processes, another run is writing it.
    """
    with ExitStack() as held:
        fault: UserError | None = None
        if process_state().is_main_process:
            try:
                held.enter_context(sole_writer(place))
            except UserError as error:
                fault = error
        fault = from_main(fault)
        if fault is not None:
            raise fault
        yield


def exclusive_out(stage: Callable[P, R]) -> Callable[P, R]:
    """Decorator of a stage whose processes write the folder ``out``: a :func:`sole_run`, but for a dry run."""
    asked = signature(stage)

    @wraps(stage)
    def locked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = asked.bind(*args, **kwargs).arguments
        with nullcontext() if given.get("dry_run") else sole_run(Path(given["out"])):
            return stage(*args, **kwargs)

    return locked


def _locked(file: Path) -> int | None:
    """A descriptor of the file with its lock; None where the system has none.

    Raises:
        BlockingIOError: Another run holds it.
        OSError: It cannot be made, or not be locked.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX system
        return None
    while True:
        is_new = not file.exists()
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except PermissionError:  # another user's, which can be locked all the same
            descriptor = os.open(file, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(descriptor, file):
                return descriptor
        except OSError as error:
            os.close(descriptor)
            if is_new and not isinstance(error, BlockingIOError):
                file.unlink(missing_ok=True)
            raise
        os.close(descriptor)  # of a file whose holder removed it meanwhile


def _is_at(descriptor: int, file: Path) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except FileNotFoundError:
        return False
