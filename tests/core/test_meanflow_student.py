"""The objective and the sampler together: a student of a mixture whose velocity is known exactly."""

import math

import pytest
import torch
from torch import Tensor, nn

from diladiff_cli.core.gaussian import TanSchedule, clean_estimate, diffuse, expand, velocity
from diladiff_cli.core.objectives import adaptive_loss, meanflow_target
from diladiff_cli.core.ode import average_velocity_steps, ddim
from diladiff_cli.core.times import ordered_pair

SCHEDULE = TanSchedule(1.0)
MEANS, SHARES, STD = torch.tensor([-1.2, 0.9]), torch.tensor([0.3, 0.7]), 0.4

BATCH = 256


def mixture_samples(n: int, generator: torch.Generator) -> Tensor:
    """(n, 1, 1) clean latents."""
    which = (torch.rand(n, generator=generator) < SHARES[1]).long()
    return (MEANS[which] + STD * torch.randn(n, generator=generator))[:, None, None]


def exact_velocity(z: Tensor, t: Tensor) -> Tensor:
    """From E[z_0 | z_t] of the mixture."""
    level = SCHEDULE(t)
    alpha, sigma = expand(level.alpha, z), expand(level.sigma, z)
    variance = (alpha * STD) ** 2 + sigma**2
    shares = (SHARES.log() - (z - alpha * MEANS) ** 2 / (2 * variance)).softmax(-1)
    clean = (shares * (MEANS + alpha * STD**2 / variance * (z - alpha * MEANS))).sum(-1, keepdim=True)
    return velocity(z, clean, level)


class TinyStudent(nn.Module):
    """The product's parameterisation, u = a z_t - b F, around a small perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))

    def forward(self, z: Tensor, t: Tensor, r: Tensor, _z_self: Tensor) -> Tensor:
        a, b = SCHEDULE.rotation(t, r)
        direction = self.net(torch.cat([z, expand(t, z), expand(r, z)], dim=-1))
        return expand(a, z) * z - expand(b, z) * direction


def train(student: TinyStudent, steps: int, generator: torch.Generator) -> None:
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-2)
    annealed = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: math.cos(math.pi / 2 * step / steps))
    for step in range(steps):
        z_0 = mixture_samples(BATCH, generator)
        t, r = ordered_pair(*torch.rand(2, BATCH, generator=generator))
        t, choice = t.clamp(min=1e-3), torch.rand(BATCH, generator=generator)
        r = torch.where(choice < 0.25, t, torch.where(choice > 0.75, torch.zeros_like(r), r))
        z_t = diffuse(z_0, torch.randn(z_0.shape, generator=generator), SCHEDULE(t))
        tangent_scale = min(1.0, 3 * step / steps)
        u, target = meanflow_target(
            lambda z, end, start: student(z, end, start, z), z_t, t, r, exact_velocity(z_t, t), tangent_scale
        )
        loss = adaptive_loss(u, target, 0.5)[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        annealed.step()


def wasserstein(found: Tensor, wanted: Tensor) -> float:
    return float((found.flatten().sort().values - wanted.flatten().sort().values).abs().mean())


@pytest.fixture(scope="module")
def students() -> tuple[TinyStudent, TinyStudent]:
    """One as initialised and one trained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        untrained, trained = TinyStudent(), TinyStudent()
    train(trained, 400, torch.Generator().manual_seed(1))
    return untrained, trained


@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.0), (2, 0.0), (2, 0.8)])
@torch.no_grad()
def test_a_trained_student_samples_the_mixture_in_few_steps(
    students: tuple[TinyStudent, TinyStudent], steps: int, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(2)
    wanted = mixture_samples(20_000, generator)
    z, noises = torch.randn(wanted.shape, generator=generator), torch.randn(20_000, 1, 1, 1, generator=generator)
    untrained, trained = (average_velocity_steps(u, z, SCHEDULE, steps, noises, gamma) for u in students)
    assert wasserstein(trained, wanted) < 0.08
    assert wasserstein(untrained, wanted) > 0.5
    assert float((trained > 0).double().mean()) == pytest.approx(float(SHARES[1]), abs=0.03)


@torch.no_grad()
def test_two_steps_of_the_student_beat_two_ddim_steps_on_the_exact_velocity(
    students: tuple[TinyStudent, TinyStudent],
) -> None:
    generator = torch.Generator().manual_seed(3)
    wanted = mixture_samples(20_000, generator)
    z = torch.randn(wanted.shape, generator=generator)
    coarse, fine = (
        ddim(lambda x, t, _: clean_estimate(x, exact_velocity(x, t), SCHEDULE(t)), z, SCHEDULE, steps)
        for steps in (2, 100)
    )
    found = average_velocity_steps(students[1], z, SCHEDULE, 2)
    assert wasserstein(fine, wanted) < 0.03  # the velocity is that of the mixture
    assert wasserstein(found, wanted) < 0.7 * wasserstein(coarse, wanted)
