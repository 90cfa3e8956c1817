import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from diladiff_cli.core.gaussian import TanSchedule, expand
from diladiff_cli.core.masking import elbo_weight
from diladiff_cli.core.objectives import (
    adaptive_loss,
    along_ode,
    estimates_of_some,
    masked_nll,
    meanflow_target,
    per_example_mse,
    token_nll,
)

SCHEDULE = TanSchedule(5.0)
MEAN, STD = 1.5, 0.4


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_flow(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """From t to r along the ODE of latents N(MEAN, STD^2), whose quantiles it keeps."""
    here, there = SCHEDULE(t), SCHEDULE(r)
    scale = ((there.alpha * STD) ** 2 + there.sigma**2).sqrt() / ((here.alpha * STD) ** 2 + here.sigma**2).sqrt()
    return expand(there.alpha, z) * MEAN + expand(scale, z) * (z - expand(here.alpha, z) * MEAN)


def exact_velocity(z: Tensor, t: Tensor) -> Tensor:
    """The flow's derivative with respect to where it goes, at where it starts."""
    return torch.func.jvp(lambda r: exact_flow(z, t, r), (t,), (torch.ones_like(t),))[1]


def exact_average(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    return (z - exact_flow(z, t, r)) / expand(t - r, z)


class SmallNetwork(nn.Module):
    """A smooth function of (z, t, r) in double precision."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).double()
        for i, parameter in enumerate(self.parameters()):
            parameter.data = randn(*parameter.shape, seed=i) / 2

    def forward(self, z: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return self.net(torch.cat([z, t[:, None], r[:, None]], dim=1))


Z, V = randn(6, 2, seed=10), randn(6, 2, seed=11)
T, R = torch.linspace(0.4, 1, 6, dtype=torch.float64), torch.linspace(0, 0.3, 6, dtype=torch.float64)


def test_masked_nll_is_the_plain_formula() -> None:
    logits, targets = randn(5, 7, seed=0), torch.tensor([0, 6, 3, 3, 2])
    weights = torch.tensor([1.0, 2.0, 0.5, 0.0, 4.0])
    wanted = 0.0
    for row, target, weight in zip(logits.tolist(), targets.tolist(), weights.tolist(), strict=True):
        wanted -= weight * (row[target] - math.log(sum(math.exp(value) for value in row)))
    nll = token_nll(lambda hidden: hidden, logits, targets, 5)
    assert float(masked_nll(nll, weights, 20)) == pytest.approx(wanted / 20, rel=1e-6)


def test_masked_nll_of_micro_batches_averages_to_that_of_the_batch() -> None:
    nll, weights = randn(12, seed=1), torch.ones(12)
    parts = [masked_nll(nll[i], weights[i], 20) for i in (slice(0, 3), slice(3, 12))]
    torch.testing.assert_close(sum(parts) / 2, masked_nll(nll, weights, 40))


def test_loss_without_masked_tokens_is_zero() -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    nll = token_nll(lambda hidden: hidden, torch.zeros(0, 7), nothing, 4)
    assert masked_nll(nll, torch.zeros(0), 20) == 0


@pytest.mark.parametrize("chunk", [1, 3, 4, 11])
def test_chunks_have_the_losses_and_gradients_of_the_whole(chunk: int) -> None:
    head = nn.Linear(5, 7)
    hidden, targets, largest = randn(11, 5, seed=5).float().requires_grad_(), torch.arange(11) % 7, []

    def watched(some: Tensor) -> Tensor:
        largest.append(len(some))
        return head(some)

    found = []
    for size in (chunk, 11):
        nll = token_nll(watched, hidden, targets, size)
        gradients = torch.autograd.grad(nll.square().sum(), [hidden, head.weight, head.bias])
        found.append([nll, *gradients])
    torch.testing.assert_close(found[0], found[1])
    assert max(largest[:-1]) == chunk
    assert len(largest) == 1 + (1 if chunk == 11 else 2 * -(-11 // chunk))  # again in the backward pass


def test_exact_weight_makes_the_loss_of_a_uniform_model_the_log_of_its_vocabulary() -> None:
    length, kinds = 8, 7
    t = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    masked = torch.rand(20_000, length, generator=torch.Generator().manual_seed(2), dtype=torch.float64) < t[:, None]
    weights = elbo_weight(t)[:, None].expand_as(masked)[masked]
    nll = torch.full((len(weights),), math.log(kinds))
    loss = masked_nll(nll, weights, masked.numel())
    assert float(loss) == pytest.approx(math.log(kinds), rel=0.02)


def test_mse_is_a_mean_within_each_example() -> None:
    prediction, target = randn(3, 4, 5, seed=3), randn(3, 4, 5, seed=4)
    wanted = torch.stack([((p - q) ** 2).mean() for p, q in zip(prediction, target, strict=True)])
    torch.testing.assert_close(per_example_mse(prediction, target), wanted.float())


def learned(
    average_velocity: Callable[..., Tensor], z: Tensor, t: Tensor, r: Tensor, v: Tensor, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The prediction of a student, and its target."""
    u, du_dt = along_ode(average_velocity, z, t, r, v)
    return u, meanflow_target(v, t, r, du_dt, scale)


def test_exact_average_velocity_is_its_own_meanflow_target() -> None:
    z = randn(6, 3, 2, seed=5)
    u, target = learned(exact_average, z, T, R, exact_velocity(z, T))
    torch.testing.assert_close(target, exact_average(z, T, R))
    torch.testing.assert_close(u, target)


def test_wrong_average_velocity_is_not_its_own_meanflow_target() -> None:
    z = randn(6, 3, 2, seed=5)
    u, target = learned(lambda *args: 1.1 * exact_average(*args), z, T, R, exact_velocity(z, T))
    assert ((u - target).flatten(1).norm(dim=1) > 0.01).all()


def test_target_at_equal_times_is_the_velocity() -> None:
    target = learned(SmallNetwork(), Z, T, T, V)[1]
    torch.testing.assert_close(target, V)


def test_jvp_of_the_target_is_the_finite_difference_along_velocity_and_time() -> None:
    network, h = SmallNetwork(), 1e-5
    u, target = learned(network, Z, T, R, V)
    found = (V - target) / (T - R)[:, None]
    wanted = (network(Z + h * V, T + h, R) - network(Z - h * V, T - h, R)) / (2 * h)
    torch.testing.assert_close(found, wanted.detach(), rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(u, network(Z, T, R))


def test_tangent_scale_multiplies_the_jvp_term_alone() -> None:
    none, half, whole = (learned(SmallNetwork(), Z, T, R, V, scale)[1] for scale in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, V)
    torch.testing.assert_close(half, (none + whole) / 2)
    assert not torch.allclose(none, whole)


def test_gradient_flows_through_the_prediction_and_not_through_the_target() -> None:
    network = SmallNetwork()
    u, target = learned(network, Z, T, R, V)
    assert not target.requires_grad
    found = torch.autograd.grad((u - target).square().sum(), list(network.parameters()))
    fixed = learned(network, Z, T, R, V)[1]
    wanted = torch.autograd.grad((network(Z, T, R) - fixed).square().sum(), list(network.parameters()))
    torch.testing.assert_close(found, wanted)
    assert all(part.abs().max() > 1e-3 for part in found)


def test_adaptive_loss_divides_by_its_own_value_without_gradient() -> None:
    u, target = randn(3, 2, 2, seed=6).requires_grad_(), randn(3, 2, 2, seed=7)
    losses, squared = adaptive_loss(u, target, 5.0)
    wanted = torch.stack([((p - q) ** 2).sum() for p, q in zip(u, target, strict=True)]).float()
    torch.testing.assert_close(squared, wanted)
    torch.testing.assert_close(losses, wanted / (wanted + 5))
    gradient = torch.autograd.grad(losses.sum(), u)[0]
    slope = 2 * (u - target) / (wanted.double()[:, None, None] + 5)
    torch.testing.assert_close(gradient, slope.detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [[], [2], [0, 1, 2, 3]])
def test_only_the_chosen_examples_are_estimated_and_the_network_is_always_called(rows: list[int]) -> None:
    z, t = torch.randn(4, 3, 2), torch.rand(4)
    weight = torch.ones((), requires_grad=True)
    asked = []

    def estimate(some: Tensor, time: Tensor) -> Tensor:
        asked.append(len(some))
        return (some * weight + time[:, None, None]).bfloat16()

    found = estimates_of_some(estimate, torch.tensor(rows, dtype=torch.int64), z, t)
    wanted = torch.zeros_like(z)
    for row in rows:
        wanted[row] = (z[row] + t[row]).bfloat16().float()
    assert torch.equal(found, wanted)
    assert not found.requires_grad
    assert asked == [max(1, len(rows))]
