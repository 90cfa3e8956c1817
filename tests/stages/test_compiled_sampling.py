"""``sample --compile``."""

from typing import Any

import pytest
import torch

from diladiff_cli.config import SampleConfig
from diladiff_cli.stages.sample import generate
from diladiff_cli.stages.sampler import load_sampler
from tests.chain import LENGTH, Chain


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_decoder_draws_the_same_up_to_rounding(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    settings: dict[str, Any] = {"n": 5, "batch_size": 3, "steps": 1, "decode_steps": LENGTH}

    def drawn(**more: bool) -> torch.Tensor:
        return torch.tensor([s["token_ids"] for s in generate(sampler, SampleConfig(**settings | more))])

    plain = drawn()
    compiled = drawn(compile=True)
    assert (plain == compiled).float().mean() > 0.9
    assert sampler.decoder_in("fp32", compiled=True).body is not sampler.decoder.body
    assert torch.equal(drawn(), plain)
