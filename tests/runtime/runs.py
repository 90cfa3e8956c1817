"""What tests of training runs compare, and a loss that stops them."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.randomness import BatchRng

TIMINGS = {"seconds", "tokens_per_second"}


def lines(out: Path, split: str | None = None) -> list[dict[str, Any]]:
    """The metrics without what the clock makes of them."""
    found = read_metrics(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in found if split in (None, line["split"])]


def tensors(out: Path) -> dict[str, Tensor]:
    """Averaged weights, weights and state of the optimisers."""
    return dict(load_file(out / "model.safetensors") | load_file(out / "state" / "state.safetensors"))


def assert_same_run(first: Path, second: Path) -> None:
    assert lines(first) == lines(second)
    ours, theirs = tensors(first), tensors(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class StopAt:
    """The toy's loss, which sends this process a signal while a given step of the run, from 1 on, is computed."""

    def __init__(self, toy: ModuleType, step: int, number: int) -> None:
        self.toy, self.step, self.number = toy, step, number

    def __call__(self, model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        if rng.step + 1 == self.step:
            os.kill(os.getpid(), self.number)
        return self.toy.toy_loss(model, x, rng)
