"""Objective, network and sampler of distillation together: a student of a mixture whose posterior mean is known."""

import math

import pytest
import torch
from torch import Tensor, nn

from diladiff_cli.config import DistillConfig
from diladiff_cli.core.gaussian import TanSchedule, expand
from diladiff_cli.core.ode import average_velocity_steps, probability_flow
from diladiff_cli.networks.latent import LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.stages.distill import MeanFlowLoss

pytestmark = pytest.mark.slow

D = 1.0
MEANS, SHARES, STD = torch.tensor([-1.2, 0.9]), torch.tensor([0.3, 0.7]), 0.4
STEPS, BATCH = 800, 1024


def mixture_samples(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 1) clean latents."""
    which = (torch.rand(n, generator=generator) < SHARES[1]).long()
    return (MEANS[which] + STD * torch.randn(n, generator=generator))[:, None, None]


class ExactPrior(nn.Module):
    """E[z_0 | z_t] of the mixture, called as the prior is."""

    schedule = TanSchedule(D)

    def forward(self, z: Tensor, t: Tensor, _z_self: Tensor) -> Tensor:
        level = self.schedule(t)
        alpha, sigma = expand(level.alpha, z), expand(level.sigma, z)
        variance = (alpha * STD) ** 2 + sigma**2
        shares = (SHARES.log() - (z - alpha * MEANS) ** 2 / (2 * variance)).softmax(-1)
        return (shares * (MEANS + alpha * STD**2 / variance * (z - alpha * MEANS))).sum(-1, keepdim=True)


def new_student() -> LatentStudent:
    """Of one layer, which learns the mixture more surely; derivatives through several have tests of their own."""
    shape = {"latents": 1, "latent_width": 1, "width": 32, "layers": 1, "heads": 2}
    student = LatentStudent(schedule_d=D, positions="learned", **shape)
    use_plain_attention(student)
    return student


def train(student: LatentStudent) -> None:
    loss_fn = MeanFlowLoss(
        lambda batch: batch,
        ExactPrior(),  # type: ignore[arg-type]
        DistillConfig(tangent_warmup_steps=STEPS // 4, adaptive_constant=0.5),
    )
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3, betas=(0.9, 0.99))
    annealed = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.cos(math.pi / 2 * step / STEPS))
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        rng = BatchRng(0, step, range(BATCH), BATCH, torch.device("cpu"))
        loss, _ = loss_fn(student, mixture_samples(BATCH, generator), rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        annealed.step()


def wasserstein(found: Tensor, wanted: Tensor) -> float:
    return float((found.flatten().sort().values - wanted.flatten().sort().values).abs().mean())


@pytest.fixture(scope="module")
def students() -> tuple[LatentStudent, LatentStudent]:
    """One as initialised and one trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained, trained = new_student(), new_student()
    train(trained)
    return untrained, trained


@pytest.mark.parametrize(("steps", "gamma", "far"), [(2, 0.0, 0.1), (2, 0.4, 0.12), (5, 0.0, 0.06), (5, 0.8, 0.12)])
@torch.no_grad()
def test_a_trained_student_samples_the_mixture_in_few_steps(
    students: tuple[LatentStudent, LatentStudent], steps: int, gamma: float, far: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    wanted = mixture_samples(20_000, generator)
    z = torch.randn(wanted.shape, generator=generator)
    noises = torch.randn(20_000, steps - 1, 1, 1, generator=generator)
    untrained, trained = (average_velocity_steps(u, z, ExactPrior.schedule, steps, noises, gamma) for u in students)
    assert wasserstein(trained, wanted) < far
    assert wasserstein(untrained, wanted) > 0.4
    assert float((trained > 0).double().mean()) == pytest.approx(float(SHARES[1]), abs=0.06)


@torch.no_grad()
def test_two_steps_of_the_student_beat_two_ddim_steps_of_its_teacher(
    students: tuple[LatentStudent, LatentStudent],
) -> None:
    generator = torch.Generator().manual_seed(3)
    wanted = mixture_samples(20_000, generator)
    z = torch.randn(wanted.shape, generator=generator)
    coarse, fine = (probability_flow(ExactPrior(), z, ExactPrior.schedule, steps) for steps in (2, 100))
    found = average_velocity_steps(students[1], z, ExactPrior.schedule, 2)
    assert wasserstein(fine, wanted) < 0.03  # the teacher is that of the mixture
    assert wasserstein(found, wanted) < 0.7 * wasserstein(coarse, wanted)
