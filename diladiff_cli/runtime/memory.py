"""Peak memory of a piece of work, where the system can tell."""

import ctypes
import re
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Memory that new tensors could take; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is free but still held counts as free
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    machine = int(found[1]) * 1024 if found else None
    limits = [left for left in (machine, _left_in_group()) if left is not None]
    return min(limits, default=None)


def _left_in_group() -> int | None:
    """What a container's limit leaves; None without one."""
    try:
        limit, used = ((GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdecimal() else None


class PeakMemory:
    """Memory that a block of work takes at most, over what was taken before it.

    On a GPU that of tensors; on Linux that of the process (resident), else None.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        self._before: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
            return self
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free but still held would hide what is taken
            CLEAR.write_text("5")  # sets the peak back to what is resident now
        except (OSError, AttributeError):
            return self
        self._before = _resident("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else _resident("VmHWM")
        self.bytes = None if peak is None else max(0, peak - self._before)


def _resident(name: str) -> int | None:
    try:
        found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
