"""What the losses of the stages feed to their networks: augmentation and self-conditioning as the method has them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.config import AeConfig, DistillConfig
from diladiff_cli.core.gaussian import TanSchedule, diffuse
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.stages.distill import MeanFlowLoss, draw_times
from diladiff_cli.stages.train_ae import ae_loss
from diladiff_cli.stages.train_prior import prior_loss

ROWS = 2000
LENGTH, LATENTS, CHANNELS, WIDTH = 6, 3, 4, 8
TRUNK: dict[str, Any] = {"latents": LATENTS, "latent_width": CHANNELS, "width": WIDTH, "layers": 1, "heads": 2}


def rng_of(rows: int, step: int = 0) -> BatchRng:
    return BatchRng(0, step, range(rows), rows, torch.device("cpu"))


class FedToDecoder:
    """Stands in for the auto-encoder in a loss, with features and latents of ones."""

    def __init__(self, config: AeConfig) -> None:
        common = {"length": LENGTH, "latents": LATENTS, "latent_width": CHANNELS, "local_attention": True}
        self.autoencoder = AutoEncoder(
            encoder={"feature_width": WIDTH, "width": WIDTH, "layers": 1, "heads": 2} | common,
            decoder={"vocab_size": 9, "mask_id": 8, "width": WIDTH, "layers": 1, "heads": 2, "cross_layers": [0]}
            | common,
            stats_momentum=0.1,
        )
        x = torch.zeros(ROWS, LENGTH, dtype=torch.long)
        loss = ae_loss(lambda x: torch.ones(*x.shape, WIDTH), self.autoencoder, config, 8)  # type: ignore[arg-type]
        loss(self, x, rng_of(ROWS))  # type: ignore[arg-type]

    def __call__(
        self, features: Tensor, visible: Tensor, x_t: Tensor, is_masked: Tensor, corrupt: Any, targets: Tensor
    ) -> Tensor:
        self.features, self.visible = features, visible
        self.latents, self.seen = corrupt(torch.ones(len(features), LATENTS, CHANNELS))
        return torch.zeros(len(targets))


def share(chosen: Tensor) -> float:
    return float(chosen.double().mean())


@pytest.mark.parametrize("augmentation", ["strong", "mild", "soft", "dropout-50"])
def test_half_of_the_features_are_masked_and_half_noisy_with_the_strengths_of_the_preset(augmentation: str) -> None:
    config = AeConfig(augmentation=augmentation)
    strengths, fed = config.augmentation_strengths(), FedToDecoder(config)
    masked = ((fed.features == 0) | (fed.features == 1)).all(-1).all(-1)
    assert share(masked) == pytest.approx(0.5, abs=0.05)
    assert share(~fed.visible[masked]) == pytest.approx(strengths["p_feat_mask"], abs=0.03)
    assert fed.visible[~masked].all()
    noisy, sigma = fed.features[~masked], strengths["sigma_feat"]
    assert float(noisy.std()) == pytest.approx(sigma, abs=0.02)
    assert float(noisy.mean()) == pytest.approx((1 - sigma**2) ** 0.5, abs=0.02)


@pytest.mark.parametrize("augmentation", ["strong", "mild", "soft", "dropout-50"])
def test_half_of_the_latents_are_masked_and_half_at_times_replaced(augmentation: str) -> None:
    config = AeConfig(augmentation=augmentation)
    strengths, fed = config.augmentation_strengths(), FedToDecoder(config)
    replaced = ((fed.latents != 0) & (fed.latents != 1)).all(-1).all(-1)
    assert share(replaced) == pytest.approx(strengths["p_latent_drop"] / 2, abs=0.04)
    assert fed.seen[replaced].all()
    assert share(~fed.seen) == pytest.approx(strengths["p_latent_mask"] / 2, abs=0.04)


class Fed:
    """A network that keeps what it was given as its clean estimates, the input at ``place``, and what it made of it."""

    def __init__(self, network: torch.nn.Module, place: int) -> None:
        self.network, self.place = network, place
        self.given, self.made = list[Tensor](), list[Any]()

    def __call__(self, *inputs: Tensor) -> Any:
        self.given.append(inputs[self.place])
        self.made.append(self.network(*inputs))
        return self.made[-1]


def spread_out(network: torch.nn.Module) -> torch.nn.Module:
    """The network with weights large enough that its outputs differ from zero."""
    torch.manual_seed(1)
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


@pytest.mark.parametrize("share_wanted", [0.0, 0.5, 1.0])
def test_a_prior_gets_its_own_estimates_as_often_as_it_should(share_wanted: float) -> None:
    fed = Fed(spread_out(LatentPrior(schedule_d=9.0, **TRUNK)), 2)
    z_0 = torch.randn(400, LATENTS, CHANNELS, generator=torch.Generator().manual_seed(0))
    prior_loss(lambda batch: batch, TanSchedule(9.0), share_wanted)(fed, z_0, rng_of(400))  # type: ignore[arg-type]
    assert len(fed.given) == (1 if share_wanted == 0 else 2)
    assert not fed.given[0].any()
    assert not fed.given[-1].requires_grad
    conditioned = fed.given[-1].abs().sum((1, 2)) > 0
    assert share(conditioned) == share_wanted
    if share_wanted:
        assert torch.equal(fed.given[-1][conditioned], fed.made[0])  # of no more examples than need one


@pytest.mark.parametrize("share_wanted", [0.0, 0.5, 1.0])
def test_a_student_gets_estimates_by_its_own_velocity_as_often_as_it_should(share_wanted: float) -> None:
    config = DistillConfig(p_self_cond=share_wanted)
    teacher, student = (spread_out(kind(schedule_d=9.0, **TRUNK)) for kind in (LatentPrior, LatentStudent))
    use_plain_attention(student)
    assert isinstance(teacher, LatentPrior)
    fed = Fed(student, 3)
    z_0 = torch.randn(400, LATENTS, CHANNELS, generator=torch.Generator().manual_seed(0))
    MeanFlowLoss(lambda batch: batch, teacher, config)(fed, z_0, rng_of(400))  # type: ignore[arg-type]
    given = fed.given[-1]  # in the derivative
    conditioned = given.abs().sum((1, 2)) > 0
    assert share(conditioned) == share_wanted
    if share_wanted:
        rng = rng_of(400)
        t, _ = draw_times(rng, config, teacher.schedule)
        level = teacher.schedule(t)
        z_t = diffuse(z_0, rng.normal(LATENTS, CHANNELS), level)
        with torch.no_grad():
            velocity = student(z_t, t, t, torch.zeros_like(z_t))
        # v = alpha' z + sigma' eps and z_t = alpha z + sigma eps, solved for z
        columns = [x.view(-1, 1, 1) for x in (level.alpha, level.sigma, level.alpha_dot, level.sigma_dot)]
        alpha, sigma, d_alpha, d_sigma = columns
        wanted = (d_sigma * z_t - sigma * velocity) / (d_sigma * alpha - d_alpha * sigma)
        torch.testing.assert_close(given[conditioned], wanted[conditioned], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("way", ["ode", "sampled"])
def test_a_student_goes_along_the_velocity_of_its_teachers_estimate(way: str) -> None:
    config = DistillConfig(velocity=way, p_self_cond=0.0, guidance=1.5)
    teacher, student = (spread_out(kind(schedule_d=9.0, **TRUNK)) for kind in (LatentPrior, LatentStudent))
    use_plain_attention(student)
    fed, z_0 = Fed(student, 4), torch.randn(40, LATENTS, CHANNELS, generator=torch.Generator().manual_seed(0))
    MeanFlowLoss(lambda batch: batch, teacher, config)(fed, z_0, rng_of(40))  # type: ignore[arg-type]
    rng, schedule = rng_of(40), TanSchedule(9.0)
    t, _ = draw_times(rng, config, schedule)
    eps = rng.normal(LATENTS, CHANNELS)
    alpha, sigma, d_alpha, d_sigma, _ = (x.view(-1, 1, 1) for x in schedule(t))
    z_t = alpha * z_0 + sigma * eps
    with torch.no_grad():
        first = teacher(z_t, t, torch.zeros_like(z_t))
        second = teacher(z_t, t, first)
    estimate = second + 1.5 * (second - first)
    eps = eps if way == "sampled" else (z_t - alpha * estimate) / sigma
    torch.testing.assert_close(fed.given[-1], d_alpha * estimate + d_sigma * eps, rtol=1e-3, atol=1e-3)
