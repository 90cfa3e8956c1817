"""Texts decoded from the latents of held-out blocks."""

import shutil
from typing import Any

import pytest
import torch

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.times import scattering_stride
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete

from ...chain import Chain


@pytest.fixture(scope="module")
def sampler(tiny_chain: Chain) -> Sampler:
    return load_sampler(tiny_chain.ae, "cpu")


def draw(sampler: Sampler, **settings: Any) -> list[list[int]]:
    return [sample["token_ids"] for sample in generate(sampler, SampleConfig(**settings))]


def test_an_oracle_decodes_held_out_blocks_from_all_over_the_text(sampler: Sampler, tiny_chain: Chain) -> None:
    split = open_tokens(tiny_chain.data).split("valid")
    stride = scattering_stride(len(split))
    assert len(split) / 3 < stride < 2 * len(split) / 3
    blocks = split.gather([j * stride % len(split) for j in range(5)])
    every = sampler.blocks(range(len(split)))
    assert sorted(every.tolist()) == sorted(split.gather(range(len(split))).tolist())
    config = complete(sampler, SampleConfig(n=5))
    with torch.no_grad():
        autoencoder = sampler.require_autoencoder()
        wanted = autoencoder.encode(sampler.encoder.features(blocks))
        torch.testing.assert_close(draw_latents(sampler, range(2, 5), config), wanted[2:], rtol=1e-4, atol=1e-5)
    assert draw(sampler, n=5) == decode(sampler, range(5), config, wanted).tolist()


def test_other_seeds_encode_other_blocks(sampler: Sampler) -> None:
    total = len(sampler.held_out)
    n = total // 5
    found = [sampler.blocks(range(n), seed) for seed in range(3)]
    different = {tuple(row) for blocks in found for row in blocks.tolist()}
    assert len(different) == len({tuple(row) for row in sampler.blocks(range(total)).tolist()} & different)
    assert len(different) > 2.5 * n  # blocks of equal text are the same
    with torch.no_grad():
        config = complete(sampler, SampleConfig(n=2, seed=1))
        wanted = sampler.encoder(found[1][:2])
        torch.testing.assert_close(draw_latents(sampler, range(2), config), wanted)
    assert sampler.blocks(range(2), 2**62).shape == found[0][:2].shape


def test_an_oracle_never_repeats_a_block(sampler: Sampler) -> None:
    rows = len(sampler.held_out)
    with pytest.raises(ConfigError, match=f"give at most {rows}$"):
        generate(sampler, SampleConfig(n=rows + 1))
    assert len(draw(sampler, n=2 * rows, decodings=2, decode_steps=1, batch_size=64)) == 2 * rows


def test_an_oracle_may_encode_another_data_set(chain_copy: Chain) -> None:
    shutil.move(chain_copy.data, chain_copy.root / "moved")
    with pytest.raises(UserError, match="is missing; name one with --data"):
        draw(load_sampler(chain_copy.ae, "cpu"))
    assert len(draw(load_sampler(chain_copy.ae, "cpu", chain_copy.root / "moved"), n=2)) == 2
