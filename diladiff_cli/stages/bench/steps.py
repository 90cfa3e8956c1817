"""What ``bench --speed`` times: steps of the bare body, of our sampler and of the textbook one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diladiff_cli.core.static import can_be_static
from diladiff_cli.core.textbook import textbook_unmask
from diladiff_cli.core.times import sampling_grid
from diladiff_cli.core.unmask import Decoding, unmask
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.runtime.randomness import generator
from diladiff_cli.stages.bench.timing import fits, seconds
from diladiff_cli.stages.sampling.graphs import DecoderSpan, Replays, captured, replays_pay
from diladiff_cli.stages.sampling.sampler import decoding_functions

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


@dataclass(frozen=True)
class Steps:
    """The same steps of a generation in two ways.

    Attributes:
        count: How many there are.
        floor: Runs the bare body as often, on all texts.
        ours: Runs our sampler.
    """

    count: int
    floor: Callable[[], None]
    ours: Callable[[], None]


def steps_within(decoder: TokenDenoiser, setting: Setting, limit: float) -> int:
    """How many steps of a setting, one at least and all at most, take the bare body about ``limit`` seconds."""
    device = decoder.embedding.weight.device
    whole = Window.of(setting, setting.decode_steps, decoder.mask_id, device)
    decoder.body(whole.x)
    once = seconds(lambda: decoder.body(whole.x), device)
    return min(setting.decode_steps, max(1, int(limit / once)))


def steps_of(decoder: TokenDenoiser, setting: Setting, steps: int) -> Steps:
    """So many steps of a setting, in the middle of a generation."""
    device = decoder.embedding.weight.device
    body, head = decoding_functions(decoder)
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

    return Steps(steps, floor, ours)


def textbook_step(decoder: TokenDenoiser, setting: Setting) -> Callable[[], Any] | None:
    """A step of the textbook sampler; None where it does not fit into memory."""
    device = decoder.embedding.weight.device
    copies = TEXTBOOK_COPIES if setting.top_p == 1.0 else TEXTBOOK_COPIES_NUCLEUS
    if not fits(8 * copies * setting.batch_size * setting.length * setting.vocab_size, device):
        return None
    window = Window.of(setting, 1, decoder.mask_id, device)
    chance = generator(device, 19)
    return lambda: textbook_unmask(decoder, window.x, decoder.mask_id, window.times, chance, setting.top_p)
