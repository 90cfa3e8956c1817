"""What a stage hands to the training loop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from diladiff_cli.runtime.optim import LrOverride
from diladiff_cli.runtime.randomness import BatchRng

LossFn = Callable[[nn.Module, Tensor, BatchRng], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Run:
    """What a stage hands to :func:`diladiff_cli.runtime.loop.train`.

    Attributes:
        model: The network to train.
        loss_fn: ``(model, batch, rng) -> (loss, metrics)``, a mean over the micro-batch.
        fetch: Row numbers -> batch on the CPU.
        tokens_per_row: Tokens of a row, for the rate.
        flops_per_row: Floating-point operations of a training step per row, for the model FLOP utilisation.
        validate: ``(averaged model) -> metrics``.
        artifact: The artifact's fields apart from weights and progress.
        row_order: How many rows were drawn before -> row numbers of a global batch.
        lr_override: How the learning rate of a parameter differs from the run's, by its name.
        prepare: Called before the first step of a run, not where one goes on: what the network takes from the data.
        after_step: Called on the network after each optimiser step.
        before_use: Called on the averaged network before it is validated or written.
        compile_body: Compiles the expensive part of what a step runs, in place.
        notes: Lines for the user on what the figures mean.
    """

    model: nn.Module
    loss_fn: LossFn
    fetch: Callable[[np.ndarray], Tensor]
    tokens_per_row: int
    flops_per_row: float
    validate: Callable[[Any], dict[str, Any]]
    artifact: Mapping[str, Any]
    row_order: Callable[[int], np.ndarray]
    lr_override: Callable[[str], LrOverride] = lambda _: LrOverride()
    prepare: Callable[[], None] = lambda: None
    after_step: Callable[[Any], None] = lambda _: None
    before_use: Callable[[Any], None] = lambda _: None
    compile_body: Callable[[Any], None] = lambda _: None
    notes: tuple[str, ...] = ()

    @property
    def begins_trained(self) -> bool:
        """Whether the network begins as another one was trained, whose figures are wanted before the first step."""
        return "init" in self.artifact.get("also", {})
