"""Exact categorical draws with temperature and nucleus (method section 6).

Uniforms and the CDF are float64, so that rare tokens come as often as they should. What float32 still rounds is a
token's weight, by a relative 2e-7 plus 6e-8 times its logit's distance to the largest (to 0 below 1e-45). The CDF is
inverted over blocks of tokens and then within one, so that a draw reads the vocabulary once.

The nucleus is never built. A token is drawn from the whole distribution, and drawn again where the tokens likelier
than it already reach ``top_p``: what is accepted has the law of the nucleus, without a sort of the vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from diladiff_cli.core.splitmix import GOLDEN, mixed, shifted

BLOCK = 256  # tokens
NOT_FINITE = "the network's logits are not finite"


def tempered_weights(logits: Tensor, temperature: float) -> Tensor:
    """(M, K) softmax(logits / temperature), in the precision of the logits or float32; temperature > 0.

    On a CPU torch's softmax takes half as long as its exponential.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature != 1.0:  # the largest becomes 0, and stays so at temperatures that are 0 in this precision
        logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(logits.dtype).tiny)
    return logits.softmax(-1)


def block_sums(values: Tensor, dtype: torch.dtype) -> Tensor:
    """(M, N) sums of values (M, K) over blocks of :data:`BLOCK`, of which the last may be shorter."""
    whole = values.shape[1] // BLOCK
    sums = torch.unflatten(values[:, : whole * BLOCK], -1, (whole, BLOCK)).sum(-1, dtype=dtype)
    rest = values[:, whole * BLOCK :]
    return torch.cat([sums, rest.sum(-1, keepdim=True, dtype=dtype)], dim=1) if rest.shape[1] else sums


def inverse_cdf(cumulative: Tensor, point: Tensor) -> Tensor:
    """(..., T) the first index whose cumulative weight (..., K) exceeds each of T points (..., T), 0 or more.

    Only indices of positive weight are found: ``cumulative`` rises there, and the point is kept below the total.
    """
    total = cumulative[..., -1:]
    point = torch.minimum(point, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, point, right=True)


@dataclass(frozen=True)
class Categorical:
    """Distributions to draw from, one a row.

    Attributes:
        weights: (M, K), see :func:`tempered_weights`.
        cumulative: (M, N) float64 weights of all blocks up to each.
    """

    weights: Tensor
    cumulative: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> "Categorical":
        return cls(weights, block_sums(weights, torch.float64).cumsum(-1))

    def __getitem__(self, rows: Tensor) -> "Categorical":
        return Categorical(self.weights[rows], self.cumulative[rows])

    @property
    def total(self) -> Tensor:
        """(M,) float64."""
        return self.cumulative[:, -1]

    def of_tokens(self, tokens: Tensor) -> Tensor:
        """(M,) weights of a token a row."""
        return self.weights.gather(-1, tokens[:, None]).squeeze(-1)

    def draw(self, uniform: Tensor) -> Tensor:
        """(M,) tokens whose cumulative weight is the first to exceed u times the total; u (M,) float64 in [0, 1]."""
        return self.draws(uniform[:, None]).squeeze(-1)

    def draws(self, uniform: Tensor) -> Tensor:
        """(M, T) tokens as of :meth:`draw`, for T numbers a row (M, T)."""
        point = uniform * self.cumulative[:, -1:]
        block = inverse_cdf(self.cumulative, point)  # (M, T)
        tokens = BLOCK * block[..., None] + torch.arange(BLOCK, device=block.device)  # (M, T, BLOCK)
        last = self.weights.shape[1] - 1
        weights = self.weights.gather(-1, tokens.clamp(max=last).flatten(1)).view_as(tokens).where(tokens <= last, 0.0)
        before = self.cumulative.gather(-1, (block - 1).clamp(min=0)).where(block > 0, 0.0)
        within = weights.cumsum(-1, dtype=torch.float64)
        # The point is below its block's begin at most on a GPU, whose parallel sums need not rise.
        return BLOCK * block + inverse_cdf(within, (point - before)[..., None].clamp(min=0.0)).squeeze(-1)

    def in_nucleus(self, tokens: Tensor, top_p: float) -> Tensor:
        """(M,) whether the tokens that are strictly likelier than each of ``tokens`` total less than ``top_p``."""
        own = self.of_tokens(tokens)[:, None]
        # compared straight into floats: by way of booleans it takes 9 times as long on a CPU
        likelier = torch.gt(self.weights, own, out=torch.empty_like(self.weights))
        mass = block_sums(likelier.mul_(self.weights), self.weights.dtype).sum(-1, dtype=torch.float64)
        return mass < top_p * self.total


def next_uniform(uniform: Tensor) -> Tensor:
    """The next of a sequence of uniform numbers in [0, 1): the 53 high bits of SplitMix64 of this one's bits."""
    return shifted(mixed(uniform.double().view(torch.int64) + GOLDEN), 11).double() * 2.0**-53


def draw_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """One categorical draw a row by inverse CDF.

    Args:
        logits: (M, K), -inf for tokens that must not be drawn.
        uniform: (M,) float64 draws from U(0, 1).
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Nucleus: only tokens whose strictly likelier ones total less than this; 1 keeps all.

    Returns:
        (M,) tokens, and (M,) their probabilities before the nucleus: tempered, at temperature 0 as at 1.

    Raises:
        FloatingPointError: A row has a logit that is NaN or positive infinity, or none above negative infinity.
    """
    if temperature == 0.0:
        probability = logits.double().softmax(-1).amax(-1)
        if not probability.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        return logits.argmax(-1), probability
    distribution = Categorical.of(tempered_weights(logits, temperature))
    if not distribution.total.isfinite().all():
        raise FloatingPointError(NOT_FINITE)
    tokens = distribution.draw(uniform.double())
    if top_p < 1.0:
        tokens = _redraw_outside_nucleus(distribution, tokens, uniform.double(), top_p)
    return tokens, distribution.of_tokens(tokens).double() / distribution.total


def _redraw_outside_nucleus(distribution: Categorical, tokens: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Replace tokens (M,) until all are in their row's nucleus; each try succeeds with probability top_p or more."""
    tokens = tokens.clone()
    rows = (~distribution.in_nucleus(tokens, top_p)).nonzero().squeeze(-1)
    distribution, uniform = distribution[rows], uniform[rows]
    while len(rows):
        uniform = next_uniform(uniform)
        tokens[rows] = distribution.draw(uniform)
        outside = ~distribution.in_nucleus(tokens[rows], top_p)
        rows, uniform, distribution = rows[outside], uniform[outside], distribution[outside]
    return tokens


def entropies(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """(M,) entropies in nats, float64, of logits (M, K), -inf included, at a temperature above 0, before a nucleus."""
    log_p = (logits.double() / temperature).log_softmax(-1)
    return -torch.where(log_p.isfinite(), log_p.exp() * log_p, 0.0).sum(-1)
