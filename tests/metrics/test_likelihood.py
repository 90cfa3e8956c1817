import itertools
import math

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule, expand
from diladiff_cli.metrics.likelihood import (
    MaskedNll,
    Velocity,
    bound_nats,
    bound_report,
    masked_figures,
    masked_statistics,
    ode_log_density,
)
from diladiff_cli.metrics.recovery import MaskedLogits

T_MIN = 1e-3


def gaussian_velocity(mean: Tensor, std: Tensor) -> Velocity:
    """The exact velocity for data N(mean, std^2), by the closed form of E[z_0 | z_t]."""

    def velocity(z_t: Tensor, t: Tensor) -> Tensor:
        level = TanSchedule(3.0)(t.double())
        alpha, sigma, rate = (expand(v, z_t) for v in (level.alpha, level.sigma, level.theta_dot))
        variance = alpha**2 * std**2 + sigma**2
        clean = mean + alpha * std**2 / variance * (z_t - alpha * mean)
        return (rate / sigma * (alpha * z_t - clean)).to(z_t)

    return velocity


def gaussian_log_density(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Of z at the smallest time."""
    level = TanSchedule(3.0)(torch.tensor(T_MIN, dtype=torch.float64))
    variance = level.alpha**2 * std**2 + level.sigma**2
    log_prob = -0.5 * ((z - level.alpha * mean) ** 2 / variance + (2 * math.pi * variance).log())
    return log_prob.flatten(1).sum(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_density_of_gaussian_data_is_the_closed_form(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 2, generator=generator, dtype=torch.float64)
    std = 0.2 + torch.rand(3, 2, generator=generator, dtype=torch.float64)
    z = mean + 1.5 * std * torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    # A diagonal Jacobian: the estimate of its trace is exact for every probe.
    found = ode_log_density(gaussian_velocity(mean, std), z.to(dtype), t_min=T_MIN, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, gaussian_log_density(z, mean, std), rtol=1e-3, atol=1e-3)


def test_density_of_correlated_data_is_right_on_average_over_probes() -> None:
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    mean, std = torch.zeros(4, dtype=torch.float64), torch.tensor([0.2, 0.5, 1.0, 1.5], dtype=torch.float64)
    straight = gaussian_velocity(mean, std)
    z = torch.tensor([[[0.3, -0.2, 0.8, 0.4]]], dtype=torch.float64)
    many = z.expand(500, 1, 4)
    found = ode_log_density(
        lambda z_t, t: straight(z_t @ turn, t) @ turn.T,
        many,
        t_min=T_MIN,
        generator=torch.Generator().manual_seed(2),
    )
    wanted = float(gaussian_log_density(z @ turn, mean, std))
    stderr = float(found.std()) / math.sqrt(len(found))
    assert 0 < stderr < 0.1
    assert abs(float(found.mean()) - wanted) < 4 * stderr


# A joint law of three ternary tokens, any conditional of which is known.
LENGTH, KINDS, MASK = 3, 3, 3
JOINT = torch.rand(KINDS, KINDS, KINDS, generator=torch.Generator().manual_seed(3), dtype=torch.float64) ** 3
JOINT /= JOINT.sum()


def joint_nll(x: Tensor) -> MaskedNll:
    """Exact masked NLL of the joint law for the clean sequences ``x``."""

    def masked_nll(x_t: Tensor, is_masked: Tensor) -> Tensor:
        total = torch.zeros(len(x), dtype=torch.float64)
        for b, row in enumerate(x):
            assert torch.equal(x_t[b], torch.where(is_masked[b], MASK, row))
            visible = tuple(slice(None) if hidden else int(v) for v, hidden in zip(row, is_masked[b], strict=True))
            rest = JOINT[visible]
            for axis, position in enumerate(is_masked[b].nonzero().flatten().tolist()):
                marginal = rest.movedim(axis, 0).flatten(1).sum(1) if rest.dim() > 1 else rest
                total[b] -= (marginal / marginal.sum()).log()[row[position]]
        return total

    return masked_nll


def test_bound_of_consistent_conditionals_is_the_exact_likelihood() -> None:
    x = torch.tensor([[0, 1, 2], [2, 2, 0]])
    exact = -torch.stack([JOINT[tuple(row)].log() for row in x])
    # By enumeration: k uniform, then every set of k positions equally likely.
    enumerated = torch.zeros(len(x), dtype=torch.float64)
    for k in range(1, LENGTH + 1):
        sets = list(itertools.combinations(range(LENGTH), k))
        for chosen in sets:
            is_masked = torch.zeros(len(x), LENGTH, dtype=torch.bool)
            is_masked[:, list(chosen)] = True
            nll = joint_nll(x)(torch.where(is_masked, MASK, x), is_masked)
            enumerated += nll * LENGTH / k / LENGTH / len(sets)
    torch.testing.assert_close(enumerated, exact)

    generator = torch.Generator().manual_seed(4)
    estimates = torch.stack([bound_nats(joint_nll(x), x, MASK, 8, generator) for _ in range(150)])
    stderr = estimates.std(0) / math.sqrt(len(estimates))
    assert ((estimates.mean(0) - enumerated).abs() < 4 * stderr).all()


def test_the_number_of_masked_tokens_is_uniform_over_the_draws() -> None:
    counts: list[Tensor] = []

    def record(_x_t: Tensor, is_masked: Tensor) -> Tensor:
        counts.append(is_masked.sum(1))
        return torch.zeros(len(is_masked))

    bound_nats(record, torch.zeros(5, 8, dtype=torch.long), MASK, 16, torch.Generator().manual_seed(0))
    per_sequence = torch.stack(counts, 1)
    assert all(torch.equal(row.bincount(minlength=9)[1:], torch.full((8,), 2)) for row in per_sequence)


def test_bound_of_a_uniform_model_is_its_vocabulary() -> None:
    x = torch.zeros(4, 10, dtype=torch.long)
    report = bound_report(bound_nats(lambda _x, masked: masked.sum(1) * math.log(7), x, MASK, 5), 10, 5)
    assert report["perplexity"] == pytest.approx(7)
    assert report["stderr"] == pytest.approx(0, abs=1e-9)
    assert (report["sequences"], report["length"], report["draws"]) == (4, 10, 5)


def test_the_number_of_masked_tokens_is_spread_over_the_sequences_of_a_single_draw() -> None:
    counts: list[Tensor] = []

    def record(_x_t: Tensor, is_masked: Tensor) -> Tensor:
        counts.append(is_masked.sum(1))
        return torch.zeros(len(is_masked))

    bound_nats(record, torch.zeros(55, 5, dtype=torch.long), MASK, 1, torch.Generator().manual_seed(0))
    found = counts[0].bincount(minlength=6)[1:]
    assert int(found.min()) >= 10
    assert int(found.max()) <= 12


def uniform_but_for_one(x: Tensor) -> MaskedLogits:
    """Sure of token 0, as likely as the other six together, whatever it sees."""
    del x

    def masked_logits(_x_t: Tensor, is_masked: Tensor) -> Tensor:
        logits = torch.zeros(int(is_masked.sum()), 7)
        logits[:, 0] = math.log(6)
        return logits

    return masked_logits


def test_masked_statistics_of_a_known_model() -> None:
    x = torch.zeros(6, 10, dtype=torch.long)
    x[3:] = 1
    found = masked_statistics(uniform_but_for_one, [x[:4], x[4:]], 7, draws=4)
    wanted = torch.tensor([math.log(2)] * 3 + [math.log(12)] * 3, dtype=torch.float64) * 10
    torch.testing.assert_close(found.nats, wanted, rtol=1e-5, atol=1e-5)
    assert 0.3 < found.recovery < 0.7
    assert found.nll == pytest.approx(found.recovery * math.log(2) + (1 - found.recovery) * math.log(12), rel=1e-5)
    assert (found.bound()["sequences"], found.bound()["length"], found.bound()["draws"]) == (6, 10, 4)


def test_masked_figures_are_the_masked_statistics() -> None:
    x = torch.arange(40).reshape(4, 10) % 7
    found = masked_figures(uniform_but_for_one, [x], 7, 3, 5)
    wanted = masked_statistics(uniform_but_for_one, [x], 7, 3, 5)
    assert set(found) == {"nll", "bound", "perplexity_bound", "recovery"}
    assert found["bound"] == wanted.bound()["nats_per_token"]
    assert found["recovery"] == wanted.recovery


def test_latent_density_enters_the_bound_of_the_whole_model() -> None:
    decoder, latent = torch.tensor([4.0, 6.0]), torch.tensor([-1.0, -3.0])
    assert bound_report(decoder - latent, 7, 1)["nats_per_token"] == pytest.approx(1)
