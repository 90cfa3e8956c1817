from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.gaussian import NoiseLevel, TanSchedule, expand, velocity
from diladiff_cli.core.ode import (
    SOLVERS,
    average_velocity_steps,
    gamma_target,
    guided,
    jump_times,
    probability_flow,
)

SCHEDULE = TanSchedule(5.0)
MEAN, STD = 1.5, 0.4


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def deviation(level: NoiseLevel) -> Tensor:
    """Standard deviation of z_t for latents N(MEAN, STD^2)."""
    return ((level.alpha * STD) ** 2 + level.sigma**2).sqrt()


def exact_clean(z: Tensor, t: Tensor, _z_self: Tensor) -> Tensor:
    """E[z_0 | z_t]."""
    level = SCHEDULE(t.double())
    gain = level.alpha * STD**2 / deviation(level) ** 2
    return MEAN + expand(gain, z) * (z - expand(level.alpha, z) * MEAN)


def exact_flow(z: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """From t to r along the ODE, which keeps the quantiles of every marginal."""
    here, there = SCHEDULE(t.double()), SCHEDULE(r.double())
    scale = deviation(there) / deviation(here)
    return expand(there.alpha, z) * MEAN + expand(scale, z) * (z - expand(here.alpha, z) * MEAN)


@dataclass
class ExactAverage:
    """The exact average velocity, which remembers its calls."""

    calls: list[tuple[Tensor, float, float, Tensor]] = field(default_factory=list)

    def __call__(self, z: Tensor, t: Tensor, r: Tensor, z_self: Tensor) -> Tensor:
        self.calls.append((z, float(t[0]), float(r[0]), z_self))
        if torch.equal(t, r):
            return velocity(z, exact_clean(z, t, z_self), SCHEDULE(t.double()))
        return (z - exact_flow(z, t, r)) / expand((t - r).double(), z)


def exact_samples(z: Tensor) -> Tensor:
    """Where the ODE takes standard normal noise."""
    return MEAN + STD * z


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_converge_to_the_exact_ode_at_first_order(solver: str) -> None:
    z = randn(16, 3, 2, seed=0)
    errors = [
        float((probability_flow(exact_clean, z, SCHEDULE, steps, solver=solver) - exact_samples(z)).abs().max())
        for steps in (100, 200, 400, 800)
    ]
    ratios = [coarse / fine for coarse, fine in pairwise(errors)]
    assert ratios == pytest.approx([2, 2, 2], abs=0.15)
    assert errors[-1] < 0.01


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_ddim_is_exact_for_an_estimate_that_stays(steps: int) -> None:
    told: list[Tensor] = []

    def estimate(z: Tensor, t: Tensor, _: Tensor) -> Tensor:
        told.append((z - expand(SCHEDULE(t).alpha, z) * MEAN) / expand(SCHEDULE(t).sigma, z))
        return torch.full_like(z, MEAN)

    z = randn(4, 3, 2, seed=3)
    torch.testing.assert_close(probability_flow(estimate, z, SCHEDULE, steps), torch.full_like(z, MEAN))
    for noise in told:  # that it started from is still in it
        torch.testing.assert_close(noise, z, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_eulers_steps_are_equal_in_time_and_leave_noise_where_they_are_few(steps: int) -> None:
    """Of a clean estimate of 0, each leaves 1 - theta' alpha / (sigma N) of what is there."""
    schedule, seen, left = TanSchedule(10.0), list[float](), 1.0

    def estimate(z: Tensor, t: Tensor, _: Tensor) -> Tensor:
        seen.append(float(t[0]))
        return torch.zeros_like(z)

    z = randn(2, 3, 2, seed=4)
    found = probability_flow(estimate, z, schedule, steps, solver="euler")
    for step in range(steps):
        level = schedule(torch.tensor(1 - step / steps, dtype=torch.float64))
        left *= 1 - float(level.theta_dot * level.alpha / level.sigma) / steps
    assert seen == pytest.approx([1 - step / steps for step in range(steps)])
    torch.testing.assert_close(found, left * z, rtol=1e-5, atol=1e-6)
    assert left == pytest.approx({1: 1.0, 5: 0.892, 10: 0.659}[steps], abs=1e-3)


def test_an_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="the solver is 'heun'; give one of ddim, euler"):
        probability_flow(exact_clean, randn(1, 1, 1, seed=0), SCHEDULE, 1, solver="heun")


def test_ddim_takes_each_estimate_as_the_next_self_conditioning() -> None:
    seen: list[tuple[float, Tensor]] = []

    def estimate(z: Tensor, t: Tensor, z_self: Tensor) -> Tensor:
        seen.append((float(t[0]), z_self))
        return torch.full_like(z, len(seen))

    out = probability_flow(estimate, randn(2, 3, 2, seed=1), SCHEDULE, 4)
    assert [time for time, _ in seen] == pytest.approx(SCHEDULE.sampling_times(4)[:4].tolist())
    assert [float(z_self.unique()) for _, z_self in seen] == [0, 1, 2, 3]
    assert out.shape == (2, 3, 2)


def test_ddim_reports_the_estimate_of_each_step_and_does_not_change_by_it() -> None:
    z, made, told = randn(2, 3, 2, seed=10), list[Tensor](), list[tuple[int, Tensor]]()

    def estimate(z: Tensor, t: Tensor, z_self: Tensor) -> Tensor:
        made.append(exact_clean(z, t, z_self))
        return made[-1]

    wanted = probability_flow(exact_clean, z, SCHEDULE, 4)
    assert torch.equal(probability_flow(estimate, z, SCHEDULE, 4, lambda *step: told.append(step)), wanted)
    assert [step for step, _ in told] == [0, 1, 2, 3]
    assert all(z_hat is own for (_, z_hat), own in zip(told, made, strict=True))


@pytest.mark.parametrize("solver", SOLVERS)
def test_guidance_follows_the_ode_of_the_pushed_estimate_and_conditions_on_the_estimate_itself(solver: str) -> None:
    """Plain estimates of a, self-conditioned ones of b, guidance w: the ODE of a constant estimate b + w (b - a)."""
    z, a, b, w, seen = randn(3, 3, 2, seed=11), 0.5, 0.75, 2.0, list[tuple[float, float]]()

    def estimate(z: Tensor, t: Tensor, z_self: Tensor) -> Tensor:
        seen.append((float(t[0]), float(z_self.flatten()[0])))
        return torch.full_like(z, b if z_self.any() else a)

    found = probability_flow(estimate, z, SCHEDULE, 4, guidance=w, solver=solver)
    _, second, third, fourth, _ = SOLVERS[solver].times(SCHEDULE, 4).tolist()
    calls = [(1.0, 0.0), (second, a), (second, 0.0), (third, b), (third, 0.0), (fourth, b), (fourth, 0.0)]
    assert [z_self for _, z_self in seen] == [z_self for _, z_self in calls]
    assert [time for time, _ in seen] == pytest.approx([time for time, _ in calls])
    constants = iter((a, *3 * (b + w * (b - a),)))
    wanted = probability_flow(lambda z, t, z_self: torch.full_like(z, next(constants)), z, SCHEDULE, 4, solver=solver)
    torch.testing.assert_close(found, wanted)


def test_no_guidance_is_the_estimate_itself() -> None:
    estimate = randn(2, 3, seed=12)
    assert guided(estimate, randn(2, 3, seed=13), 0.0) is estimate


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_exact_average_velocity_samples_exactly_in_any_number_of_steps(steps: int) -> None:
    z, u = randn(16, 3, 2, seed=2), ExactAverage()
    torch.testing.assert_close(average_velocity_steps(u, z, SCHEDULE, steps), exact_samples(z), rtol=1e-5, atol=1e-5)
    assert len(u.calls) == 2 * steps - 1


def test_self_conditioning_is_the_clean_estimate_at_the_time_reached() -> None:
    u = ExactAverage()
    average_velocity_steps(u, randn(4, 3, 2, seed=3), SCHEDULE, 3)
    times = [call[1:3] for call in u.calls]
    _, second, third, _ = SCHEDULE.sampling_times(3).tolist()
    wanted = [(1, second), (second, second), (second, third), (third, third), (third, 0)]
    assert times == [pytest.approx(pair, abs=1e-6) for pair in wanted]
    assert not u.calls[0][3].any()
    for z, time, _, z_self in u.calls[2::2]:
        t = torch.full((len(z),), time, dtype=torch.float64)
        torch.testing.assert_close(z_self, exact_clean(z, t, z_self), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_jumps_report_what_the_next_is_conditioned_on_and_the_last_its_samples(steps: int, gamma: float) -> None:
    z, noises = randn(2, 3, 2, seed=11), randn(2, 2, 3, 2, seed=12)
    silent, u, told = ExactAverage(), ExactAverage(), list[tuple[int, Tensor]]()
    wanted = average_velocity_steps(silent, z, SCHEDULE, steps, noises, gamma)
    found = average_velocity_steps(u, z, SCHEDULE, steps, noises, gamma, lambda *step: told.append(step))
    assert torch.equal(found, wanted)
    assert len(u.calls) == len(silent.calls)
    assert [step for step, _ in told] == list(range(steps))
    jumps = u.calls[::2]
    assert all(z_hat is jump[3] for (_, z_hat), jump in zip(told, jumps[1:], strict=False))
    assert told[-1][1] is found


@pytest.mark.parametrize("d", [1.0, 10.0])
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.4, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("time", [0.0, 1e-3, 0.05, 0.2, 0.5, 0.9, 1.0])
def test_gamma_step_restores_signal_and_noise_levels_exactly(d: float, gamma: float, time: float) -> None:
    schedule = TanSchedule(d)
    lower, scale, noise_std = gamma_target(schedule, time, gamma)
    wanted, found = (schedule(torch.tensor(at, dtype=torch.float64)) for at in (time, lower))
    assert 0 <= lower <= time
    if lower > 0 and time < 1:  # at 1 alpha is but rounding
        assert scale == pytest.approx((1 - gamma**2) ** 0.5, abs=1e-9)
    assert scale * float(found.alpha) == pytest.approx(float(wanted.alpha), abs=1e-9)
    variance = (scale * float(found.sigma)) ** 2 + noise_std**2
    assert variance == pytest.approx(float(wanted.sigma) ** 2, abs=1e-9)


@pytest.mark.parametrize("d", [1.0, 10.0])
def test_times_of_jumps_are_those_that_the_sampler_asks_for(d: float) -> None:
    schedule, n = TanSchedule(d), 60_000
    uniform = torch.rand(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked: dict[tuple[float, float], float] = {}  # jumps without gamma, and how often they are drawn
    for steps in range(1, 6):

        def u(z: Tensor, t: Tensor, r: Tensor, _: Tensor, share: float = 1 / (5 * steps)) -> Tensor:
            if r < t:
                jump = (round(float(t), 6), round(float(r), 6))
                asked[jump] = asked.get(jump, 0.0) + share
            return torch.zeros_like(z)

        average_velocity_steps(u, torch.zeros(1, 1, 1), schedule, steps)
    uniform[:, 1], uniform[:, 2] = 1.0, 0.0
    t, r = jump_times(schedule, uniform)
    drawn = Counter(zip(t.numpy().round(6).tolist(), r.numpy().round(6).tolist(), strict=True))
    assert {jump: count / n for jump, count in drawn.items()} == pytest.approx(asked, abs=0.006)


def test_times_of_jumps_go_down_as_far_as_gamma_does() -> None:
    for gamma in (0.0, 0.5, 0.8, 0.999):
        for choice, steps, jump in ((0.0, 1, 0), (0.21, 2, 0), (0.39, 2, 1), (0.99, 5, 4), (0.81, 5, 0)):
            start, end = SCHEDULE.sampling_times(steps).tolist()[jump : jump + 2]
            alpha = SCHEDULE(torch.tensor(end, dtype=torch.float64)).alpha / (1 - gamma**2) ** 0.5
            lower = float(SCHEDULE.time_of_alpha(alpha.clamp(max=1.0)))
            draws = torch.tensor([[choice, place, gamma] for place in (0.0, 0.25, 1.0)], dtype=torch.float64)
            t, r = jump_times(SCHEDULE, draws)
            assert r.tolist() == pytest.approx([lower] * 3, abs=1e-12)
            assert t.tolist() == pytest.approx([lower, 0.75 * lower + 0.25 * start, start], abs=1e-12)
    t, r = jump_times(SCHEDULE, torch.rand(5000, 3, generator=torch.Generator().manual_seed(1)))
    assert t.dtype == torch.float32
    assert bool(((r >= 0) & (r <= t) & (t <= 1)).all())


def test_gamma_sets_the_noise_that_is_put_back() -> None:
    for gamma in (0.4, 0.8):
        lower, scale, noise_std = gamma_target(SCHEDULE, 0.5, gamma)
        assert (scale, noise_std) == (pytest.approx((1 - gamma**2) ** 0.5), pytest.approx(gamma))
        assert 0 < lower < 0.5
    assert gamma_target(SCHEDULE, 0.5, 0.0) == (0.5, 1.0, 0.0)
    level = SCHEDULE(torch.tensor(0.5, dtype=torch.float64))
    assert gamma_target(SCHEDULE, 0.5, 1.0) == pytest.approx((0.0, float(level.alpha), float(level.sigma)))


@pytest.mark.parametrize("gamma", [0.0, 0.4, 0.8, 1.0])
def test_gamma_sampling_keeps_every_marginal(gamma: float) -> None:
    u, z, noises = ExactAverage(), randn(20_000, 1, 1, seed=4), randn(20_000, 4, 1, 1, seed=5)
    samples = average_velocity_steps(u, z, SCHEDULE, 5, noises=noises, gamma=gamma)
    assert len(u.calls) == 9
    for reached, time, _, _ in u.calls[1::2]:
        level = SCHEDULE(torch.tensor(time, dtype=torch.float64))
        white = (reached - level.alpha * MEAN) / deviation(level)
        assert stats.kstest(white.flatten().numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(((samples - MEAN) / STD).flatten().numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("gamma", [0.4, 0.8, 1.0])
def test_no_noise_is_added_after_the_last_step(gamma: float) -> None:
    z, noises = randn(8, 3, 2, seed=6), randn(8, 2, 3, 2, seed=7)
    once = average_velocity_steps(ExactAverage(), z, SCHEDULE, 1, gamma=gamma)
    torch.testing.assert_close(once, exact_samples(z), rtol=1e-5, atol=1e-5)
    u = ExactAverage()
    samples = average_velocity_steps(u, z, SCHEDULE, 3, noises=noises, gamma=gamma)
    before, time = u.calls[-1][:2]
    t = torch.full((8,), time, dtype=torch.float64)
    torch.testing.assert_close(samples, exact_flow(before, t, torch.zeros_like(t)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(samples, exact_samples(z), atol=0.05)


def test_consistency_style_steps_forget_where_they_came_from() -> None:
    """gamma = 1 with exact jumps: given the clean latent, the noise of the next level is all new."""
    noises = randn(8, 1, 3, 2, seed=8)
    u, z = ExactAverage(), randn(8, 3, 2, seed=9)
    average_velocity_steps(u, z, SCHEDULE, 2, noises=noises, gamma=1.0)
    level = SCHEDULE(SCHEDULE.sampling_times(2)[1])
    wanted = level.alpha * exact_samples(z) + level.sigma * noises[:, 0]
    torch.testing.assert_close(u.calls[1][0], wanted, rtol=1e-5, atol=1e-5)


def test_gamma_sampling_asks_for_its_noises() -> None:
    with pytest.raises(ValueError, match="needs noises"):
        average_velocity_steps(ExactAverage(), randn(1, 1, 1, seed=0), SCHEDULE, 2, gamma=0.5)
