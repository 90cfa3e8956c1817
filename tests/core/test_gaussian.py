import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule, clean_estimate, diffuse, sampled_velocity, velocity

DIFFUSIONS = [1.0, 2.0, 5.0, 10.0, 15.0]
INTERIOR = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)


def gradient(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """df/dt of an elementwise function."""
    t = t.clone().requires_grad_()
    return torch.autograd.grad(f(t).sum(), t)[0]


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_schedule_is_the_tan_d_formula(d: float) -> None:
    level = TanSchedule(d)(INTERIOR)
    log_snr = 2 * (level.alpha / level.sigma).log()
    torch.testing.assert_close(log_snr, -2 * (d * torch.tan(math.pi * INTERIOR / 2)).log())


def test_schedule_has_the_signal_levels_of_the_published_figure() -> None:
    found = [float(TanSchedule(d)(torch.tensor(0.4)).alpha) for d in (2, 5, 10, 15)]
    assert found == pytest.approx([0.57, 0.27, 0.14, 0.09], abs=0.006)


@pytest.mark.parametrize("d", DIFFUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_variance_is_preserved(d: float, dtype: torch.dtype) -> None:
    level = TanSchedule(d)(torch.linspace(0, 1, 1001, dtype=dtype))
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(1001, dtype=dtype))


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_derivatives_are_those_of_autograd(d: float) -> None:
    schedule, t = TanSchedule(d), torch.linspace(0, 1, 101, dtype=torch.float64)
    level = schedule(t)
    torch.testing.assert_close(level.alpha_dot, gradient(lambda s: schedule(s).alpha, t))
    torch.testing.assert_close(level.sigma_dot, gradient(lambda s: schedule(s).sigma, t))


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_derivatives_are_those_of_central_differences(d: float) -> None:
    schedule, h = TanSchedule(d), 1e-5
    level, above, below = schedule(INTERIOR), schedule(INTERIOR + h), schedule(INTERIOR - h)
    torch.testing.assert_close(level.alpha_dot, (above.alpha - below.alpha) / (2 * h), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(level.sigma_dot, (above.sigma - below.sigma) / (2 * h), rtol=1e-5, atol=1e-6)
    theta_above, theta_below = (torch.atan2(s.sigma, s.alpha) for s in (above, below))
    torch.testing.assert_close(level.theta_dot, (theta_above - theta_below) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("d", DIFFUSIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ends_of_the_schedule_have_their_limits(d: float, dtype: torch.dtype) -> None:
    level = torch.stack(TanSchedule(d)(torch.tensor([0.0, 1.0], dtype=dtype)))
    start, end = math.pi / 2 * d, math.pi / 2 / d
    wanted = torch.tensor([[1, 0], [0, 1], [0, -end], [start, 0], [start, end]], dtype=dtype)
    torch.testing.assert_close(level, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_time_of_alpha_inverts_the_schedule(d: float) -> None:
    schedule = TanSchedule(d)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.time_of_alpha(schedule(t).alpha.clamp(0, 1)), t, rtol=0, atol=1e-7)
    assert schedule.time_of_alpha(torch.tensor([1.0, 0.0])).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4)])
def test_clean_estimate_inverts_velocity(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    z_t, z_0 = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    level = TanSchedule(10.0)(torch.tensor([0.001, 0.4, 1.0], dtype=torch.float64))
    torch.testing.assert_close(clean_estimate(z_t, velocity(z_t, z_0, level), level), z_0)
    torch.testing.assert_close(velocity(z_t, clean_estimate(z_t, z_0, level), level), z_0)


def test_velocity_is_the_expression_of_the_paper() -> None:
    generator = torch.Generator().manual_seed(1)
    z_t, z_0 = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    level = TanSchedule(10.0)(torch.linspace(0.02, 1, 50, dtype=torch.float64))
    turn = level.sigma * level.alpha_dot - level.sigma_dot * level.alpha
    torch.testing.assert_close(velocity(z_t, z_0, level), (turn * z_0 + level.sigma_dot * z_t) / level.sigma)


def test_velocities_are_the_time_derivative_of_a_noising_path() -> None:
    generator = torch.Generator().manual_seed(2)
    z_0, noise = torch.randn(2, 99, 3, generator=generator, dtype=torch.float64)
    schedule, h = TanSchedule(5.0), 1e-5
    ahead, behind = (diffuse(z_0, noise, schedule(INTERIOR + step)) for step in (h, -h))
    wanted = (ahead - behind) / (2 * h)
    level = schedule(INTERIOR)
    torch.testing.assert_close(sampled_velocity(z_0, noise, level), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(velocity(diffuse(z_0, noise, level), z_0, level), wanted, rtol=1e-5, atol=1e-6)


def quotient(d: float, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """The rotation's rates by their definition, valid for r < t."""
    high, low = TanSchedule(d)(t), TanSchedule(d)(r)
    delta = torch.atan2(high.sigma, high.alpha) - torch.atan2(low.sigma, low.alpha)
    return (1 - delta.cos()) / (t - r), delta.sin() / (t - r)


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_rotation_is_the_difference_quotient(d: float) -> None:
    times = torch.cartesian_prod(*2 * [torch.linspace(0, 1, 21, dtype=torch.float64)])
    t, r = times[times[:, 0] > times[:, 1]].unbind(1)
    torch.testing.assert_close(TanSchedule(d).rotation(t, r), quotient(d, t, r), rtol=1e-9, atol=1e-9)
    turned = [gradient(lambda s, i=i: TanSchedule(d).rotation(s, r)[i], t) for i in (0, 1)]
    wanted = [gradient(lambda s, i=i: quotient(d, s, r)[i], t) for i in (0, 1)]
    torch.testing.assert_close(turned, wanted, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("d", DIFFUSIONS)
def test_rotation_and_its_derivatives_have_their_limits_at_equal_times(d: float) -> None:
    """For small s = t - r: a = theta'(r)^2 s / 2 and b = theta'(r) + theta''(r) s / 2, to first order."""
    schedule, t = TanSchedule(d), torch.linspace(0, 1, 21, dtype=torch.float64)
    speed, bend = schedule(t).theta_dot, gradient(lambda s: schedule(s).theta_dot, t)
    a, b = schedule.rotation(t, t)
    torch.testing.assert_close(a, torch.zeros_like(a))
    torch.testing.assert_close(b, speed)

    def both(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack(schedule.rotation(first, second))

    one, none = torch.ones_like(t), torch.zeros_like(t)
    by_t = torch.func.jvp(both, (t, t), (one, none))[1]
    by_r = torch.func.jvp(both, (t, t), (none, one))[1]
    torch.testing.assert_close(by_t, torch.stack([speed**2 / 2, bend / 2]))
    torch.testing.assert_close(by_r, torch.stack([-(speed**2) / 2, bend / 2]))
    backward = [gradient(lambda s, i=i: schedule.rotation(s, t)[i], t) for i in (0, 1)]
    torch.testing.assert_close(torch.stack(backward), by_t)


def test_single_precision_rounding_of_the_rotation_stays_out_of_the_meanflow_target() -> None:
    """(t - r) d/dt of both rates, as the target uses them, at intervals down to the last bit."""
    t = torch.rand(1000, generator=torch.Generator().manual_seed(3)).clamp(min=1e-3)
    r = t - t * torch.logspace(-8, -1, 1000)
    exact_t, exact_r = t.double(), r.double()
    for i in (0, 1):
        found = (t - r) * gradient(lambda s, i=i: TanSchedule(10.0).rotation(s, r)[i], t)
        exact = gradient(lambda s, i=i: TanSchedule(10.0).rotation(s, exact_r)[i], exact_t)
        torch.testing.assert_close(found, ((t - r) * exact).float(), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("d", [1.0, 10.0])
def test_sampling_times_lie_between_equal_times_and_equal_angles(d: float) -> None:
    schedule, equal = TanSchedule(d), torch.linspace(1, 0, 7, dtype=torch.float64)
    times = schedule.sampling_times(6)
    assert (float(times[0]), float(times[-1])) == pytest.approx((1.0, 0.0))
    level = schedule(2 * times - equal)
    torch.testing.assert_close(torch.atan2(level.sigma, level.alpha), equal * math.pi / 2)
