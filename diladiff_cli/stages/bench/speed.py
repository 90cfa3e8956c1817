"""``bench --speed``: how fast texts are drawn, beside the bare network and beside the textbook sampler.

The networks are random: speed does not depend on what was learned. The floor of N steps is N runs of the network's
whole body on all texts, without its vocabulary head.
"""

import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor

from diladiff_cli.config import BenchConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.core.static import can_be_static
from diladiff_cli.core.textbook import textbook_unmask
from diladiff_cli.core.times import sampling_grid
from diladiff_cli.core.unmask import Decoding, unmask
from diladiff_cli.networks.denoiser import TokenDenoiser, with_bf16_matrices
from diladiff_cli.runtime.heap import ALWAYS_RETURNED, returning_freed_memory
from diladiff_cli.runtime.memory import PeakMemory, available_bytes
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.runtime.randomness import generator
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.common import seeded
from diladiff_cli.stages.sampling.graphs import DecoderSpan, Replays, captured, replays_pay
from diladiff_cli.stages.sampling.sampler import decoding_functions, sampling_device, with_compiled_blocks

Report = dict[str, Any]
T = TypeVar("T")
ROUNDS = 3  # pairs of measurements, of which the median counts
# Float64 tensors of all logits that the textbook sampler has at the same time, on a CPU at length 128: 4.3 to 6.7, and
# 5.4 to 8.7 as measured.
TEXTBOOK_COPIES, TEXTBOOK_COPIES_NUCLEUS = 7, 9


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        vocab_size: K.
        length: L.
        batch_size: B, texts drawn at once.
        decode_steps: N_disc.
        top_p: Nucleus; 1 for none.
    """

    vocab_size: int
    length: int
    batch_size: int
    decode_steps: int
    top_p: float


@dataclass(frozen=True)
class Window:
    """Successive steps of a generation: all of them, or those in its middle, where the state is as it would be.

    Attributes:
        x: (B, L) tokens before the first of the steps.
        reveal_times: (B, L); what later steps would reveal has -1, which is never.
        times: Ends of the steps, one more than there are steps.
    """

    x: Tensor
    reveal_times: Tensor
    times: list[float]

    @classmethod
    def of(cls, setting: Setting, steps: int, mask_id: int, device: torch.device) -> "Window":
        """The ``steps`` in the middle of a generation."""
        shape, chance = (setting.batch_size, setting.length), generator(device, 17)
        first = (setting.decode_steps - steps) // 2
        times = sampling_grid(setting.decode_steps).tolist()[first : first + steps + 1]
        reveal_times = torch.rand(shape, generator=chance, device=device, dtype=torch.float64)
        tokens = torch.randint(mask_id + 1, setting.vocab_size, shape, generator=chance, device=device)
        x = torch.where(reveal_times >= times[0], tokens, mask_id)
        return cls(x, torch.where(reveal_times < times[-1], -1.0, reveal_times), times)


def bench_speed(config: BenchConfig) -> Iterator[Report]:
    """Measure every combination of vocabulary, length, batch size, steps and nucleus.

    Yields:
        The setting, seconds of a step (``floor``, ``ours``, ``textbook``), tokens per second of whole generations,
        ratios (medians over paired measurements), peak memory, and on what it was measured. ``textbook_default_heap``:
        the textbook sampler, measured after the rest, where its logits go back to the system once they are freed, as in
        most programs; None where they are small, or do so in this one as well, see
        :func:`diladiff_cli.runtime.heap.keep_freed_memory`.
    """
    device = sampling_device()
    config = replace(config, precision=resolved_precision(config.precision, device))
    for vocab_size, length in product(config.integers("vocab_sizes"), config.integers("lengths")):
        decoder = _random_decoder(config, vocab_size, length, device)
        steps = config.integers("decode_steps") or (16, 64, length)
        chosen = dict.fromkeys(n for n in steps if n <= length)
        if not chosen:
            raise ConfigError(
                [f"--decode-steps {config.decode_steps} has none up to length {length}; give smaller ones"]
            )
        for batch_size, decode_steps in product(config.integers("batch_sizes"), chosen):
            for top_p in dict.fromkeys((1.0, config.top_p)):
                yield measure(decoder, Setting(vocab_size, length, batch_size, decode_steps, top_p), config)


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
    if not config.compile:
        return decoder
    torch.compiler.reset()  # of decoders that are measured already
    return with_compiled_blocks(decoder)


@torch.no_grad()
def measure(decoder: TokenDenoiser, setting: Setting, config: BenchConfig) -> Report:
    """The figures of one setting."""
    device = decoder.embedding.weight.device
    with autocast(device, config.precision):
        floor, ours, steps = _steps_of(decoder, setting, config.seconds)
        if config.compile:
            ours()  # compiles what the floor does not need, and keeps what a first call alone takes
        with PeakMemory(device) as memory:
            ours()
        textbook = _textbook(decoder, setting)
        book_once, book_memory = _first_of(textbook, device)
        rounds: list[tuple[float, float, float | None]] = []
        for number in range(ROUNDS):
            repeated = textbook and book_once and (number == 0 or (number + 1) * book_once < config.seconds)
            book = seconds(textbook, device) if textbook and repeated else None
            rounds.append((seconds(floor, device) / steps, seconds(ours, device) / steps, book))
        books = [(book, ours_step) for _, ours_step, book in rounds if book is not None]
        logits = 8 * setting.batch_size * setting.length * setting.vocab_size  # bytes
        default_heap = None
        if textbook and books and device.type == "cpu" and logits > ALWAYS_RETURNED:
            default_heap = _seconds_with_default_heap(textbook, len(books), device)
    ours_step = median(step for _, step, _ in rounds)
    return {
        **asdict(setting),
        "steps_measured": steps,
        "textbook_steps_measured": len(books),
        "seconds": {
            "floor": median(step for step, _, _ in rounds),
            "ours": ours_step,
            "textbook": median(book for book, _ in books) if books else None,
            "textbook_default_heap": default_heap,
        },
        "tokens_per_second": setting.batch_size * setting.length / (ours_step * setting.decode_steps),
        "ratio_to_floor": median(step / bare for bare, step, _ in rounds),
        "speedup_over_textbook": median(book / step for book, step in books) if books else None,
        "speedup_over_textbook_default_heap": None if default_heap is None else default_heap / ours_step,
        "peak_megabytes": {
            "ours": None if config.compile else megabytes(memory.bytes),
            "textbook": megabytes(book_memory),
        },
        "width": config.width,
        "layers": config.layers,
        "precision": config.precision,
        "compiled": config.compile,
        "machine": machine(device),
    }


def _steps_of(
    decoder: TokenDenoiser, setting: Setting, limit: float
) -> tuple[Callable[[], None], Callable[[], None], int]:
    """The same steps of the bare body and of our sampler, and how many: as many as take about ``limit`` seconds."""
    device = decoder.embedding.weight.device
    body, head = decoding_functions(decoder)
    whole = Window.of(setting, setting.decode_steps, decoder.mask_id, device)
    decoder.body(whole.x)
    once = seconds(lambda: decoder.body(whole.x), device)
    steps = min(setting.decode_steps, max(1, int(limit / once)))
    window = Window.of(setting, steps, decoder.mask_id, device)
    uniform = torch.rand(window.x.shape, generator=generator(device, 18), device=device, dtype=torch.float64)
    decoding = Decoding(setting.decode_steps, top_p=setting.top_p)

    static = replays_pay(device) and can_be_static(decoding)
    bare, replays = captured(lambda: decoder.body(window.x), device), Replays()
    x, reveal_times, numbers = window.x.cpu(), window.reveal_times.cpu(), uniform.cpu()

    def floor() -> None:
        for _ in range(steps):
            bare()

    def ours() -> None:
        if not static:
            unmask(body, head, window.x, decoder.mask_id, window.reveal_times, uniform, decoding)
        elif replays.unmask([DecoderSpan(0, decoder)], x, reveal_times, numbers, decoding) is None:
            raise RuntimeError("steps of one shape did not serve")

    return floor, ours, steps


def _textbook(decoder: TokenDenoiser, setting: Setting) -> Callable[[], Any] | None:
    """A step of the textbook sampler; None where it does not fit into memory."""
    device = decoder.embedding.weight.device
    copies = TEXTBOOK_COPIES if setting.top_p == 1.0 else TEXTBOOK_COPIES_NUCLEUS
    if not fits(8 * copies * setting.batch_size * setting.length * setting.vocab_size, device):
        return None
    window = Window.of(setting, 1, decoder.mask_id, device)
    chance = generator(device, 19)
    return lambda: textbook_unmask(decoder, window.x, decoder.mask_id, window.times, chance, setting.top_p)


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


def fits(needed: int, device: torch.device) -> bool:
    """Whether so many bytes would leave a fifth of what is free."""
    free = available_bytes(device)
    return free is None or needed <= 0.8 * free


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """What ``work`` returns, and the seconds until the device has done it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """How long ``work`` takes, until the device has done it."""
    return timed(work, device)[1]


def machine(device: torch.device) -> str:
    """The device and torch's version, as a figure should name them."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{processor()}, {torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"


@cache
def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name where the system gives it, with family and model: different ones share a name."""
    try:
        fields = [line.split(":", 1) for line in file.read_text().splitlines() if ":" in line]
    except (OSError, UnicodeDecodeError):
        fields = []
    found = {name.strip(): value.strip() for name, value in reversed(fields)}  # those of the first core
    names = ("model name", "cpu family", "model")
    if any(name not in found for name in names):
        return platform.processor() or "CPU"
    return "{} (family {}, model {})".format(*(found[name] for name in names))


def megabytes(count: int | None) -> float | None:
    """Bytes as megabytes."""
    return None if count is None else count / 1e6
