"""``--latent-until``: the base takes over from the decoder that looks at latents."""

import shutil
from dataclasses import replace
from typing import Any

import pytest

from diladiff_cli.config import SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.randomness import SampleRng
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import base_steps, complete, notes_on, sample_plan

from ...chain import LENGTH, Chain


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
    noise = SampleRng(0, range(6)).uniform(SampleRng.REVEAL, LENGTH)
    early = (noise >= 0.5).nonzero().tolist()
    assert all(ids(mixed)[i][j] == latent[i][j] for i, j in early)


@pytest.mark.parametrize(
    ("time", "steps", "wanted"),
    [(0.3, 10, 3), (0.5, 10, 5), (0.15, 20, 3), (0.35, 100, 35), (0.29, 100, 29), (0.05, 16, 0), (1.0, 7, 7)],
)
def test_the_base_takes_the_steps_that_begin_at_the_time_or_later(time: float, steps: int, wanted: int) -> None:
    assert base_steps(SampleConfig(latent_until=time, decode_steps=steps)) == wanted


def test_a_time_that_no_step_begins_at_is_told_and_leaves_all_as_it_is(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config = SampleConfig(latent_until=0.05, decode_steps=16)
    assert notes_on(sampler, config) == ["--latent-until 0.05 does nothing: it is less than one of 16 steps"]
    assert complete(sampler, config) == complete(sampler, replace(config, latent_until=0.0))
    assert draw(sampler, latent_until=0.05, decode_steps=16)[0]["latent_until"] is None
    assert notes_on(sampler, replace(config, latent_until=0.0625)) == []


def test_a_base_that_is_needed_and_missing_is_told(chain_copy: Chain) -> None:
    shutil.rmtree(chain_copy.mdlm)
    sampler = load_sampler(chain_copy.student, "cpu")
    with pytest.raises(UserError, match="mdlm, which is missing"):
        sample_plan(sampler, SampleConfig(latent_until=0.5))
    assert sample_plan(sampler, SampleConfig())["stage"] == "student"
