"""Blind orders in steps of one shape, which a GPU can replay without being told anew what to do.

Where a blind order reveals is known before the first step: all positions are laid out then, padded to the longest step.
The tokens are those of :func:`diladiff_cli.core.unmask.unmask`, for the same random numbers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from diladiff_cli.core.draw import Categorical, next_uniform, tempered_weights
from diladiff_cli.core.times import sampling_grid, spread_times
from diladiff_cli.core.unmask import BLIND_ORDERS, SWEEP, Decoding, Head, Redraws, check_redraws, corrector_step_of

MIN_WIDTH = 16
LEFT_OUT = 1e-9  # chance that a draw ends outside of the nucleus, which is noticed
MAX_DRAWS = 32


@dataclass(frozen=True)
class RevealPlan:
    """What is revealed when, for a batch (B, L).

    Attributes:
        numbers: Indices of the S steps that reveal something, or draw it anew.
        places: (S, M) positions in the flattened batch; B * L pads.
        uniform: (S, M, T) float64, the numbers that each position's token is drawn with, until it is in the nucleus.
    """

    numbers: list[int]
    places: Tensor
    uniform: Tensor

    @property
    def width(self) -> int:
        """M."""
        return self.places.shape[1]

    @classmethod
    def of(
        cls,
        x: Tensor,
        mask_id: int,
        reveal_times: Tensor,
        uniform: Tensor,
        decoding: Decoding,
        redraws: Redraws | None = None,
    ) -> "list[RevealPlan]":
        """Plans for tokens x, reveal times and uniform draws (B, L) on the CPU, see :func:`unmask`.

        One is of the steps that reveal, and where there are corrector steps another of those, whose width differs.

        Raises:
            ValueError: The order looks at predictions, or as of :func:`unmask`.
        """
        check_redraws(decoding, redraws)
        if decoding.order not in BLIND_ORDERS:
            raise ValueError(f"order {decoding.order} cannot be planned")
        times = spread_times(reveal_times) if decoding.order == "spread" else reveal_times
        ends = sampling_grid(decoding.revealing_steps)[1:].to(times.dtype)
        passed = torch.searchsorted(ends.flip(0), times.contiguous(), right=True)  # ends at or below each time
        steps, uniforms = (len(ends) - passed)[None], uniform[None]  # (1 + W, B, L), a turn more for each sweep
        if redraws is not None:
            again = [len(ends) + SWEEP * i + corrector_step_of(uniform, i) for i, uniform in enumerate(redraws.times)]
            steps = torch.cat([steps.where(steps < len(ends), decoding.steps), torch.stack(again)])
            uniforms = torch.cat([uniforms, redraws.uniform])
        steps = torch.where(x == mask_id, steps, decoding.steps)  # from decoding.steps on: never
        bounds = [0, len(ends), *([decoding.steps] if decoding.corrector_steps else [])]
        return [cls._between(first, last, steps, uniforms.double(), decoding) for first, last in pairwise(bounds)]

    @classmethod
    def _between(cls, first: int, last: int, steps: Tensor, uniforms: Tensor, decoding: Decoding) -> "RevealPlan":
        """Of the steps from ``first`` to before ``last``.

        ``steps`` (1 + W, B, L) says in which step each position is drawn, ``uniforms`` with which number.
        """
        size = steps[0].numel()
        steps, uniforms = steps.flatten(), uniforms.flatten()
        drawn = ((steps >= first) & (steps < last)).nonzero().squeeze(1)
        drawn = drawn[steps[drawn].argsort(stable=True)]
        counts = torch.bincount(steps[drawn] - first, minlength=last - first)
        parts = [(first + i, part) for i, part in enumerate(torch.split(drawn, counts.tolist())) if len(part)]
        places = torch.full((len(parts), padded_width(int(counts.max()))), size, device=steps.device)
        uniform = torch.zeros(places.shape, dtype=uniforms.dtype, device=steps.device)
        for row, (_, part) in enumerate(parts):
            places[row, : len(part)] = part % size
            uniform[row, : len(part)] = uniforms[part]
        following = [uniform]
        while len(following) < draws_at_most(decoding):
            following.append(next_uniform(following[-1]))
        return cls([number for number, _ in parts], places, torch.stack(following, dim=-1))


def padded_width(count: int) -> int:
    """At least ``count``, and an eighth more at most beyond 128, so that batches alike have few widths."""
    unit = max(MIN_WIDTH, 1 << max(0, count.bit_length() - 4))
    return unit * max(1, math.ceil(count / unit))


def draws_at_most(decoding: Decoding) -> int:
    """T, how often a token is drawn until one outside of the nucleus is as rare as :data:`LEFT_OUT`."""
    if decoding.top_p >= 1.0 or decoding.temperature == 0.0:
        return 1
    return math.ceil(math.log(LEFT_OUT) / math.log1p(-decoding.top_p))


def can_be_static(decoding: Decoding) -> bool:
    """Whether steps of one shape serve: in blind orders, with a nucleus that few draws reach."""
    return decoding.order in BLIND_ORDERS and draws_at_most(decoding) <= MAX_DRAWS


class StaticStep:
    """A decoding step on buffers of fixed shape.

    Args:
        body: Hidden states (B, L, D) of the whole batch (B, L).
        head: Logits of hidden states.
        shape: (B, L).
        width: M, positions that a step reveals at most.
        mask_id: The mask token, which ``places`` hold as they are looked at.
        decoding: Temperature and nucleus.
        device: Where the buffers are.

    Attributes:
        tokens: (B * L + 1,) the batch; what the padding reveals goes to the last.
        places: (M,) see :class:`RevealPlan`.
        uniform: (M, T) see :class:`RevealPlan`.
        outside: Whether a token was left that lies outside of the nucleus.
    """

    def __init__(
        self,
        body: Callable[[Tensor], Tensor],
        head: Head,
        shape: tuple[int, int],
        width: int,
        mask_id: int,
        decoding: Decoding,
        device: torch.device,
    ) -> None:
        self.body, self.head, self.shape, self.mask_id, self.decoding = body, head, shape, mask_id, decoding
        size = shape[0] * shape[1]
        self.tokens = torch.zeros(size + 1, dtype=torch.int64, device=device)
        self.places = torch.full((width,), size, device=device)
        self.uniform = torch.zeros(width, draws_at_most(decoding), dtype=torch.float64, device=device)
        self.outside = torch.zeros((), dtype=torch.bool, device=device)

    @property
    def x(self) -> Tensor:
        """(B, L) the batch."""
        return self.tokens[:-1].view(self.shape)

    def __call__(self) -> None:
        """Reveal ``places``, or draw them anew."""
        size = len(self.tokens) - 1
        self.tokens.index_fill_(0, self.places, self.mask_id)
        hidden = self.body(self.x).flatten(0, 1)[self.places.clamp(max=size - 1)]  # (M, D)
        logits = self.head(hidden)
        if self.decoding.temperature == 0.0:
            tokens = logits.argmax(-1)
        else:
            tokens, outside = first_inside(logits, self.uniform, self.decoding)
            self.outside |= (outside & (self.places < size)).any()
        self.tokens.scatter_(0, self.places, tokens)


def first_inside(logits: Tensor, uniform: Tensor, decoding: Decoding) -> tuple[Tensor, Tensor]:
    """The first of T draws a row that is in the nucleus, as in :func:`diladiff_cli.core.draw.draw_tokens`.

    Args:
        logits: (M, K).
        uniform: (M, T) float64, each number the next one of the one before it.
        decoding: Temperature, not 0, and nucleus.

    Returns:
        (M,) tokens, and (M,) whether all T are outside.
    """
    distribution = Categorical.of(tempered_weights(logits, decoding.temperature))
    tokens = distribution.draws(uniform)  # (M, T)
    if decoding.top_p >= 1.0:
        return tokens[:, 0], torch.zeros_like(tokens[:, 0], dtype=torch.bool)
    inside = torch.stack([distribution.in_nucleus(drawn, decoding.top_p) for drawn in tokens.unbind(1)], dim=1)
    first = inside.int().argmax(1, keepdim=True)
    return tokens.gather(1, first).squeeze(1), ~inside.any(1)
