"""Networks on latents: the prior z_psi and the few-step student u_eta (method sections 4 and 5).

Both share one trunk that predicts a direction F of unit scale at every noise level. In angles,

    clean estimate      z^ = alpha z_t + sigma F
    velocity            v  = -theta' F
    average velocity    u  = ((1 - cos delta) z_t - sin(delta) F) / (t - r),   delta = theta_t - theta_r

so F = 0 is the best linear estimate of a white latent, and a student that starts from the prior's weights starts
as its one-step rotation along the ODE.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.gaussian import TanSchedule, expand
from diladiff_cli.core.objectives import along_ode
from diladiff_cli.networks.layers import Block, init_weights
from diladiff_cli.networks.norms import RMSNorm
from diladiff_cli.networks.products import Linear
from diladiff_cli.networks.rotary import has_rotary, rotary_angles

MAX_FREQUENCY = 100.0  # kept low: the jvp of distillation differentiates the embedding


class TimeEmbedding(nn.Module):
    """Sinusoids of a time in [0, 1] through a two-layer network: (B,) -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frequencies = width // 2
        self.hidden = Linear(2 * self.frequencies, width)
        self.out = Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        exponents = torch.linspace(0, math.log(MAX_FREQUENCY), self.frequencies, dtype=torch.float32, device=t.device)
        angles = t[:, None] * exponents.exp()
        return self.out(torch.nn.functional.silu(self.hidden(torch.cat([angles.cos(), angles.sin()], dim=-1))))


class LatentTrunk(nn.Module):
    """Diffusion transformer on latents with adaLN conditioning and a self-conditioning input.

    Args:
        latents: N, latent vectors.
        latent_width: C, channels of a latent vector.
        width: Width of the residual stream.
        layers: Transformer blocks.
        heads: Attention heads.
        positions: "learned" (absolute), "rotary", or "local": rotary, with attention that starts local.
        interval: Also take the interval t - r (the student).

    Raises:
        ValueError: Unknown positions.
    """

    def __init__(
        self,
        *,
        latents: int,
        latent_width: int,
        width: int,
        layers: int,
        heads: int,
        positions: str = "local",
        interval: bool = False,
    ) -> None:
        super().__init__()
        self.head_width = width // heads
        self.inputs = Linear(2 * latent_width, width)
        self.places = None if has_rotary(positions) else nn.Parameter(torch.zeros(latents, width))
        self.time = TimeEmbedding(width)
        self.interval = TimeEmbedding(width) if interval else None
        self.condition = Linear(width, 6 * width)
        self.blocks = nn.ModuleList(
            Block(width, heads, 4 * width, modulated=True, local=positions == "local") for _ in range(layers)
        )
        self.final_norm = RMSNorm(width)
        self.out = Linear(width, latent_width)
        init_weights(self)
        if self.places is not None:
            nn.init.normal_(self.places, std=0.02)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.condition.weight)
        if self.interval is not None:
            nn.init.zeros_(self.interval.out.weight)

    def ignore_estimates(self) -> None:
        """Have the estimate z~ change nothing until that is trained: for a network that never sees one in training."""
        nn.init.zeros_(self.inputs.weight[:, self.inputs.in_features // 2 :])

    def forward(self, z_t: Tensor, t: Tensor, z_self: Tensor, interval: Tensor | None = None) -> Tensor:
        """Direction F (B, N, C) for z_t and z_self (B, N, C), t and t - r (B,)."""
        embedded = self.time(t)
        if self.interval is not None and interval is not None:
            embedded = embedded + self.interval(interval)
        condition = self.condition(torch.nn.functional.silu(embedded)).unflatten(-1, (6, -1))  # (B, 6, D)
        h = self.inputs(torch.cat([z_t, z_self], dim=-1))  # (B, N, D)
        angles = None
        if self.places is not None:
            h = h + self.places
        else:
            angles = rotary_angles(torch.arange(h.shape[1], device=h.device), self.head_width)
        for block in self.blocks:
            h = block(h, angles, condition)
        return self.out(self.final_norm(h)).float()


class LatentPrior(nn.Module):
    """z_psi(z_t, t, z~): the clean estimate of a noisy latent.

    Args:
        schedule_d: d of the tan-d schedule.
        trunk: Keyword arguments of :class:`LatentTrunk`.
    """

    def __init__(self, *, schedule_d: float, **trunk: Any) -> None:
        super().__init__()
        self.schedule = TanSchedule(schedule_d)
        self.trunk = LatentTrunk(**trunk)

    def forward(self, z_t: Tensor, t: Tensor, z_self: Tensor) -> Tensor:
        """z^ (B, N, C) at times t (B,)."""
        level = self.schedule(t)
        direction = self.trunk(z_t, t, z_self)
        return expand(level.alpha, z_t) * z_t + expand(level.sigma, z_t) * direction


class LatentStudent(nn.Module):
    """u_eta(z_t, t, r, z~): the average velocity over [r, t].

    Args:
        schedule_d: d of the tan-d schedule.
        trunk: Keyword arguments of :class:`LatentTrunk`.
    """

    def __init__(self, *, schedule_d: float, **trunk: Any) -> None:
        super().__init__()
        self.schedule = TanSchedule(schedule_d)
        self.trunk = LatentTrunk(**trunk, interval=True)

    def forward(
        self, z_t: Tensor, t: Tensor, r: Tensor, z_self: Tensor, v: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """u (B, N, C) for 0 <= r <= t <= 1, both (B,); with the velocity v (B, N, C) :meth:`along_ode`."""
        return self.average_velocity(z_t, t, r, z_self) if v is None else self.along_ode(z_t, t, r, z_self, v)

    def along_ode(self, z_t: Tensor, t: Tensor, r: Tensor, z_self: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """u, and without gradient its derivative along the ODE of velocity v at a fixed z_self; all (B, N, C)."""
        return along_ode(lambda z, end, start: self.average_velocity(z, end, start, z_self), z_t, t, r, v)

    def average_velocity(self, z_t: Tensor, t: Tensor, r: Tensor, z_self: Tensor) -> Tensor:
        """u (B, N, C) for 0 <= r <= t <= 1, both (B,)."""
        a, b = self.schedule.rotation(t, r)
        direction = self.trunk(z_t, t, z_self, t - r)
        return expand(a, z_t) * z_t - expand(b, z_t) * direction
