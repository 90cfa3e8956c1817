"""Tiny trainings for the loop: a toy network, and MeanFlow on tiny latents.

As a script, ``toy_run.py OUT SETTINGS [--meanflow] [--slow] [--resume]``, one run in a process of its own: prints a
line when it begins to compute a micro-batch, and ends with 128 plus the signal's number when interrupted.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diladiff_cli.config import DistillConfig, MdlmConfig, StageConfig
from diladiff_cli.core.times import low_discrepancy
from diladiff_cli.data.order import batch_rows
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.networks.moments import RunningMoments
from diladiff_cli.runtime.isolation import isolated_run
from diladiff_cli.runtime.loop import train
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.session import Interrupted, Session
from diladiff_cli.stages.distill import MeanFlowLoss

ROWS = 20
DATA = torch.randn(ROWS, 3, 4, generator=torch.Generator().manual_seed(0)) + 2
LATENTS = {"latents": 3, "latent_width": 4, "width": 8, "layers": 1, "heads": 2}


class Toy(nn.Module):
    """A residual network with a matrix for Muon and running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs = nn.Linear(4, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 8, bias=False)])
        self.out = nn.Linear(8, 4)
        self.moments = RunningMoments((4,), 0.1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        if self.training:
            self.moments.collect(x)
        h = self.inputs(x) + t[:, None, None]
        h = h + torch.tanh(self.blocks[0](h))
        found: Tensor = self.out(h)
        return found


def toy_loss(model: nn.Module, x: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
    """Denoising, with every kind of random number that a stage may draw."""
    t = low_discrepancy(rng.shared_uniform(), rng.positions, rng.batch_size)
    noisy = x + t[:, None, None] * rng.normal(3, 4)
    weight = 0.5 + rng.uniform()
    error = (model(noisy, t) - x).square().mean((1, 2))
    return (error * weight).mean(), {"error": error.mean()}


def settings(**changes: Any) -> MdlmConfig:
    values: dict[str, Any] = {
        "batch_size": 8,
        "max_steps": 12,
        "learning_rate": 0.02,
        "warmup_steps": 3,
        "optimizer": "muon",
        "weight_decay": 0.01,
        "ema_decay": 0.9,
        "precision": "fp32",
        "eval_every": 4,
        "save_every": 5,
        "log_every": 1,
    }
    return MdlmConfig(**values | changes)


def meanflow_settings(**changes: Any) -> DistillConfig:
    values: dict[str, Any] = {
        "batch_size": 8,
        "max_steps": 5,
        "learning_rate": 0.01,
        "warmup_steps": 0,
        "tangent_warmup_steps": 2,
        "precision": "fp32",
        "log_every": 1,
    }
    return DistillConfig(**values | changes)


def fetch(rows: np.ndarray) -> Tensor:
    return DATA[rows]


def make_run(config: StageConfig, tokenizer: Path, **changes: Any) -> Run:
    """The toy, ready to train; ``changes`` replace fields of :class:`Run`."""
    torch.manual_seed(config.seed)
    meanflow = isinstance(config, DistillConfig)
    values: dict[str, Any] = {
        "model": toy_student() if meanflow else Toy(),
        "loss_fn": meanflow_loss(config) if isinstance(config, DistillConfig) else toy_loss,
        "fetch": fetch,
        "tokens_per_row": 3,
        "flops_per_row": 1.0,
        "validate": validate,
        "after_step": (lambda model: None) if meanflow else (lambda model: model.moments.commit()),
        "row_order": partial(order, config),
        "artifact": {
            "stage": "student" if meanflow else "mdlm",
            "network": {},
            "parents": {},
            "data": {"fingerprint": "toy"},
            "tokenizer": {},
        },
    }
    return Run(**values | changes)


def toy_student() -> LatentStudent:
    model = LatentStudent(schedule_d=10.0, **LATENTS)
    use_plain_attention(model)
    return model


def order(config: StageConfig, drawn: int) -> np.ndarray:
    return batch_rows(config.seed, drawn, config.batch_size, ROWS)


def validate(model: nn.Module) -> dict[str, Any]:
    return {"loss": float(sum(p.square().sum() for p in model.parameters())), "curve": [1, 2]}


def meanflow_loss(config: DistillConfig) -> Callable[..., Any]:
    """Distillation of a random, frozen prior."""
    teacher = LatentPrior(schedule_d=10.0, **LATENTS).requires_grad_(False).eval()
    for parameter in teacher.parameters():
        nn.init.normal_(parameter, std=0.3)
    return MeanFlowLoss(lambda batch: batch, teacher, config)


@isolated_run
def toy_train(config: StageConfig, out: Path, resume: bool | None = None, **changes: Any) -> dict[str, Any]:
    """One call of the loop; the tokenizer lies beside ``out``."""
    tokenizer = out.parent / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    session = Session(config, out)
    return train(make_run(config, tokenizer, **changes), session, config, out, resume)


def main() -> None:
    out, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
    config = meanflow_settings(**changes) if "--meanflow" in sys.argv else settings(**changes)

    loss_fn = make_run(config, out).loss_fn

    def slow_loss(model: nn.Module, x: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
        sys.stdout.write("step\n")
        sys.stdout.flush()
        time.sleep(0.2 if "--slow" in sys.argv else 0)
        return loss_fn(model, x, rng)

    try:
        toy_train(config, out, True if "--resume" in sys.argv else None, loss_fn=slow_loss)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signal_number)


if __name__ == "__main__":
    main()
