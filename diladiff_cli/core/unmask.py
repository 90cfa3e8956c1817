"""Reverse masked steps over any denoiser (method section 6).

A position is revealed when the time of the chain falls to its own uniform reveal time: masked at t and revealed by
the step to s with probability (t - s) / t, exactly the ancestral law, and independent of the prediction. So the
vocabulary head, the softmax, the draw and most of the last block run only where a token is revealed.
:class:`Decoding` has other orders.

Corrector steps follow where they are asked for: each masks some positions once more, far apart, and draws their tokens
given all others, as independent of one another as those of any step (of one token each, it is Gibbs sampling). So what
was drawn together without seeing one another is mended. Not in the paper; correctors of other kinds: Campbell et al.
(2022), Wang et al. (2025, ReMDM).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diladiff_cli.core.draw import draw_tokens, entropies
from diladiff_cli.core.times import sampling_grid, spread_times

# (x_t (B', L), rows (B',), select (B', L)) -> hidden (M, D) at the M selected positions in row-major order
Body = Callable[[Tensor, Tensor, Tensor], Tensor]
Head = Callable[[Tensor], Tensor]  # hidden (M, D) -> logits (M, K)
BLIND_ORDERS = ("random", "spread")  # that do not look at the predictions
ADAPTIVE_ORDERS = ("threshold", "entropy")  # that reveal as many positions a step as the predictions allow
ORDERS = (*BLIND_ORDERS, "confidence", *ADAPTIVE_ORDERS)
SWEEP = 8  # corrector steps in which every position is drawn anew once
# Of sweeps, alternately. Like the golden section they are far from all fractions of small numbers, and from it.
RATIOS = (math.sqrt(2) - 1, math.sqrt(3) - 1)
HEADS_AT_ONCE = 1024  # positions whose logits exist at the same time
# Of them, vocabulary entries drawn from at once: few MB for the caches of a CPU, or what fills a GPU.
ENTRIES_AT_ONCE, ENTRIES_AT_ONCE_GPU = 1 << 20, 1 << 25


@dataclass(frozen=True)
class Decoding:
    """How tokens are drawn.

    Attributes:
        steps: N_disc, network calls at most.
        corrector_steps: How many of them, the last ones, are corrector steps.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_p: Nucleus: the likeliest tokens that together reach this probability; 1 keeps all.
        order: "random" is exact; "spread" reveals positions that lie far apart, as many a step as random order would
            on average, so that less is lost by drawing them independently; "confidence" reveals the surest positions
            of each step, as many too; "threshold" reveals all positions surer than ``threshold``, at least one;
            "entropy" reveals the positions of least entropy as long as those before them total at most
            ``entropy_bound``, which bounds what is lost by drawing them independently (Ben-Hamu et al., 2025).
        threshold: Probability for "threshold".
        entropy_bound: Nats for "entropy".

    Raises:
        ValueError: No steps that reveal, or an unknown order.
    """

    steps: int
    temperature: float = 1.0
    top_p: float = 1.0
    order: str = "random"
    threshold: float = 0.9
    entropy_bound: float = 0.5
    corrector_steps: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.order not in ORDERS:
            raise ValueError(
                f"{self.steps} steps in order {self.order}; give 1 or more, and one of {', '.join(ORDERS)}"
            )
        if not 0 <= self.corrector_steps < self.steps:
            raise ValueError(f"{self.corrector_steps} of {self.steps} steps correct; leave 1 or more that reveal")

    @property
    def revealing_steps(self) -> int:
        """The steps before those of the corrector."""
        return self.steps - self.corrector_steps

    @property
    def sweeps(self) -> int:
        """W, how often the corrector begins anew with all positions; the last sweep may be cut short."""
        return -(-self.corrector_steps // SWEEP)


@dataclass(frozen=True)
class Redraws:
    """Random numbers of corrector steps, by sweep.

    Attributes:
        times: (W, B, L) uniform draws; see :func:`corrector_step_of` for what is made of them.
        uniform: (W, B, L) float64 uniform draws, one per position, for its token.
    """

    times: Tensor
    uniform: Tensor


@dataclass(frozen=True)
class Successor:
    """Networks that take over in the course of decoding.

    Attributes:
        first: Number of their first step.
        body: See :func:`unmask`.
        head: See :func:`unmask`.
    """

    first: int
    body: Body
    head: Head


def unmask(
    body: Body,
    head: Head,
    x: Tensor,
    mask_id: int,
    reveal_times: Tensor,
    uniform: Tensor,
    decoding: Decoding,
    on_step: Callable[[int, Tensor], None] | None = None,
    successor: Successor | None = None,
    redraws: Redraws | None = None,
) -> Tensor:
    """Reveal all masked positions of ``x`` in ``decoding.steps`` steps, those of the corrector among them.

    Args:
        body: Hidden states of the examples ``rows`` of the batch, at some positions.
        head: Logits of hidden states.
        x: (B, L) tokens; those that are not the mask token stay.
        mask_id: The mask token.
        reveal_times: (B, L) uniform draws: a position is revealed when t falls to its own; see :func:`spread_times` for
            what the order "spread" makes of them.
        uniform: (B, L) float64 uniform draws, one per position, for its token.
        decoding: Steps, temperature, nucleus and order.
        on_step: Called with the step's number and the tokens after it.
        successor: Takes the place of ``body`` and ``head`` in the last steps.
        redraws: The random numbers of corrector steps, where there are some.

    Returns:
        (B, L) tokens without masks.

    Raises:
        ValueError: Corrector steps without as many sweeps of random numbers.
    """
    check_redraws(decoding, redraws)
    x = x.clone()
    if decoding.order == "spread":
        reveal_times = spread_times(reveal_times)
    drawn = x == mask_id
    masked_at_start = drawn.sum(1)
    ends = sampling_grid(decoding.revealing_steps).tolist()[1:]
    for step in range(decoding.steps):
        if successor is not None and step >= successor.first:
            body, head = successor.body, successor.head
        if redraws is not None and step >= len(ends):
            sweep, number = divmod(step - len(ends), SWEEP)
            reveal = drawn & (corrector_step_of(redraws.times[sweep], sweep) == number)
            _reveal(body, head, x, mask_id, reveal, redraws.uniform[sweep], decoding)
        elif decoding.order in BLIND_ORDERS:
            reveal = (x == mask_id) & (reveal_times >= ends[step])
            _reveal(body, head, x, mask_id, reveal, uniform, decoding)
        else:
            _reveal_by_confidence(body, head, x, mask_id, uniform, decoding, ends[step], masked_at_start)
        if on_step is not None:
            on_step(step, x)
    return x


def check_redraws(decoding: Decoding, redraws: Redraws | None) -> None:
    """Refuse corrector steps without random numbers.

    Raises:
        ValueError: See :func:`unmask`.
    """
    sweeps = 0 if redraws is None else len(redraws.times)
    if sweeps < decoding.sweeps:
        raise ValueError(f"{decoding.corrector_steps} corrector steps need {decoding.sweeps} sweeps, not {sweeps}")


def corrector_step_of(uniform: Tensor, sweep: int) -> Tensor:
    """(B, L) which of the :data:`SWEEP` steps of a sweep draws each position anew, from uniform draws (B, L).

    Positions of a step lie four apart or more. Those that shared a step of the order "spread", or of the sweep before,
    do so no more often than others: sweeps alternate between two ratios.
    """
    times = spread_times(uniform, RATIOS[sweep % len(RATIOS)])
    return (times * SWEEP).long().clamp(max=SWEEP - 1)


def _draw(head: Head, hidden: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """:func:`draw_tokens` at hidden states (M, D), some at a time: logits fill memory.

    Returns:
        (M,) tokens, and (M,) their confidence: their probabilities, or for the order "entropy" minus the entropies.
    """
    drawn = []
    for some, points in zip(torch.split(hidden, HEADS_AT_ONCE), torch.split(uniform, HEADS_AT_ONCE), strict=True):
        logits = head(some)
        size = max(1, (ENTRIES_AT_ONCE if logits.device.type == "cpu" else ENTRIES_AT_ONCE_GPU) // logits.shape[-1])
        for part, u in zip(torch.split(logits, size), torch.split(points, size), strict=True):
            tokens, confidence = draw_tokens(part, u, decoding.temperature, decoding.top_p)
            if decoding.order == "entropy":  # at temperature 0 all would be certain
                confidence = -entropies(part, decoding.temperature or 1.0)
            drawn.append((tokens, confidence))
    return torch.cat([tokens for tokens, _ in drawn]), torch.cat([confidence for _, confidence in drawn])


def _reveal(
    body: Body, head: Head, x: Tensor, mask_id: int, reveal: Tensor, uniform: Tensor, decoding: Decoding
) -> None:
    rows = reveal.any(1).nonzero().squeeze(1)  # examples in which nothing happens need no call
    if len(rows) == 0:
        return
    x[reveal] = mask_id  # where a corrector step finds tokens
    hidden = body(x[rows], rows, reveal[rows])  # (M, D)
    x[reveal] = _draw(head, hidden, uniform[reveal], decoding)[0]


def _reveal_by_confidence(
    body: Body,
    head: Head,
    x: Tensor,
    mask_id: int,
    uniform: Tensor,
    decoding: Decoding,
    end: float,
    masked_at_start: Tensor,
) -> None:
    masked = x == mask_id
    if decoding.order == "confidence":
        count = masked.sum(1) - (end * masked_at_start).round()
        masked &= count[:, None] > 0
    rows = masked.any(1).nonzero().squeeze(1)
    if len(rows) == 0:
        return
    hidden = body(x[rows], rows, masked[rows])  # (M, D)
    tokens, of_tokens = _draw(head, hidden, uniform[masked], decoding)
    confidence = torch.full(x.shape, -torch.inf, dtype=of_tokens.dtype, device=x.device)
    confidence[masked] = of_tokens
    if decoding.order == "threshold":
        count = (confidence >= decoding.threshold).sum(1).clamp(min=1)
    elif decoding.order == "entropy":
        count = count_within_bound(-confidence, decoding.entropy_bound)
    if end == 0.0:
        count = masked.sum(1)
    ranks = confidence.argsort(dim=1, descending=True, stable=True).argsort(1)
    chosen = masked & (ranks < count[:, None])
    drawn = torch.full_like(x, mask_id)
    drawn[masked] = tokens
    x[chosen] = drawn[chosen]


def count_within_bound(entropy: Tensor, bound: float) -> Tensor:
    """(B,) how many positions of least entropy (B, L) can go before their total, without the last, exceeds ``bound``.

    The first always goes; positions of infinite entropy never do.
    """
    ordered = entropy.sort(dim=1).values
    before = torch.where(ordered.isfinite(), ordered, 0.0).cumsum(1) - ordered
    return ((before <= bound) & ordered.isfinite()).sum(1)
