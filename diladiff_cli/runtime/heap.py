"""How the C library's allocator deals with freed memory."""

import ctypes
import os

KEEP_BELOW = 256 << 20  # bytes of a buffer: more than the logits of a training step that exist at once
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have freed buffers below 256 MB reused from now on, instead of returned to the system and asked for again.

    Left alone, glibc returns what the tensors of every step on a CPU took, and the next step pays for a page fault
    every 4 KB: up to half of its time. The price is that a process keeps the most that such buffers ever took.

    Returns:
        Whether it does: not with another C library, nor where the environment already tunes glibc's.
    """
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(n.startswith("MALLOC_") for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: on Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, KEEP_BELOW)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
