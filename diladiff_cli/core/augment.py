"""Augmentations that make the auto-encoder's latent learnable by diffusion (method section 3).

"Half" is per example: ``first`` says which of the two corruptions an example gets.
"""

import torch
from torch import Tensor


def _keep(uniform: Tensor, p_mask: float, unit: str) -> Tensor:
    """(B, N, C) or (B, N, 1) bool of the entries that stay; ``uniform`` is (B, N, C), or (B, N, 1) for positions."""
    return (uniform if unit == "element" else uniform[..., :1]) >= p_mask


def augment_features(
    features: Tensor,
    *,
    first: Tensor,
    uniform: Tensor,
    noise: Tensor,
    sigma_feat: float,
    p_feat_mask: float,
    unit: str = "position",
) -> tuple[Tensor, Tensor]:
    """Mask positions of one half of the examples, add variance-preserving noise to the other half.

    Args:
        features: (B, L, D), standardised.
        first: (B,) bool; True masks, False adds noise.
        uniform: (B, L, D) draws from U(0, 1); (B, L, 1) suffices for positions.
        noise: (B, L, D) standard normal draws.
        sigma_feat: Standard deviation s of the noise; the features are scaled by sqrt(1 - s^2).
        p_feat_mask: Masking probability.
        unit: Mask whole "position" vectors or single "element" entries.

    Returns:
        The augmented features, and (B, L) bool: the positions that attention may see.
    """
    keep = _keep(uniform, p_feat_mask, unit) | ~first[:, None, None]
    noisy = (1.0 - sigma_feat**2) ** 0.5 * features + sigma_feat * noise
    out = torch.where(first[:, None, None], features * keep, noisy)
    return out, keep.any(-1)


def augment_latents(
    z: Tensor,
    *,
    first: Tensor,
    drop: Tensor,
    uniform: Tensor,
    noise: Tensor,
    mean: Tensor,
    std: Tensor,
    p_latent_drop: float,
    p_latent_mask: float,
    unit: str = "position",
) -> tuple[Tensor, Tensor]:
    """Replace latents of one half of the examples by matched noise, mask positions of the other half.

    Args:
        z: (B, N, C) latents.
        first: (B,) bool; True may be dropped, False is masked.
        drop: (B,) draws from U(0, 1) that decide the dropping.
        uniform: (B, N, C) draws from U(0, 1); (B, N, 1) suffices for positions.
        noise: (B, N, C) standard normal draws.
        mean: (N, C) running mean of the latents.
        std: (N, C) running standard deviation.
        p_latent_drop: Probability that a latent of the first half becomes mean + std * noise.
        p_latent_mask: Masking probability in the second half.
        unit: As in :func:`augment_features`.

    Returns:
        The augmented latents, and (B, N) bool: the vectors that attention may see.
    """
    dropped = first & (drop < p_latent_drop)
    keep = _keep(uniform, p_latent_mask, unit) | first[:, None, None]
    out = torch.where(dropped[:, None, None], mean + std * noise, z * keep)
    return out, keep.any(-1)
