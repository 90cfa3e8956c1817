"""The ancestral sampler as it is usually written: all logits at all positions in every step, in float64.

The prediction is normalised by its logsumexp and made certain at known positions, before all of it is drawn from, as
public samplers of masked diffusion do it (``_subs_parameterization`` and ``_ddpm_update`` of MDLM).

It is what :func:`diladiff_cli.core.unmask.unmask` equals in law, but for tokens that tie at the end of a nucleus, and
what benchmarks compare it with.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

TINY = 1e-10  # keeps the logarithm finite


def gumbel_draw(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel-max over the last dimension, as the largest p / -log(u) with u from U(0, 1): a categorical draw."""
    uniform = torch.rand(
        probabilities.shape, generator=generator, dtype=probabilities.dtype, device=probabilities.device
    )
    return (probabilities / -(uniform + TINY).log()).argmax(-1)


def keep_nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all tokens (..., K) but those before which, in falling order, less than ``top_p`` lies; unnormalised.

    Of tokens that tie where the nucleus ends the order decides, where :mod:`diladiff_cli.core.draw` keeps them all.
    """
    ordered, order = probabilities.sort(dim=-1, descending=True)
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(probabilities).scatter_(-1, order, kept)


def log_prediction(logits: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """(B, L, K) float64 log-probabilities from logits (B, L, K), certain where tokens x_t (B, L) are known."""
    logits = logits.double()
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    known = x_t != mask_id
    log_p[known] = -torch.inf
    log_p[known, x_t[known]] = 0.0
    return log_p


def textbook_step(
    logits: Tensor, x_t: Tensor, mask_id: int, t: float, s: float, top_p: float, generator: torch.Generator
) -> Tensor:
    """One reverse step t -> s < t (method section 2) from logits (B, L, K) at all positions of x_t (B, L).

    The distribution of a masked position is (t - s) / t times the prediction, and s / t at the mask token.
    """
    probabilities = log_prediction(logits, x_t, mask_id).exp()
    if top_p < 1.0:
        probabilities = keep_nucleus(probabilities, top_p)
        probabilities /= probabilities.sum(-1, keepdim=True)
    probabilities = probabilities * ((t - s) / t)  # not in place, as in MDLM
    probabilities[..., mask_id] = s / t
    drawn = gumbel_draw(probabilities, generator)
    return torch.where(x_t == mask_id, drawn, x_t)


def textbook_unmask(
    logits_of: Callable[[Tensor], Tensor],
    x: Tensor,
    mask_id: int,
    times: list[float],
    generator: torch.Generator,
    top_p: float = 1.0,
) -> Tensor:
    """Reverse steps along falling ``times``, which for a whole generation go from 1 to 0.

    Args:
        logits_of: x_t (B, L) -> logits (B, L, K), -inf at the mask token.
        x: (B, L) tokens at the first of the times.
        mask_id: The mask token.
        times: Ends of the steps.
        generator: Of the draws.
        top_p: Nucleus.
    """
    for t, s in pairwise(times):
        x = textbook_step(logits_of(x), x, mask_id, t, s, top_p, generator)
    return x
