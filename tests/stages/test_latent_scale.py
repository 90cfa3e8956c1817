"""``--latent-scale``: the decoder looks at latents times a factor."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages import bench_points
from diladiff_cli.stages.bench_points import Point, plan_points
from diladiff_cli.stages.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampler import Sampler, load_sampler
from tests.chain import Chain


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    return list(generate(sampler, SampleConfig(n=8, decode_steps=4, **settings)))


def ids(samples: list[dict[str, Any]]) -> list[list[int]]:
    return [s["token_ids"] for s in samples]


@pytest.mark.parametrize("stage", ["ae", "prior", "student"])
def test_the_decoder_looks_at_latents_times_the_factor(tiny_chain: Chain, stage: str) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    steps = {} if stage == "ae" else {"steps": 2}
    config = SampleConfig(n=8, decode_steps=4, **steps)
    z_0 = draw_latents(sampler, range(8), config)
    wanted = decode(sampler, range(8), config, 0.25 * z_0)
    plain, scaled = draw(sampler, **steps), draw(sampler, latent_scale=0.25, **steps)
    assert ids(scaled) == wanted.tolist() != ids(plain)
    assert [s["latent_scale"] for s in (*plain, *scaled)] == [None] * 8 + [0.25] * 8


def test_latents_times_nothing_tell_nothing(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config = SampleConfig(n=8, decode_steps=4, latent_scale=0.0)
    shape = sampler.require_autoencoder().latent_shape
    found = [decode(sampler, range(8), config, torch.randn(8, *shape)) for _ in range(2)]
    assert torch.equal(*found)


def test_bench_scales_the_latents_of_models_that_have_some(tiny_chain: Chain) -> None:
    config = BenchConfig(latent_scale=0.5, latent_until=0.5, decode_steps="4", steps="1", seeds="0", n=4)
    found = {p.stage: p.settings for p in plan_points(config, [tiny_chain.mdlm, tiny_chain.student], None).points}
    assert (found["student"].latent_scale, found["student"].latent_until) == (0.5, 0.5)
    assert (found["mdlm"].latent_scale, found["mdlm"].latent_until) == (1.0, 0.0)
    with pytest.raises(ConfigError, match="latent_scale is 0.5, but none .*\n.*|latent_until is 0.5, but none"):
        plan_points(config, [tiny_chain.mdlm], None)


def test_points_that_were_kept_before_there_was_a_factor_are_found_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    monkeypatch.setattr(bench_points, "json", SimpleNamespace(dumps=lambda value, **_: hashed.append(value) or ""))
    for settings in (SampleConfig(), SampleConfig(latent_scale=0.5)):
        Point("m", "student", ("hash",), settings).key(3)
    before, after = (next(part for part in content if isinstance(part, dict)) for content in hashed)
    assert "latent_scale" not in before
    assert before | {"latent_scale": 0.5} == after
