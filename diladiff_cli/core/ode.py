"""Steps from noise to latents over any network (method sections 4 and 5).

Times are floats from 1 down to 0; ``velocity`` and friends take a batch of times (B,).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from diladiff_cli.core.gaussian import TanSchedule, clean_estimate, diffuse, expand, noise_in, velocity
from diladiff_cli.core.times import sampling_grid

CleanEstimator = Callable[[Tensor, Tensor, Tensor], Tensor]  # (z_t, t, z_self) -> z^
AverageVelocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (z_t, t, r, z_self) -> u
OnStep = Callable[[int, Tensor], None]  # number of the step, from 0, and its clean estimate z^ (B, N, C)
MAX_JUMPS = 5  # jump_times draws from samplers of 1 to this many steps
SELF_COND = ("network", "jump")


def guided(estimate: Tensor, plain: Tensor, guidance: float) -> Tensor:
    """A self-conditioned clean estimate pushed away from the one without self-conditioning, which is less sure.

    Guidance by a weaker version of the same network, as in Karras et al. (2024); not in the paper. 0 changes nothing.
    """
    return estimate + guidance * (estimate - plain) if guidance else estimate


def _ddim_step(z_t: Tensor, z_0: Tensor, t: Tensor, r: Tensor, schedule: TanSchedule) -> Tensor:
    """z_r = alpha_r z_0 + sigma_r eps^ (DDIM; Song et al., 2021), exact while the clean estimate does not change.

    Few steps shrink what is nearly white: there the best estimate is alpha z, which does change, and a step over an
    angle delta gives cos(delta) z instead of z.
    """
    return diffuse(z_0, noise_in(z_t, z_0, schedule(t)), schedule(r))


def _euler_step(z_t: Tensor, z_0: Tensor, t: Tensor, r: Tensor, schedule: TanSchedule) -> Tensor:
    """z_r = z_t - (t - r) v, as published (method section 4)."""
    return z_t - expand(t - r, z_t) * velocity(z_t, z_0, schedule(t))


class Solver(NamedTuple):
    """A way along the probability-flow ODE.

    Attributes:
        times: Schedule and number of steps -> times of the steps, one more, from 1 to 0.
        step: z_t (B, N, C), clean estimate z_0, times t and r < t (B,) and schedule -> z_r.
    """

    times: Callable[[TanSchedule, int], Tensor]
    step: Callable[[Tensor, Tensor, Tensor, Tensor, TanSchedule], Tensor]


SOLVERS = {
    "ddim": Solver(TanSchedule.sampling_times, _ddim_step),
    "euler": Solver(lambda _, steps: sampling_grid(steps), _euler_step),
}


def probability_flow(
    estimate: CleanEstimator,
    z: Tensor,
    schedule: TanSchedule,
    steps: int,
    on_step: OnStep | None = None,
    guidance: float = 0.0,
    solver: str = "ddim",
) -> Tensor:
    """The probability-flow ODE from t = 1 to 0, self-conditioned on the previous estimate.

    Args:
        estimate: The denoiser z_psi.
        z: (B, N, C) standard normal noise.
        schedule: Noise schedule.
        steps: Network evaluations; with guidance one less than twice as many.
        on_step: Called in each step with the network's estimate at the time that the step starts from.
        guidance: See :func:`guided`; an estimate conditions the next one as it is.
        solver: One of :data:`SOLVERS`. Euler's steps stop far short of the data where they are few: with d = 10 five
            leave 0.9 of the starting noise.

    Returns:
        (B, N, C) samples of z_0.

    Raises:
        ValueError: Another solver.
    """
    if solver not in SOLVERS:
        raise ValueError(f"the solver is {solver!r}; give one of {', '.join(SOLVERS)}")
    way = SOLVERS[solver]
    z_self = nothing = torch.zeros_like(z)
    for step, (start, end) in enumerate(pairwise(way.times(schedule, steps).tolist())):
        t = torch.full((len(z),), start, dtype=torch.float32, device=z.device)
        z_self = estimate(z, t, z_self)
        if on_step is not None:
            on_step(step, z_self)
        plain = estimate(z, t, nothing) if guidance and step else z_self  # the first has nothing to look at
        z = way.step(z, guided(z_self, plain, guidance), t, torch.full_like(t, end), schedule)
    return z


def jump_times(schedule: TanSchedule, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Times (t, r) on the jumps of :func:`average_velocity_steps`: r is where a jump ends, t anywhere inside it.

    The sampler asks for u only at a jump's start, but the MeanFlow identity builds u up from r, so that every t in
    between must be learned. The number of steps (1 to :data:`MAX_JUMPS`), the jump, gamma and the place in the jump
    are uniform. Not in the paper, whose laws of t and r ignore the times that the sampler steps at.

    Args:
        schedule: Noise schedule.
        uniform: (B, 3) draws from U(0, 1).

    Returns:
        (B,) times t, and (B,) times r <= t.
    """
    grids = [schedule.sampling_times(steps) for steps in range(1, MAX_JUMPS + 1)]
    jumps = torch.cat([torch.stack([grid[:-1], grid[1:]]) for grid in grids], dim=1).to(uniform)
    shares = torch.cat([torch.full((len(grid) - 1,), 1.0 / (len(grid) - 1)) for grid in grids])
    bounds = shares.cumsum(0).to(uniform) / MAX_JUMPS
    choice, place, gamma = uniform.unbind(1)
    start, end = jumps[:, (choice[:, None] >= bounds[:-1]).sum(1)]
    end = _lower_time(schedule, end, gamma)
    return end + place * (start - end), end


def _lower_time(schedule: TanSchedule, time: Tensor, gamma: Tensor) -> Tensor:
    """Where a gamma step jumps to on its way to ``time``: alpha is that of ``time`` over sqrt(1 - gamma^2)."""
    keep = torch.sqrt(1.0 - gamma**2)
    return schedule.time_of_alpha((schedule(time).alpha / keep).clamp(max=1.0))


def gamma_target(schedule: TanSchedule, time: float, gamma: float) -> tuple[float, float, float]:
    """Where a gamma step jumps to, and how it comes back up to ``time`` (method section 5).

    Returns:
        The time to jump to, the factor on what is found there, and the standard deviation of the noise
        that restores sigma(time). With no noise to add, (time, 1, 0).
    """
    if gamma == 0.0 or time == 0.0:
        return time, 1.0, 0.0
    exact = torch.tensor([time, gamma], dtype=torch.float64, device="cpu")
    lower, level = _lower_time(schedule, exact[0], exact[1]), schedule(exact[0])
    reached = schedule(lower)
    scale = level.alpha / reached.alpha
    noise_std = (level.sigma**2 - (scale * reached.sigma) ** 2).clamp(min=0).sqrt()
    return float(lower), float(scale), float(noise_std)


def average_velocity_steps(
    u: AverageVelocity,
    z: Tensor,
    schedule: TanSchedule,
    steps: int,
    noises: Tensor | None = None,
    gamma: float = 0.0,
    on_step: OnStep | None = None,
    self_cond: str = "network",
) -> Tensor:
    """Few-step sampling with an average-velocity network: 2 * steps - 1 evaluations (method section 5).

    At :meth:`TanSchedule.sampling_times`: with d = 10 all equal steps in t but the last would lead from noise to noise.

    Args:
        u: The student u_eta.
        z: (B, N, C) standard normal noise.
        schedule: Noise schedule.
        steps: Jumps from t = 1 to 0.
        noises: (B, steps - 1, N, C) standard normal draws, needed where gamma > 0.
        gamma: 0 is the deterministic ODE, 1 consistency-style.
        on_step: Called after each jump with the estimate that the next one is conditioned on: at the time reached, or
            for "jump" of the whole jump; after the last with the samples themselves. It costs no evaluation.
        self_cond: Where the estimate comes from that a jump is conditioned on: "network", an evaluation of its own, or
            "jump", what the jump before implies, which leaves one evaluation a step; not in the paper.

    Returns:
        (B, N, C) samples of z_0.

    Raises:
        ValueError: gamma > 0 with several steps, and no noises, or another ``self_cond``.
    """
    if self_cond not in SELF_COND:
        raise ValueError(f"self_cond is {self_cond!r}; give one of {', '.join(SELF_COND)}")
    if gamma > 0 and steps > 1 and noises is None:
        raise ValueError("gamma sampling with several steps needs noises")
    grid = schedule.sampling_times(steps).tolist()
    z_self = torch.zeros_like(z)
    for index, (start, end) in enumerate(pairwise(grid)):
        lower, scale, noise_std = gamma_target(schedule, end, gamma)
        t = torch.full((len(z),), start, dtype=torch.float32, device=z.device)
        r = torch.full_like(t, lower)
        average = u(z, t, r, z_self)
        if self_cond == "jump":
            z_self = schedule.implied_estimate(z, average, t, r)
        z = scale * (z - (start - lower) * average)
        if noise_std > 0 and noises is not None:
            z = z + noise_std * noises[:, index]
        if end > 0 and self_cond == "network":
            t = torch.full_like(t, end)
            z_self = clean_estimate(z, u(z, t, t, z_self), schedule(t))
        if on_step is not None:
            on_step(index, z_self if end > 0 else z)
    return z
