"""How the C library's allocator deals with freed memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEEP_BELOW = 256 << 20  # bytes of a buffer: more than the logits of a training step that exist at once
MOST_OF_OLDER = 32 << 20  # that older versions of glibc accept
TUNES = ("TRIM_THRESHOLD_", "MMAP_THRESHOLD_", "MMAP_MAX_", "TOP_PAD_")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1
_asked_for = False  # of this process's C library


def keep_freed_memory() -> bool:
    """Have freed buffers below 256 MB (32 in older glibc) reused instead of returned to the system and asked for again.

    Left alone, glibc returns what the tensors of every step on a CPU took, and the next step pays for a page fault
    every 4 KB: half of the time of a training step at a vocabulary of 30,522. The price is that a process keeps the
    most that such buffers ever took.

    Returns:
        Whether glibc agreed: there may be another C library, and where the environment tunes it nothing is asked for.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(f"MALLOC_{name}" in os.environ for name in TUNES):
        return False
    global _asked_for
    if not _asked_for:
        _asked_for = _set(KEEP_BELOW, _NEVER) or _set(MOST_OF_OLDER, _NEVER)
    return _asked_for


@contextmanager
def returning_freed_memory() -> Iterator[bool]:
    """Undoes :func:`keep_freed_memory` for a while, as other programs run.

    Of itself glibc returns buffers that are larger than those that were freed before, and always those above 32 MB:
    that is the rule inside.

    Yields:
        Whether there was anything to undo.
    """
    global _asked_for
    if not _asked_for:
        yield False
        return
    _asked_for = not (_set(MOST_OF_OLDER, 2 * MOST_OF_OLDER) and _c_library().malloc_trim(0) in (0, 1))
    try:
        yield not _asked_for
    finally:
        keep_freed_memory()


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    """Whether glibc accepts both; the first alone where it does not accept the second."""
    try:
        mallopt = _c_library().mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: on Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold))


def _c_library() -> Any:
    return ctypes.CDLL(None)
