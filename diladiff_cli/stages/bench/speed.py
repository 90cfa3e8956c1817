"""``bench --speed``: how fast texts are drawn, beside the bare network and beside the textbook sampler.

The networks are random: speed does not depend on what was learned. The floor of N steps is N runs of the network's
whole body on all texts, without its vocabulary head.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import product
from statistics import median
from typing import Any

import torch

from diladiff_cli.config import BenchConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.networks.denoiser import TokenDenoiser, with_bf16_matrices
from diladiff_cli.runtime.heap import ALWAYS_RETURNED, returning_freed_memory
from diladiff_cli.runtime.memory import PeakMemory
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.steps import Setting, steps_of, steps_within, textbook_step
from diladiff_cli.stages.bench.timing import ROUNDS, machine, megabytes, seconds
from diladiff_cli.stages.common import seeded
from diladiff_cli.stages.sampling.sampler import sampling_device, with_compiled_blocks


def bench_speed(config: BenchConfig) -> Iterator[Report]:
    """Measure every combination of vocabulary, length, batch size, steps and nucleus, the vocabularies in turn.

    Yields:
        The setting, seconds of a step (``floor``, ``ours``, ``textbook``), tokens per second of whole generations,
        ratios (medians over paired measurements), peak memory, and on what it was measured. ``textbook_default_heap``:
        the textbook sampler, measured after the rest, where its logits go back to the system once they are freed, as in
        most programs; None where they are small, or do so in this one as well, see
        :func:`diladiff_cli.runtime.heap.keep_freed_memory`. ``ratio_to_first_vocabulary``: our step over that of the
        first of the vocabularies; None for that one.
    """
    device = sampling_device()
    config = replace(config, precision=resolved_precision(config.precision, device))
    vocab_sizes = config.integers("vocab_sizes")
    for length in config.integers("lengths"):
        if config.compile:
            torch.compiler.reset()  # of decoders that are measured already
        decoders = {vocab_size: _random_decoder(config, vocab_size, length, device) for vocab_size in vocab_sizes}
        steps = config.integers("decode_steps") or (16, 64, length)
        chosen = dict.fromkeys(n for n in steps if n <= length)
        if not chosen:
            raise ConfigError(
                [f"--decode-steps {config.decode_steps} has none up to length {length}; give smaller ones"]
            )
        for batch_size, decode_steps, top_p in product(
            config.integers("batch_sizes"), chosen, dict.fromkeys((1.0, config.top_p))
        ):
            settings = [Setting(vocab_size, length, batch_size, decode_steps, top_p) for vocab_size in vocab_sizes]
            count = _step_count(decoders[vocab_sizes[0]], settings[0], config)
            measured = [_Measured(decoders[each.vocab_size], each, count, config) for each in settings]
            for _, each in product(range(ROUNDS), measured):
                each.measure_once()
            yield from (each.report(measured[0]) for each in measured)


def _random_decoder(config: BenchConfig, vocab_size: int, length: int, device: torch.device) -> TokenDenoiser:
    shape: dict[str, Any] = {
        "width": config.width,
        "layers": config.layers,
        "heads": 4,
        "activation": "gelu",
        "tie_embeddings": True,
    }
    with seeded(0):
        decoder = TokenDenoiser(vocab_size=vocab_size, mask_id=0, length=length, **shape)
    decoder = decoder.requires_grad_(False).eval().to(device)
    decoder = with_bf16_matrices(decoder) if config.precision == "bf16" else decoder
    return with_compiled_blocks(decoder) if config.compile else decoder


@torch.no_grad()
def _step_count(decoder: TokenDenoiser, setting: Setting, config: BenchConfig) -> int:
    with autocast(decoder.embedding.weight.device, config.precision):
        return steps_within(decoder, setting, config.seconds)


class _Measured:
    """A setting that is measured, perhaps in turn with others."""

    @torch.no_grad()
    def __init__(self, decoder: TokenDenoiser, setting: Setting, steps: int, config: BenchConfig) -> None:
        self.setting, self.config = setting, config
        self.device = decoder.embedding.weight.device
        self.floor_seconds: list[float] = []  # of a step, as all of these
        self.our_seconds: list[float] = []
        self.textbook_seconds: list[float] = []  # of the first rounds alone, where it takes long
        with autocast(self.device, config.precision):
            self.steps = steps_of(decoder, setting, steps)
            if config.compile or self.device.type == "cpu":
                self.steps.ours()  # compiles what the floor does not need, and keeps what a first call alone takes
            with PeakMemory(self.device) as self.memory:
                self.steps.ours()
            self.textbook = textbook_step(decoder, setting)
            self.textbook_once, self.textbook_memory = _first_of(self.textbook, self.device)

    @torch.no_grad()
    def measure_once(self) -> None:
        """Time all once, one after the other."""
        rounds = len(self.our_seconds)
        with autocast(self.device, self.config.precision):
            lasts = (rounds + 1) * (self.textbook_once or 0.0)
            if self.textbook and self.textbook_once and (rounds == 0 or lasts < self.config.seconds):
                self.textbook_seconds.append(seconds(self.textbook, self.device))
            self.floor_seconds.append(seconds(self.steps.floor, self.device) / self.steps.count)
            self.our_seconds.append(seconds(self.steps.ours, self.device) / self.steps.count)

    @torch.no_grad()
    def textbook_with_default_heap(self) -> float | None:
        """Median seconds of its step; None where it is not measured, or not on memory of its own."""
        setting, times = self.setting, len(self.textbook_seconds)
        logits = 8 * setting.batch_size * setting.length * setting.vocab_size  # bytes
        if not self.textbook or not times or self.device.type != "cpu" or logits <= ALWAYS_RETURNED:
            return None
        with autocast(self.device, self.config.precision):
            return _seconds_with_default_heap(self.textbook, times, self.device)

    def report(self, first: "_Measured") -> Report:
        """The figures, also beside those of the first vocabulary."""
        setting, config = self.setting, self.config
        ours, default_heap = median(self.our_seconds), self.textbook_with_default_heap()
        textbook = self.textbook_seconds
        return {
            **asdict(setting),
            "steps_measured": self.steps.count,
            "textbook_steps_measured": len(textbook),
            "seconds": {
                "floor": median(self.floor_seconds),
                "ours": ours,
                "textbook": median(textbook) if textbook else None,
                "textbook_default_heap": default_heap,
            },
            "tokens_per_second": setting.batch_size * setting.length / (ours * setting.decode_steps),
            "ratio_to_floor": _paired(self.our_seconds, self.floor_seconds),
            "ratio_to_first_vocabulary": None if first is self else _paired(self.our_seconds, first.our_seconds),
            "speedup_over_textbook": _paired(textbook, self.our_seconds) if textbook else None,
            "speedup_over_textbook_default_heap": None if default_heap is None else default_heap / ours,
            "peak_megabytes": {
                "ours": None if config.compile else megabytes(self.memory.bytes),
                "textbook": megabytes(self.textbook_memory),
            },
            "width": config.width,
            "layers": config.layers,
            "precision": config.precision,
            "compiled": config.compile,
            "machine": machine(self.device),
        }


def _paired(these: list[float], those: list[float]) -> float:
    """The median ratio of what was measured in the same rounds, as far as both were."""
    return median(this / that for this, that in zip(these, those, strict=False))


def _seconds_with_default_heap(textbook: Callable[[], Any], times: int, device: torch.device) -> float | None:
    """Seconds of a step, measured so many times, where freed memory is returned; None where it is here as well."""
    with returning_freed_memory() as returned:
        return median(seconds(textbook, device) for _ in range(times)) if returned else None


def _first_of(work: Callable[[], Any] | None, device: torch.device) -> tuple[float | None, int | None]:
    """Seconds and peak memory of a first call; None of nothing, and where memory was short all the same."""
    if work is None:
        return None, None
    try:
        with PeakMemory(device) as memory:
            took = seconds(work, device)
    except torch.OutOfMemoryError:
        return None, None
    return took, memory.bytes
