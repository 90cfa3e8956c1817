"""The prior: times of its validation, and estimates that it never saw."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.train_prior import prior_figures, train_prior

from ..chain import Chain, prior_config


def test_the_loss_of_a_prior_is_over_the_same_times_in_batches_of_any_size() -> None:
    class Noted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.times: list[Tensor] = []

        def forward(self, z_t: Tensor, t: Tensor, z_self: Tensor) -> Tensor:
            self.times.append(t)
            return torch.zeros_like(z_t)

    z_0, rows = torch.randn(30, 4, 3, generator=torch.Generator().manual_seed(0)), 30
    for size in (30, 7, 1):
        model, batches = Noted(), z_0.split(size)
        prior_figures(model, TanSchedule(10.0), batches)
        last = torch.cat(model.times[-2 * len(batches) :: 2])  # every batch has an estimate, and one given that
        torch.testing.assert_close(last.sort().values, (torch.arange(rows) + 0.5) / rows)


@pytest.mark.parametrize("p_self_cond", [0.0, 0.5])
def test_an_estimate_that_was_never_trained_with_changes_nothing(
    tiny_chain: Chain, tmp_path: Path, p_self_cond: float
) -> None:
    train_prior(prior_config(p_self_cond=p_self_cond), ae=tiny_chain.ae, out=tmp_path / "prior")
    artifact = load_artifact(tmp_path / "prior")
    model, shape = build(artifact), [artifact.network[name] for name in ("latents", "latent_width")]
    z_t, z_self = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        changes = not torch.equal(model(z_t, t, z_self), model(z_t, t, torch.zeros_like(z_self)))
    assert changes == (p_self_cond > 0)
