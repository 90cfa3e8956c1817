"""Samples from a number on."""

from typing import Any

import pytest

from diladiff_cli.config import SampleConfig
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler

from ...chain import Chain


@pytest.mark.parametrize("stage", ["mdlm", "ae", "prior", "student"])
@pytest.mark.parametrize("first", [0, 1, 4, 5, 11, 12, 20])
def test_from_a_number_on_samples_are_the_same(tiny_chain: Chain, stage: str, first: int) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    settings: dict[str, Any] = {
        "n": 12,
        "batch_size": 5,
        "decode_steps": 4,
        "steps": 2 * (stage in ("prior", "student")),
    }
    config = SampleConfig(**settings | ({} if stage == "mdlm" else {"decodings": 3}))
    wanted, done = list(generate(sampler, config)), list[int]()
    assert [sample["id"] for sample in wanted] == list(range(12))
    assert list(generate(sampler, config, lambda samples, _: done.append(samples), first)) == wanted[first:]
    assert done == sorted(done)
    assert not done or done[0] == first


def test_there_is_no_sample_of_a_negative_number(tiny_chain: Chain) -> None:
    with pytest.raises(ValueError, match="first is -1; give 0 or more"):
        generate(load_sampler(tiny_chain.mdlm, "cpu"), SampleConfig(n=4), first=-1)
