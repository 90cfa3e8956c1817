"""Memory: how much work takes at most, how much is left, and what to do where it does not suffice."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from diladiff_cli.errors import is_out_of_memory
from diladiff_cli.notes import say
from diladiff_cli.runtime.heap import c_library

T = TypeVar("T")

MACHINE, STATUS, CLEAR = Path("/proc/meminfo"), Path("/proc/self/status"), Path("/proc/self/clear_refs")
GROUP = Path("/sys/fs/cgroup")


def available_bytes(device: torch.device) -> int | None:
    """Memory that new tensors could take; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what is free but still held counts as free
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [left for left in (_proc_bytes(MACHINE, "MemAvailable"), _left_in_group()) if left is not None]
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
            c_library().malloc_trim(0)  # what is free but still held would hide what is taken
            CLEAR.write_text("5")  # sets the peak back to what is resident now
        except (OSError, AttributeError, TypeError):  # no Linux
            return self
        self._before = _proc_bytes(STATUS, "VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            return
        cuda = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else _proc_bytes(STATUS, "VmHWM")
        self.bytes = None if peak is None else max(0, peak - self._before)


def _proc_bytes(file: Path, name: str) -> int | None:
    """An entry of one of Linux's files on memory; None elsewhere."""
    try:
        match = re.search(rf"{name}:\s+(\d+) kB", file.read_text())
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


class Halving:
    """Does work in smaller parts from when memory ran out, for work whose result does not depend on its parts.

    Args:
        what: What is worked on, for the line that says so.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        self.limit: int | None = None  # how many fitted, once all did not

    def __call__(self, work: Callable[[range], T], items: range) -> list[T]:
        """The results of ``work`` on parts of ``items``, in their order.

        Raises:
            Exception: What ``work`` raises, also where memory does not suffice for a single item.
        """
        results: list[T] = []
        done = 0
        while done < len(items):
            part = items[done : done + (self.limit or len(items))]
            result = self._attempt(work, part)
            if result is None:  # outside of the handler, whose traceback would hold what was computed
                self.limit = (len(part) + 1) // 2
                say(f"out of memory with {len(part)} {self.what} at once; going on with {self.limit}", everywhere=True)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                elif torch.backends.mps.is_available():
                    torch.mps.empty_cache()
                continue
            results += result
            done += len(part)
        return results

    def _attempt(self, work: Callable[[range], T], part: range) -> list[T] | None:
        try:
            return [work(part)]
        except Exception as error:
            if len(part) == 1 or not is_out_of_memory(error):
                raise
            return None
