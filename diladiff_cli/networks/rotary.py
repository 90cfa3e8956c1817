"""Rotary positions: queries and keys turned by angles that grow with their place."""

import torch
from torch import Tensor

ROTARY_BASE = 10_000.0


def has_rotary(positions: str, qk_norm: bool = True) -> bool:
    """Whether a position encoding turns queries and keys: "rotary" and "local" do, "learned" does not.

    Raises:
        ValueError: Another name, or local attention, which starts from a constant after QK-norm, without that.
    """
    if positions not in ("learned", "rotary", "local"):
        raise ValueError(f"positions are {positions!r}, neither learned nor rotary nor local")
    if positions == "local" and not qk_norm:
        raise ValueError("local positions need QK-norm")
    return positions != "learned"


def rotary_angles(positions: Tensor, head_width: int) -> Tensor:
    """(N, head_width / 2) rotation angles for real-valued positions (N,)."""
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    return positions[:, None].float() * ROTARY_BASE**-exponents


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding in half-split form: x (B, H, N, d) by angles (N, d / 2)."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
