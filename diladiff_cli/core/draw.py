"""Exact categorical draws in float64, with temperature and nucleus (method section 6).

The nucleus is never built. A token is drawn from the whole distribution, and drawn again where the tokens likelier
than it already reach ``top_p``: what is accepted has the law of the nucleus, without a sort of the vocabulary.
"""

import torch
from torch import Tensor

GOLDEN, MIX_1, MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of splitmix64, as signed numbers


def tempered_weights(logits: Tensor, temperature: float) -> Tensor:
    """(M, K) float64 exp(logits / temperature), scaled so that the largest of each row is 1; temperature > 0."""
    scaled = logits.to(torch.float64, copy=True)
    if temperature != 1.0:
        scaled /= temperature
    return scaled.sub_(scaled.amax(-1, keepdim=True)).exp_()


def inverse_cdf(cumulative: Tensor, uniform: Tensor) -> Tensor:
    """(M,) the first index whose cumulative weight (M, K) exceeds u times the total; u (M,) in [0, 1].

    Only indices of positive weight are found: ``cumulative`` rises there, and the point is kept below the total.
    """
    total = cumulative[:, -1:]
    point = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1)


def next_uniform(uniform: Tensor) -> Tensor:
    """The next of a sequence of uniform numbers in [0, 1): the 53 high bits of splitmix64 of this one's bits."""
    x = uniform.double().view(torch.int64) + GOLDEN
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return _shift(x ^ _shift(x, 31), 11).double() * 2.0**-53


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def draw_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """One categorical draw a row by inverse CDF, in float64.

    Args:
        logits: (M, K), -inf for tokens that must not be drawn.
        uniform: (M,) float64 draws from U(0, 1).
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Nucleus: only tokens whose strictly likelier ones total less than this; 1 keeps all.

    Returns:
        (M,) tokens, and (M,) their probabilities under the tempered distribution before the nucleus.
    """
    if temperature == 0.0:
        return logits.argmax(-1), logits.double().softmax(-1).amax(-1)
    weights = tempered_weights(logits, temperature)
    cumulative = weights.cumsum(-1)
    total = cumulative[:, -1]
    tokens = inverse_cdf(cumulative, uniform.double())
    if top_p < 1.0:
        tokens = _redraw_outside_nucleus(weights, cumulative, tokens, uniform.double(), top_p)
    return tokens, weights.gather(-1, tokens[:, None]).squeeze(-1) / total


def _redraw_outside_nucleus(
    weights: Tensor, cumulative: Tensor, tokens: Tensor, uniform: Tensor, top_p: float
) -> Tensor:
    """Replace tokens (M,) until all are in their row's nucleus; each try succeeds with probability top_p or more."""
    tokens, limit = tokens.clone(), top_p * cumulative[:, -1]
    rows = (~_in_nucleus(weights, tokens, limit)).nonzero().squeeze(-1)
    weights, cumulative, limit, uniform = weights[rows], cumulative[rows], limit[rows], uniform[rows]
    while len(rows):
        uniform = next_uniform(uniform)
        tokens[rows] = inverse_cdf(cumulative, uniform)
        outside = ~_in_nucleus(weights, tokens[rows], limit)
        rows, uniform, limit = rows[outside], uniform[outside], limit[outside]
        weights, cumulative = weights[outside], cumulative[outside]
    return tokens


def _in_nucleus(weights: Tensor, tokens: Tensor, limit: Tensor) -> Tensor:
    """(M,) whether the tokens that are strictly likelier than each of ``tokens`` weigh less than ``limit``."""
    own = weights.gather(-1, tokens[:, None])
    return torch.where(weights > own, weights, 0.0).sum(-1) < limit


def entropies(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(M,) entropies in nats, float64, of what is drawn from logits (M, K), which may have -inf; 0 at temperature 0."""
    if temperature == 0.0:
        return torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
    log_p = (logits.double() / temperature).log_softmax(-1)
    return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0).sum(-1)
