"""How the C library's allocator deals with freed memory."""

import ctypes
import os

KEEP_BELOW = 256 << 20  # bytes of a buffer: more than the logits of a training step that exist at once
MOST_OF_OLDER = 32 << 20  # that older versions of glibc accept
TUNES = ("TRIM_THRESHOLD_", "MMAP_THRESHOLD_", "MMAP_MAX_", "TOP_PAD_")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_NEVER = -1


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
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # TypeError: on Windows
        return False
    larger = mallopt(_M_MMAP_THRESHOLD, KEEP_BELOW) or mallopt(_M_MMAP_THRESHOLD, MOST_OF_OLDER)
    return bool(larger and mallopt(_M_TRIM_THRESHOLD, _NEVER))
