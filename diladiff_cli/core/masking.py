"""The masked forward kernel on tokens (method section 2): alpha_t = 1 - t, t = 0 clean, t = 1 all masked."""

import torch
from torch import Tensor


def alpha(t: Tensor) -> Tensor:
    """Probability that a token is still visible at time t in [0, 1]; same shape as ``t``."""
    return 1.0 - t


def elbo_weight(t: Tensor) -> Tensor:
    """Weight of a masked token's cross-entropy in the exact bound: -alpha'_t / (1 - alpha_t) = 1/t."""
    return 1.0 / t


def draw_mask(t: Tensor, uniform: Tensor) -> Tensor:
    """Which positions are masked at time t.

    Args:
        t: (B,) times in [0, 1].
        uniform: (B, L) draws from U(0, 1), one per position.

    Returns:
        (B, L) bool, True with probability t.
    """
    return uniform < t[:, None]


def apply_mask(x: Tensor, is_masked: Tensor, mask_id: int) -> Tensor:
    """Replace the masked positions of ``x`` (B, L) by ``mask_id``."""
    return torch.where(is_masked, mask_id, x)
