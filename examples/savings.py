"""What single savings of the sampler are worth: each one undone by itself, beside the sampler as it is.

    python examples/savings.py [--rounds 5] [--only 0 ...] > savings.jsonl

A line of JSON for each: the time of a generation as it is over that without the saving, the median of paired
measurements. The network is that of ``diladiff bench --speed``, random, with cross-attention to a latent, which one
saving does without: 6 layers of width 256, vocabulary 4,096, length 128, in bf16 where the processor has its products.
"""

import argparse
import copy
import json
import statistics
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.unmask import Body, Decoding, Head, unmask
from diladiff_cli.networks.denoiser import TokenDenoiser, with_bf16_matrices
from diladiff_cli.networks.layers import SelfAttention
from diladiff_cli.runtime.heap import keep_freed_memory
from diladiff_cli.runtime.precision import has_fast_bf16
from diladiff_cli.stages.bench.timing import machine, seconds
from diladiff_cli.stages.sampling.sampler import decoding_functions

CPU = torch.device("cpu")
VOCAB, LENGTH, LATENTS, CHANNELS = 4096, 128, 64, 64
Functions = tuple[Body, Head]
Variant = Callable[[TokenDenoiser, Any], Functions]  # of a decoder, and latents or None


class ThreeProducts(nn.Module):
    """Queries, keys and values as three products instead of one."""

    def __init__(self, fused: nn.Linear) -> None:
        super().__init__()
        parts = fused.weight.detach().chunk(3)
        self.parts = nn.ParameterList(nn.Parameter(part.clone(), requires_grad=False) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([nn.functional.linear(x, part) for part in self.parts], dim=-1)


def as_it_is(decoder: TokenDenoiser, z: Tensor | None) -> Functions:
    return decoding_functions(_ready(decoder), z)


def separate_products(decoder: TokenDenoiser, z: Tensor) -> Functions:
    decoder = copy.deepcopy(_ready(decoder))
    for part in decoder.blocks[:-1].modules():  # in the last one queries are apart as it is
        if isinstance(part, SelfAttention):
            part.qkv = ThreeProducts(part.qkv)  # type: ignore[assignment]
    return decoding_functions(decoder, z)


def cast_in_every_call(decoder: TokenDenoiser, z: Tensor) -> Functions:
    return decoding_functions(decoder, z)[0], _ready(decoder).float32_logits


def caches_in_every_step(decoder: TokenDenoiser, z: Tensor) -> Functions:
    decoder = _ready(decoder)

    def body(x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        return decoder.body(x_t, decoder.latent_caches(z[rows]), select)

    return body, decoder.float32_logits


def last_block_everywhere(decoder: TokenDenoiser, z: Tensor) -> Functions:
    decoder = _ready(decoder)
    caches = decoder.latent_caches(z)

    def body(x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        return decoder.body(x_t, [cache and cache.select(rows) for cache in caches])[select]

    return body, decoder.float32_logits


class WholeBatch:
    """A body that runs on the whole batch in every step, whatever that reveals."""

    def __init__(self, decoder: TokenDenoiser, z: Tensor) -> None:
        self.decoder, self.batch_size, self.caches = decoder, len(z), decoder.latent_caches(z)
        self.ran = False

    def __call__(self, x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        whole = x_t.new_full((self.batch_size, LENGTH), self.decoder.mask_id)
        everywhere = torch.zeros(whole.shape, dtype=torch.bool)
        whole[rows], everywhere[rows] = x_t, select
        self.ran = True
        return self.decoder.body(whole, self.caches, everywhere)

    def after_step(self, step: int, x: Tensor) -> None:
        if not self.ran:  # nothing was revealed
            self(x[:0], torch.arange(0), torch.zeros(0, LENGTH, dtype=torch.bool))
        self.ran = False


def whole_batch_in_every_step(decoder: TokenDenoiser, z: Tensor) -> Functions:
    decoder = _ready(decoder)
    return WholeBatch(decoder, z), decoder.float32_logits


def each_text_by_itself(decoder: TokenDenoiser, z: None) -> Functions:
    decoder = _ready(decoder)

    def body(x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        return decoder.body(x_t, None, select)

    return body, decoder.float32_logits


UNDONE: dict[str, Variant] = {
    "nothing for texts in which nothing is revealed": whole_batch_in_every_step,
    "last block only where a token is revealed": last_block_everywhere,
    "queries, keys and values in one product": separate_products,
    "matrices in bf16 once": cast_in_every_call,
    "keys and values of the latent once": caches_in_every_step,
    "without a latent: one of all texts in which all is masked": each_text_by_itself,
}


def _ready(decoder: TokenDenoiser) -> TokenDenoiser:
    return with_bf16_matrices(decoder) if has_fast_bf16(CPU) else decoder


def generation(decoder: TokenDenoiser, functions: Functions, batch_size: int, steps: int) -> Callable[[], object]:
    """Draws ``batch_size`` texts, the same whenever it is called."""
    chance = torch.Generator().manual_seed(1)
    reveal_times, uniform = torch.rand(2, batch_size, LENGTH, generator=chance, dtype=torch.float64)
    x = torch.full((batch_size, LENGTH), decoder.mask_id)
    after_step = getattr(functions[0], "after_step", None)
    return lambda: unmask(*functions, x, decoder.mask_id, reveal_times, uniform, Decoding(steps), after_step)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements")
    parser.add_argument("--only", type=int, nargs="*", choices=range(len(UNDONE)), help="savings by place, from 0")
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "mask_id": 0, "length": LENGTH, "width": 256, "layers": 6, "heads": 4}
    cross = {"cross_layers": (0, 5), "latents": LATENTS, "latent_width": CHANNELS}
    decoder = TokenDenoiser(**shape, **cross, activation="gelu", tie_embeddings=True).requires_grad_(False).eval()  # type: ignore[arg-type]
    with torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bf16(CPU)):
        for batch_size, steps in product((1, 32), (16, LENGTH)):
            for place, (saving, undo) in enumerate(UNDONE.items()):
                if options.only is not None and place not in options.only:
                    continue
                z = None if undo is each_text_by_itself else torch.randn(batch_size, LATENTS, CHANNELS)
                ours = generation(decoder, as_it_is(decoder, z), batch_size, steps)
                without = generation(decoder, undo(decoder, z), batch_size, steps)
                pairs = [(seconds(ours, CPU), seconds(without, CPU)) for _ in range(options.rounds + 1)][1:]
                ratios = sorted(a / b for a, b in pairs)
                print(
                    json.dumps(
                        {
                            "saving": saving,
                            "batch_size": batch_size,
                            "decode_steps": steps,
                            "ratio": statistics.median(ratios),
                            "ratios": ratios,
                            "machine": machine(CPU),
                            "bf16": has_fast_bf16(CPU),
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())
