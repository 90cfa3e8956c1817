"""What a jump of the few-step sampler looks at: an estimate asked for, or the one that the jump before implies."""

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule, clean_estimate, diffuse, expand, noise_in
from diladiff_cli.core.ode import average_velocity_steps

SCHEDULE = TanSchedule(5.0)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Towards:
    """Average velocities of jumps on which the clean estimate stays z_0; remembers its calls."""

    def __init__(self, z_0: Tensor) -> None:
        self.z_0 = z_0
        self.calls: list[tuple[float, float, Tensor]] = []

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, z_self: Tensor) -> Tensor:
        self.calls.append((float(t[0]), float(r[0]), z_self))
        a, b = SCHEDULE.rotation(t.double(), r.double())
        level = SCHEDULE(t.double())
        direction = (self.z_0 - expand(level.alpha, z) * z) / expand(level.sigma, z)
        return expand(a, z) * z - expand(b, z) * direction


@pytest.mark.parametrize("d", [1.0, 10.0])
def test_the_implied_estimate_is_the_one_that_leads_from_end_to_end(d: float) -> None:
    schedule, z_0, noise = TanSchedule(d), randn(6, 3, 2, seed=0), randn(6, 3, 2, seed=1)
    t = torch.tensor([1.0, 1.0, 0.9, 0.5, 0.3, 0.01], dtype=torch.float64)
    r = torch.tensor([0.0, 0.6, 0.5, 0.4, 0.0, 0.0], dtype=torch.float64)
    z_t = diffuse(z_0, noise, schedule(t))
    z_r = diffuse(z_0, noise_in(z_t, z_0, schedule(t)), schedule(r))
    implied = schedule.implied_estimate(z_t, (z_t - z_r) / expand(t - r, z_t), t, r)
    torch.testing.assert_close(implied, z_0)


def test_without_an_interval_it_is_that_of_the_velocity() -> None:
    z_t, v, t = randn(5, 3, 2, seed=2), randn(5, 3, 2, seed=3), torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(SCHEDULE.implied_estimate(z_t, v, t, t), clean_estimate(z_t, v, SCHEDULE(t)))


@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
def test_jumps_are_conditioned_on_what_the_one_before_implies_and_cost_one_evaluation_each(gamma: float) -> None:
    z, noises, told = randn(4, 3, 2, seed=4), randn(4, 3, 3, 2, seed=5), list[Tensor]()
    u = Towards(randn(4, 3, 2, seed=6))
    found = average_velocity_steps(
        u, z, SCHEDULE, 4, noises, gamma, lambda _, estimate: told.append(estimate), self_cond="jump"
    )
    assert len(u.calls) == 4
    assert all(end < start for start, end, _ in u.calls)
    assert not u.calls[0][2].any()
    for (_, _, z_self), estimate in zip(u.calls[1:], told, strict=False):
        assert z_self is estimate
        torch.testing.assert_close(z_self, u.z_0, rtol=1e-4, atol=1e-4)
    assert told[-1] is found
    torch.testing.assert_close(found, u.z_0, rtol=1e-4, atol=1e-4)


def test_an_estimate_is_that_of_the_whole_jump_before() -> None:
    z, told = randn(4, 3, 2, seed=10), list[Tensor]()
    average_velocity_steps(
        lambda z, *_: 0.3 * z, z, SCHEDULE, 2, on_step=lambda _, estimate: told.append(estimate), self_cond="jump"
    )
    t, r = torch.ones(4), SCHEDULE.sampling_times(2)[1].expand(4).float()
    torch.testing.assert_close(told[0], SCHEDULE.implied_estimate(z, 0.3 * z, t, r), rtol=1e-5, atol=1e-5)
    reached = z - (1 - r[0]) * 0.3 * z
    assert not torch.allclose(told[0], clean_estimate(reached, 0.3 * reached, SCHEDULE(r)), rtol=0.1, atol=0.1)


def test_both_ways_are_one_where_the_estimate_does_not_change() -> None:
    z, z_0 = randn(4, 3, 2, seed=7), randn(4, 3, 2, seed=8)
    asked, implied = (average_velocity_steps(Towards(z_0), z, SCHEDULE, 3, self_cond=c) for c in ("network", "jump"))
    torch.testing.assert_close(asked, implied, rtol=1e-5, atol=1e-5)


def test_another_way_is_refused() -> None:
    with pytest.raises(ValueError, match="self_cond is 'teacher'; give one of network, jump"):
        average_velocity_steps(
            Towards(randn(1, 1, 1, seed=9)), randn(1, 1, 1, seed=9), SCHEDULE, 2, self_cond="teacher"
        )
