"""How measurements are timed, and on what they were made."""

import platform
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from diladiff_cli.runtime.memory import available_bytes

T = TypeVar("T")
ROUNDS = 3  # pairs of measurements, of which the median counts


def fits(needed: int, device: torch.device) -> bool:
    """Whether so many bytes would leave a fifth of what is free."""
    free = available_bytes(device)
    return free is None or needed <= 0.8 * free


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What ``work`` returns, and the seconds until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long ``work`` takes, until the device has done it."""
    return timed(work, device)[1]


def machine(device: torch.device) -> str:
    """The device and torch's version, as a figure should name them."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"


@cache
def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name where the system gives it, with family and model: different ones share a name."""
    try:
        fields = [line.split(":", 1) for line in file.read_text().splitlines() if ":" in line]
    except (OSError, UnicodeDecodeError):
        fields = []
    core = {name.strip(): value.strip() for name, value in reversed(fields)}  # those of the first core
    names = ("model name", "cpu family", "model")
    if any(name not in core for name in names):
        return platform.processor() or "CPU"
    return "{} (family {}, model {})".format(*(core[name] for name in names))


def megabytes(count: int | None) -> float | None:
    """Bytes as megabytes."""
    return None if count is None else count / 1e6
