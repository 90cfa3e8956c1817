"""Reverse masked steps over any denoiser (method section 6).

A position is revealed when the time of the chain falls to its own uniform reveal time: masked at t and revealed by
the step to s with probability (t - s) / t, exactly the ancestral law, and independent of the prediction. So the
vocabulary head, the softmax and the draw run only where a token is revealed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diladiff_cli.core.times import sampling_grid

Body = Callable[[Tensor, Tensor], Tensor]  # (x_t (B', L), rows (B',)) -> hidden (B', L, D)
Head = Callable[[Tensor], Tensor]  # hidden (M, D) -> logits (M, K)
DRAWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn.

    Attributes:
        steps: N_disc, network calls at most.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Nucleus: the likeliest tokens that together reach this probability; 1 keeps all.
        order: "random" is exact; "confidence" reveals the surest positions of each step, as many as random order
            would on average; "threshold" reveals all positions surer than ``threshold``, at least one.
        threshold: Probability for "threshold".
    """

    steps: int
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "random"
    threshold: float = 0.9


def nucleus(probabilities: Tensor, top_p: float) -> Tensor:
    """Zero all but the likeliest tokens up to and including the one that crosses ``top_p``; (M, K), unnormalised."""
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    kept = torch.where(before < top_p, ordered, 0.0)
    return torch.zeros_like(probabilities).scatter(-1, order, kept)


def draw_tokens(logits: Tensor, uniform: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """One categorical draw a row by inverse CDF, in float64.

    Args:
        logits: (M, K), -inf for tokens that must not be drawn.
        uniform: (M,) float64 draws from U(0, 1).
        temperature: As in :class:`Decoding`.
        top_p: As in :class:`Decoding`.

    Returns:
        (M,) tokens, and (M,) their probabilities under the tempered distribution before the nucleus.
    """
    if temperature == 0.0:
        return logits.argmax(-1), logits.double().softmax(-1).amax(-1)
    probabilities = (logits.double() / temperature).softmax(-1)
    kept = nucleus(probabilities, top_p) if top_p < 1.0 else probabilities
    cumulative = kept.cumsum(-1)
    point = uniform.double()[:, None] * cumulative[:, -1:]
    # right=True passes over tokens of probability zero; the clamp guards the last ulp of u * total.
    tokens = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    tokens = torch.minimum(tokens, last_positive(kept))
    return tokens, probabilities.gather(-1, tokens[:, None]).squeeze(-1)


def last_positive(weights: Tensor) -> Tensor:
    """(M,) index of the last positive entry of each row of (M, K)."""
    return weights.shape[-1] - 1 - (weights.flip(-1) > 0).to(torch.uint8).argmax(-1)


def unmask(
    body: Body,
    head: Head,
    x: Tensor,
    mask_id: int,
    reveal_times: Tensor,
    uniform: Tensor,
    decoding: Decoding,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Tensor:
    """Reveal all masked positions of ``x`` in ``decoding.steps`` steps.

    Args:
        body: Hidden states of the examples ``rows`` of the batch.
        head: Logits of hidden states.
        x: (B, L) tokens; those that are not the mask token stay.
        mask_id: The mask token.
        reveal_times: (B, L) uniform draws: a position is revealed when t falls to its own.
        uniform: (B, L) float64 uniform draws, one per position, for its token.
        decoding: Steps, temperature, nucleus and order.
        on_step: Called with the step's number and the tokens after it.

    Returns:
        (B, L) tokens without masks.
    """
    x = x.clone()
    hidden_at_first = (x == mask_id).sum(1)
    grid = sampling_grid(decoding.steps).tolist()
    for step, end in enumerate(grid[1:]):
        if decoding.order == "random":
            _reveal_at_random(body, head, x, mask_id, reveal_times, uniform, decoding, end)
        else:
            _reveal_by_confidence(body, head, x, mask_id, uniform, decoding, end, hidden_at_first)
        if on_step is not None:
            on_step(step, x)
    return x


def _draw(head: Head, hidden: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """:func:`draw_tokens` at hidden states (M, D), some at a time: their float64 logits fill memory."""
    parts = zip(torch.split(hidden, DRAWS_AT_ONCE), torch.split(uniform, DRAWS_AT_ONCE), strict=True)
    drawn = [draw_tokens(head(h), u, decoding.temperature, decoding.top_p) for h, u in parts]
    return torch.cat([tokens for tokens, _ in drawn]), torch.cat([sureness for _, sureness in drawn])


def _reveal_at_random(
    body: Body,
    head: Head,
    x: Tensor,
    mask_id: int,
    reveal_times: Tensor,
    uniform: Tensor,
    decoding: Decoding,
    end: float,
) -> None:
    reveal = (x == mask_id) & (reveal_times >= end)
    rows = reveal.any(1).nonzero().squeeze(1)  # examples in which nothing happens need no call
    if len(rows) == 0:
        return
    hidden = body(x[rows], rows)[reveal[rows]]  # (M, D)
    x[reveal] = _draw(head, hidden, uniform[reveal], decoding)[0]


def _reveal_by_confidence(
    body: Body,
    head: Head,
    x: Tensor,
    mask_id: int,
    uniform: Tensor,
    decoding: Decoding,
    end: float,
    hidden_at_first: Tensor,
) -> None:
    masked = x == mask_id
    if decoding.order == "confidence":
        count = masked.sum(1) - (end * hidden_at_first).round()
        masked &= count[:, None] > 0
    rows = masked.any(1).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    hidden = body(x[rows], rows)[masked[rows]]  # (M, D)
    tokens, sureness = _draw(head, hidden, uniform[masked], decoding)
    confidence = torch.full(x.shape, -1.0, dtype=sureness.dtype, device=x.device)
    confidence[masked] = sureness
    if decoding.order == "threshold":
        count = masked.sum(1) if end == 0.0 else (confidence >= decoding.threshold).sum(1).clamp(min=1)
    ranks = confidence.argsort(dim=1, descending=True, stable=True).argsort(1)
    chosen = masked & (ranks < count[:, None])
    drawn = torch.full_like(x, mask_id)
    drawn[masked] = tokens
    x[chosen] = drawn[chosen]
