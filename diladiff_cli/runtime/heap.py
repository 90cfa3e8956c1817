"""How the C library's allocator deals with freed memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEEP_BELOW = 256 << 20  # bytes of a buffer: more than the logits of a training step that exist at once
ALWAYS_RETURNED = 32 << 20  # bytes above which glibc's own rule keeps no buffer, and older ones cannot be asked to
TUNES = ("TRIM_THRESHOLD_", "MMAP_THRESHOLD_", "MMAP_MAX_", "TOP_PAD_")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1
_kept = False  # the state of this process's C library, which cannot be asked for it


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
    global _kept
    if not _kept:
        _kept = _set(KEEP_BELOW, _NEVER) or _set(ALWAYS_RETURNED, _NEVER)
    return _kept


@contextmanager
def returning_freed_memory() -> Iterator[bool]:
    """Undoes :func:`keep_freed_memory` for a while, for buffers above :data:`ALWAYS_RETURNED` as other programs run.

    What glibc does with smaller ones depends on what was freed before; inside they are kept up to twice that size.

    Yields:
        Whether there was anything to undo.
    """
    global _kept
    if not _kept:
        yield False
        return
    _set(ALWAYS_RETURNED, 2 * ALWAYS_RETURNED)
    c_library().malloc_trim(0)
    _kept = False
    try:
        yield True
    finally:
        keep_freed_memory()


def _set(mmap_threshold: int, trim_threshold: int) -> bool:
    """Have glibc return buffers, and what is free at the heap's end, from so many bytes on; whether it agreed."""
    try:
        mallopt = c_library().mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: on Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, mmap_threshold) and mallopt(_M_TRIM_THRESHOLD, trim_threshold))


def c_library() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None)
