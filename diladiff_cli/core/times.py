"""Laws and grids of times in [0, 1]."""

import math

import torch
from torch import Tensor

GOLDEN_SECTION = (math.sqrt(5) - 1) / 2  # its multiples modulo 1 spread evenly, however many there are


def low_discrepancy(offset: float | Tensor, positions: Tensor, batch_size: int) -> Tensor:
    """Stratified uniform times: one in each of ``batch_size`` equal strata, all shifted together.

    Neighbouring examples get distant strata, so that every part of a batch has easy and hard times alike.

    Args:
        offset: One draw from U(0, 1), shared by the batch.
        positions: (B,) places of the examples in the global batch, 0 to batch_size - 1.
        batch_size: Size of the global batch.

    Returns:
        (B,) times in (0, 1]; each is uniform on its own.
    """
    strata = torch.remainder(positions * scattering_stride(batch_size), batch_size)
    return 1.0 - torch.remainder(offset + strata.float() / batch_size, 1.0)


def spread_times(uniform: Tensor, ratio: float = GOLDEN_SECTION) -> Tensor:
    """Reveal times that put positions far apart in the text where they are near in time.

    Position p is revealed at frac(u + s p g): g is the golden section, u an offset and s = 1 or -1 a direction of each
    example's own (a Kronecker sequence). With it every interval of times holds nearly its share of the positions
    (within four, for texts of up to 1,024), and positions revealed within the same Nth of the time lie N / sqrt 5 or
    more apart (Hurwitz). Related to the Halton order for images (Besnier et al., 2025) and to dilated unmasking
    (Luxembourg et al., 2025).

    Args:
        uniform: (B, L) draws from U(0, 1); only the first and the last column are used.
        ratio: g, or another that no fraction of small numbers is near to.

    Returns:
        (B, L) times in [0, 1); each is uniform on its own.
    """
    directions = torch.where(uniform[:, -1:] < 0.5, 1.0, -1.0).to(uniform.dtype)
    places = torch.arange(uniform.shape[1], device=uniform.device, dtype=uniform.dtype)
    return torch.remainder(uniform[:, :1] + directions * places * ratio, 1.0)


def scattering_stride(size: int) -> int:
    """The number nearest to the golden section of ``size`` that has no divisor in common with it."""
    golden = round(GOLDEN_SECTION * size)
    return next(
        stride
        for distance in range(size + 1)
        for stride in (golden + distance, golden - distance)
        if stride > 0 and math.gcd(stride, size) == 1
    )


def ordered_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """(t, r) with r <= t from two draws of shape (B,)."""
    return torch.maximum(first, second), torch.minimum(first, second)


def logit_normal(normal: Tensor, mean: float, std: float) -> Tensor:
    """Logit-normal times from standard normal draws of any shape (method section 5)."""
    return torch.sigmoid(mean + std * normal)


def sampling_grid(steps: int) -> Tensor:
    """(steps + 1,) equally spaced times from 1 down to 0, in float64."""
    return torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64, device="cpu")
