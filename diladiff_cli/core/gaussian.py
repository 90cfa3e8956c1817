"""Variance-preserving noise on latents (method section 4): z_t = alpha z_0 + sigma eps.

In angles, alpha = cos(theta) and sigma = sin(theta); theta moves at the rate ``theta_dot``.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diladiff_cli.core.times import sampling_grid

HALF_PI = math.pi / 2


def expand(values: Tensor, like: Tensor) -> Tensor:
    """(B,) values with singleton dimensions added, to multiply ``like`` (B, ...)."""
    return values.reshape(-1, *([1] * (like.dim() - 1)))


class NoiseLevel(NamedTuple):
    """Schedule values and time derivatives at some times, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor
    alpha_dot: Tensor
    sigma_dot: Tensor
    theta_dot: Tensor


@dataclass(frozen=True)
class TanSchedule:
    """The tan-d schedule, logSNR(t) = -2 log(d tan(pi t / 2)), in its numerically safe closed form.

    Args:
        d: Larger means more noise at the same time; the published choice is 10.
    """

    d: float = 10.0

    def __call__(self, t: Tensor) -> NoiseLevel:
        """Values and derivatives at t in [0, 1], finite at both ends (method section 4)."""
        cos, sin = torch.cos(HALF_PI * t), torch.sin(HALF_PI * t)
        norm = torch.sqrt(cos**2 + self.d**2 * sin**2)
        alpha, sigma = cos / norm, self.d * sin / norm
        theta_dot = HALF_PI * self.d / norm**2
        return NoiseLevel(alpha, sigma, -theta_dot * sigma, theta_dot * alpha, theta_dot)

    def time_of_alpha(self, alpha: Tensor) -> Tensor:
        """The time at which the signal level is ``alpha`` in [0, 1]."""
        sigma = torch.sqrt(1.0 - alpha**2)
        return torch.atan2(sigma, self.d * alpha) / HALF_PI

    def sampling_times(self, steps: int) -> Tensor:
        """(steps + 1,) times from 1 down to 0, in float64: the means of equal steps in t and of equal angles theta.

        Priors and students step at them. Equal steps in t leave most of the way to the last one, equal angles take most
        where little noise is left.
        """
        share = sampling_grid(steps)
        theta = HALF_PI * share
        return (share + torch.atan2(theta.sin(), self.d * theta.cos()) / HALF_PI) / 2

    def rotation(self, t: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Rates (a, b) of the rotation from t to r: with delta = theta_t - theta_r,

            a = (1 - cos delta) / (t - r),   b = sin delta / (t - r).

        For a clean estimate alpha z_t + sigma F that stays what it is, z_r = cos(delta) z_t + sin(delta) F, so the
        average velocity over [r, t] is u = a z_t - b F. Written without the difference quotient: at r = t, a = 0 and b
        = theta', and derivatives with respect to t and r exist everywhere.

        Args:
            t: (B,) times in [0, 1].
            r: (B,) times in [0, t].
        """
        cos_t, sin_t = torch.cos(HALF_PI * t), torch.sin(HALF_PI * t)
        cos_r, sin_r = torch.cos(HALF_PI * r), torch.sin(HALF_PI * r)
        norms = torch.sqrt(cos_t**2 + self.d**2 * sin_t**2) * torch.sqrt(cos_r**2 + self.d**2 * sin_r**2)
        sin_rate = HALF_PI * self.d * torch.sinc((t - r) / 2) / norms
        cos_delta = (cos_t * cos_r + self.d**2 * sin_t * sin_r) / norms
        # 1 - cos = sin^2 / (1 + cos), free of cancellation
        return sin_rate**2 * (t - r) / (1.0 + cos_delta), sin_rate

    def implied_estimate(self, z_t: Tensor, u: Tensor, t: Tensor, r: Tensor) -> Tensor:
        """The clean estimate that an average velocity u over [r, t] stands for, see :meth:`rotation`; at r = t Phi.

        Args:
            z_t: (B, ...) at times t.
            u: Of the same shape.
            t: (B,) times in [0, 1].
            r: (B,) times in [0, t].
        """
        a, b = self.rotation(t, r)
        level = self(t)
        direction = (expand(a, z_t) * z_t - u) / expand(b, z_t)
        return expand(level.alpha, z_t) * z_t + expand(level.sigma, z_t) * direction


def diffuse(z_0: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """z_t = alpha z_0 + sigma eps for z_0 and noise (B, ...)."""
    return expand(level.alpha, z_0) * z_0 + expand(level.sigma, z_0) * noise


def noise_in(z_t: Tensor, z_0: Tensor, level: NoiseLevel) -> Tensor:
    """eps = (z_t - alpha z_0) / sigma, the noise in z_t for the clean estimate ``z_0``; undefined at t = 0."""
    return (z_t - expand(level.alpha, z_t) * z_0) / expand(level.sigma, z_t)


def velocity(z_t: Tensor, z_0: Tensor, level: NoiseLevel) -> Tensor:
    """Velocity of the probability-flow ODE for the clean estimate ``z_0``: theta' (alpha z_t - z_0) / sigma.

    Method section 4; finite for every t > 0, undefined at t = 0.
    """
    return expand(level.theta_dot / level.sigma, z_t) * (expand(level.alpha, z_t) * z_t - z_0)


def sampled_velocity(z_0: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """d z_t / dt = alpha' z_0 + sigma' eps along one noising path from z_0, or from an estimate of it."""
    return expand(level.alpha_dot, z_0) * z_0 + expand(level.sigma_dot, z_0) * noise


def clean_estimate(z_t: Tensor, v: Tensor, level: NoiseLevel) -> Tensor:
    """Phi(v, t) = alpha z_t - sigma v / theta', the inverse of :func:`velocity` (paper eq. 36)."""
    return expand(level.alpha, z_t) * z_t - expand(level.sigma / level.theta_dot, z_t) * v
