"""The one exception that users see, and what of others they can mend: a lack of memory, and files that fail."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """Something the user can mend: printed as ``error: what; how to mend it``, without traceback.

    Args:
        what: What is wrong, naming the file, option or value concerned.
        remedy: What to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on an accelerator or on the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error)
    )


def system_error(error: BaseException) -> OSError | None:
    """The system's error behind an exception: itself, or the one that a compiled library put into its words."""
    if isinstance(error, OSError):
        return error
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, Exception) else None
    return None if found is None else OSError(int(found[1]), os.strerror(int(found[1])))


def _related(first: Path, second: Path) -> bool:
    a, b = Path(os.path.realpath(first)), Path(os.path.realpath(second))
    return a.is_relative_to(b) or b.is_relative_to(a)


REMEDIES = {  # of a folder that cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), "free space or choose another --out"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its permissions or choose another --out"),
}


@contextmanager
def writing(place: Path, own: Path | None = None) -> Iterator[None]:
    """Turns errors of the system inside the block into one line.

    Args:
        place: What is written.
        own: Where the writing happens, if not there; an error at a file elsewhere is one of reading.

    Raises:
        UserError: A file cannot be written, or one that is needed cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found = system_error(error)
        if found is None:
            raise
        reason = found.strerror or str(found)
        file = found.filename
        if isinstance(file, str) and not any(_related(Path(file), home) for home in (place, own or place)):
            raise UserError(f"cannot use {file} ({reason})", "check that it is there and can be read") from error
        remedy = REMEDIES.get(found.errno or 0, "choose another --out")
        raise UserError(f"cannot write {place} ({reason})", remedy) from error
