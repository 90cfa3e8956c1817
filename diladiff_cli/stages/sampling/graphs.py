"""Sampling as CUDA graphs: a GPU replays a step at once, where launching its kernels one by one takes longer."""

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diladiff_cli.core.static import RevealPlan, StaticStep
from diladiff_cli.core.unmask import Decoding, Redraws
from diladiff_cli.errors import is_out_of_memory
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.layers import LatentCache
from diladiff_cli.stages.common import MAX_LOGITS

WARM_UP = 3  # runs before a capture, in which libraries choose their kernels
MAX_GRAPHS = 8  # kept at a time
MAX_STEPS = 16  # of latents in one graph
Caches = list[LatentCache | None]
OnStep = Callable[[int, Tensor], None]
Made = TypeVar("Made")


def replays_pay(device: torch.device) -> bool:
    """True on a GPU, where launching kernels one by one takes longer than a small network's work."""
    return device.type == "cuda"


def captured(work: Callable[[], Any], device: torch.device) -> Callable[[], Any]:
    """``work``, which always uses the same tensors, as something that does it again: on a GPU by replaying a graph.

    What it makes lies in memory that all graphs share; only tensors made before keep their values.
    """
    if device.type != "cuda":
        return work
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=_pool(device.index or 0), stream=aside):
            work()
    return graph.replay


@cache
def _pool(index: int) -> Any:
    """The memory of all graphs of a GPU, none of which runs beside another."""
    return torch.cuda.graph_pool_handle()


def weights_of(network: nn.Module) -> tuple[int, ...]:
    """Where a network's weights lie: a graph reads them there, even after others have taken their place."""
    return tuple(tensor.data_ptr() for tensor in (*network.parameters(), *network.buffers()))


def no_memory_for(error: Exception) -> bool:
    """Whether a capture failed for want of memory, which may show as a capture that became invalid."""
    return is_out_of_memory(error) or "StreamCaptureInvalidated" in str(error)


@dataclass(frozen=True)
class DecoderSpan:
    """A network that decodes from a step on.

    Attributes:
        first: Number of that step.
        decoder: A base, or an auto-encoder's decoder.
        z: (B, N, C) latents for it.
    """

    first: int
    decoder: TokenDenoiser
    z: Tensor | None = None


@dataclass(frozen=True)
class Drawing:
    """What is drawn into a batch, and how.

    Attributes:
        shape: (B, L).
        width: Positions that a step reveals at most.
        temperature: Of :class:`Decoding`.
        top_p: Of :class:`Decoding`.
    """

    shape: tuple[int, int]
    width: int
    temperature: float
    top_p: float


class DecodingReplay:
    """The decoding steps of one decoder for batches of one shape.

    Args:
        decoder: A base, or an auto-encoder's decoder.
        caches: Cross-attention to latents of that shape, whose values change from batch to batch; None for a base.
        drawing: Shape and drawing.
        device: Of the decoder.
    """

    def __init__(self, decoder: TokenDenoiser, caches: Caches | None, drawing: Drawing, device: torch.device) -> None:
        self._caches = caches
        decoding = Decoding(1, temperature=drawing.temperature, top_p=drawing.top_p)
        body, head = partial(decoder.body, caches=caches), decoder.float32_logits
        self.step = StaticStep(body, head, drawing.shape, drawing.width, decoder.mask_id, decoding, device)
        self.run = captured(self.step, device)

    def look_at(self, caches: Caches | None) -> None:
        """Attend to the latents of another batch from now on."""
        for mine, new in zip(self._caches or [], caches or [], strict=True):
            if mine is not None and new is not None:
                mine.k.copy_(new.k)
                mine.v.copy_(new.v)


class LatentReplay:
    """The way from noise to latents for batches of one shape.

    Args:
        draw: Starting noise (B, N, C), and further noises or None -> latents.
        z: Noise of that shape.
        noises: Of that shape.
    """

    def __init__(self, draw: Callable[[Tensor, Tensor | None], Tensor], z: Tensor, noises: Tensor | None) -> None:
        self._z, self._noises = z.clone(), None if noises is None else noises.clone()
        self._latents = torch.empty_like(z)
        self._run = captured(lambda: self._latents.copy_(draw(self._z, self._noises)), z.device)

    def __call__(self, z: Tensor, noises: Tensor | None) -> Tensor:
        """Latents (B, N, C)."""
        self._z.copy_(z)
        if self._noises is not None and noises is not None:
            self._noises.copy_(noises)
        self._run()
        return self._latents.clone()


class Replays:
    """What was captured for a sampler; the longest unused goes first."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made | None:
        """What is kept under a key, made if it is not there; None where there is no memory for it."""
        kept: Made | None = self._kept.pop(key, None)
        if kept is None:
            while len(self._kept) >= MAX_GRAPHS:
                del self._kept[next(iter(self._kept))]
            try:
                kept = make()
            except Exception as error:
                if not no_memory_for(error):
                    raise
                self.clear()
                return None
        self._kept[key] = kept
        return kept

    def clear(self) -> None:
        """Free what is kept."""
        self._kept.clear()

    def latents(
        self, draw: Callable[[Tensor, Tensor | None], Tensor], z: Tensor, noises: Tensor | None, key: Hashable
    ) -> Tensor:
        """What ``draw`` makes of noise z (B, N, C) and perhaps more; ``key`` is all else that it depends on."""
        replay = self.get(("latents", z.shape, key), lambda: LatentReplay(draw, z, noises))
        return draw(z, noises) if replay is None else replay(z, noises)

    def unmask(
        self,
        spans: Sequence[DecoderSpan],
        x: Tensor,
        reveal_times: Tensor,
        uniform: Tensor,
        decoding: Decoding,
        on_step: OnStep | None = None,
        redraws: Redraws | None = None,
    ) -> Tensor | None:
        """Tokens of :func:`diladiff_cli.core.unmask.unmask`, from inputs on the CPU.

        Returns:
            (B, L) tokens. None where plain steps must do: before the first step where their logits at once are too
            many or a capture finds no memory, and, next to impossible, after the last where a token was left outside of
            the nucleus.
        """
        first = spans[0].decoder
        plans = RevealPlan.of(x, first.mask_id, reveal_times, uniform, decoding, redraws)
        if max(plan.width for plan in plans) * first.vocab_size > MAX_LOGITS:
            return None
        device, starts = first.embedding.weight.device, [0, decoding.revealing_steps][: len(plans)]
        caches = [None if span.z is None else span.decoder.latent_caches(span.z) for span in spans]
        phases: list[Phase] = []
        for start in sorted({*starts, *(span.first for span in spans)}):
            number = bisect_right([span.first for span in spans], start) - 1
            span, plan = spans[number], plans[bisect_right(starts, start) - 1]
            drawing = Drawing((x.shape[0], x.shape[1]), plan.width, decoding.temperature, decoding.top_p)
            key = ("decoding", id(span.decoder), weights_of(span.decoder), span.z is None, drawing)
            replay = self.get(key, partial(DecodingReplay, span.decoder, caches[number], drawing, device))
            if replay is None:
                return None
            replay.look_at(caches[number])
            phases.append(Phase(start, replay, plan))
        return replayed(phases, x, decoding.steps, on_step)


@dataclass(frozen=True)
class Phase:
    """Decoding steps that are alike.

    Attributes:
        first: Number of the first of them.
        replay: How one is taken.
        plan: What they reveal or draw anew.
    """

    first: int
    replay: DecodingReplay
    plan: RevealPlan


def replayed(phases: Sequence[Phase], x: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor | None:
    """Take all steps.

    Args:
        phases: By their first steps, the first of which is 0.
        x: (B, L) tokens on the CPU.
        steps: N_disc.
        on_step: Called with a step's number and the tokens after it.

    Returns:
        (B, L) tokens; None where one was left outside of the nucleus.
    """
    current = phases[0].replay.step
    current.x.copy_(x)
    for phase in phases:
        phase.replay.step.outside.zero_()
    for phase, end in zip(phases, [*(phase.first for phase in phases[1:]), steps], strict=True):
        step, plan = phase.replay.step, phase.plan
        if step is not current:
            step.x.copy_(current.x)
            current = step
        places, uniform = plan.places.to(step.tokens.device), plan.uniform.to(step.tokens.device)
        rows = {number: row for row, number in enumerate(plan.numbers)}
        for number in range(phase.first, end):
            if number in rows:
                step.places.copy_(places[rows[number]])
                step.uniform.copy_(uniform[rows[number]])
                phase.replay.run()
            if on_step is not None:
                on_step(number, step.x)
    if any(bool(phase.replay.step.outside) for phase in phases):
        return None
    return current.x.clone()
