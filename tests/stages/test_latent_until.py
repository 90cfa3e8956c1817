"""``--latent-until``: the base takes over from the decoder that looks at latents."""

import shutil
from typing import Any

import pytest

from diladiff_cli.config import SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.randomness import SampleNoise
from diladiff_cli.stages.sample import generate
from diladiff_cli.stages.sampler import Sampler, load_sampler
from tests.chain import LENGTH, Chain


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    steps = {"steps": 6} if sampler.stage == "prior" else {}
    return list(generate(sampler, SampleConfig(**{"n": 6} | steps | settings)))


def ids(samples: list[dict[str, Any]]) -> list[list[int]]:
    return [s["token_ids"] for s in samples]


@pytest.mark.parametrize("stage", ["ae", "prior", "student"])
def test_the_base_takes_over_at_the_time_given(tiny_chain: Chain, stage: str) -> None:
    sampler, steps = load_sampler(getattr(tiny_chain, stage), "cpu"), {"decode_steps": 4, "precision": "bf16"}
    base, latent = ids(draw(load_sampler(tiny_chain.mdlm, "cpu"), **steps)), ids(draw(sampler, **steps))
    assert base != latent
    assert ids(draw(sampler, latent_until=1.0, **steps)) == base  # the steps begin at 1, 3/4, 1/2 and 1/4
    assert ids(draw(sampler, latent_until=0.24, **steps)) == latent
    mixed = draw(sampler, latent_until=0.5, **steps)
    assert [sample["latent_until"] for sample in mixed] == [0.5] * 6
    assert ids(mixed) not in (base, latent)
    assert ids(mixed) == ids(draw(sampler, latent_until=0.7, **steps))
    noise = SampleNoise(0, range(6)).uniform(SampleNoise.REVEAL, LENGTH)
    early = (noise >= 0.5).nonzero().tolist()
    assert all(ids(mixed)[i][j] == latent[i][j] for i, j in early)


def test_a_base_that_is_needed_and_missing_is_told(chain_copy: Chain) -> None:
    shutil.rmtree(chain_copy.mdlm)
    with pytest.raises(UserError, match="mdlm, which is missing"):
        draw(load_sampler(chain_copy.student, "cpu"), latent_until=0.5)
