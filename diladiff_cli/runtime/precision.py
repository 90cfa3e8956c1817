"""Which precision a machine knows, and which suits its matrix products."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from diladiff_cli.config import StageConfig
from diladiff_cli.notes import say
from diladiff_cli.runtime.folders import restore
from diladiff_cli.runtime.processes import from_main, fsdp_was_asked_for, process_state
from diladiff_cli.runtime.state import read_progress

AUTO = "auto"
CPU_BF16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")  # x86-64 and ARM64

Config = TypeVar("Config", bound=StageConfig)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bf16 matrices.

    A CPU with AVX2 alone takes a hundred times as long for them as in float32. On Apple's nobody has tried.
    """
    if device.type == "cpu":
        return sys.platform != "darwin" and any(_capability(name) for name in CPU_BF16)
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type != "mps"


def has_float64(device: torch.device) -> bool:
    """Whether a device has float64, in which tokens are drawn."""
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):  # Apple's GPUs, and others
        return False
    return True


def _capability(name: str) -> bool:
    """Whether torch reports a CPU instruction set; versions without get_capabilities() know those of x86-64 alone."""
    if hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu.get_capabilities().get(name, False))
    known = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return bool(getattr(torch.cpu, known.get(name, ""), bool)())


def resolved_precision(precision: str, device: torch.device | None = None) -> str:
    """``bf16`` or ``fp32``: the one asked for, and for ``auto`` the faster one on a device (None: this process's)."""
    if precision != AUTO:
        return precision
    return "bf16" if has_fast_bf16(process_state().device if device is None else device) else "fp32"


def precision_of_main(precision: str) -> str:
    """:func:`resolved_precision` of the main process, for all processes, which must all call it, whatever they want."""
    process_state()
    return from_main(resolved_precision(precision))


def settled_for_device(config: Config, out: Path, resume: bool | None) -> Config:
    """A training configuration with what machine and launcher decide: precision, and ``shard`` where FSDP is asked for.

    A run in ``out`` that may go on keeps its own precision.
    """
    if fsdp_was_asked_for() and not config.shard:
        config = replace(config, shard=True)
        say("FSDP, which the launcher asks for, is done as --shard does it; its other settings have no effect")
    precision = config.precision
    if precision == AUTO:
        restore(out)
        stored = None if resume is False else read_progress(out / "state")
        precision = AUTO if stored is None else stored["training"].get("precision", AUTO)
    of_main = precision_of_main(precision)
    return replace(config, precision=of_main) if config.precision == AUTO else config
