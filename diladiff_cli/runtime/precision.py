"""Which precision of matrix products suits the machine."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from diladiff_cli.config import StageConfig
from diladiff_cli.runtime.folders import restore
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.runtime.state import read_progress

AUTO = "auto"
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86-64 and ARM64

Config = TypeVar("Config", bound=StageConfig)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies bf16 matrices in hardware; a CPU that does not takes a hundred times as long."""
    if device.type == "cpu":
        # Younger than the oldest torch that serves.
        capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        return any(capabilities.get(name, False) for name in CPU_BF16)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "mps"


def settled_precision(precision: str, device: torch.device | None = None) -> str:
    """``bf16`` or ``fp32``: the one asked for, and for ``auto`` the faster one on a device (None: this process's)."""
    if precision != AUTO:
        return precision
    return "bf16" if has_fast_bf16(process_state().device if device is None else device) else "fp32"


def settled(config: Config, out: Path, resume: bool | None) -> Config:
    """A training configuration with its precision settled; a run in ``out`` that may go on keeps its own."""
    if config.precision != AUTO:
        return config
    restore(out)
    stored = None if resume is False else read_progress(out / "state")
    if stored is not None:
        return replace(config, precision=stored["training"]["precision"])
    return replace(config, precision=settled_precision(AUTO))
