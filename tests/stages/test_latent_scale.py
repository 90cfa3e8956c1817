"""``--latent-scale``: the decoder looks at latents times a factor."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, EvalConfig, SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, sealed
from diladiff_cli.settings import ConfigError, Settings
from diladiff_cli.stages.bench.points import plan_points
from diladiff_cli.stages.evaluation.files import evaluate_files
from diladiff_cli.stages.export import export
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete, notes_on

from ..chain import Chain


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    return list(generate(sampler, SampleConfig(n=8, decode_steps=4, **settings)))


def ids(samples: list[dict[str, Any]]) -> list[list[int]]:
    return [s["token_ids"] for s in samples]


@pytest.mark.parametrize("stage", ["ae", "prior", "student"])
def test_the_decoder_looks_at_latents_times_the_factor(tiny_chain: Chain, stage: str) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    steps = {} if stage == "ae" else {"steps": 2}
    config = complete(sampler, SampleConfig(n=8, decode_steps=4, **steps))
    z_0 = draw_latents(sampler, range(8), config)
    wanted = decode(sampler, range(8), config, 0.25 * z_0)
    plain, scaled = draw(sampler, **steps), draw(sampler, latent_scale=0.25, **steps)
    assert ids(scaled) == wanted.tolist() != ids(plain)
    assert [s["latent_scale"] for s in (*plain, *scaled)] == [None] * 8 + [0.25] * 8


def test_latents_that_no_step_looks_at_are_told(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config = SampleConfig(latent_scale=0.5, latent_until=1.0, decode_steps=4)
    told = ["--latent-until 1 makes all steps the base's: nothing looks at latents"]
    assert notes_on(sampler, config) == notes_on(sampler, replace(config, latent_scale=1.0)) == told
    assert notes_on(sampler, replace(config, latent_until=0.9)) == []


def test_latents_times_nothing_tell_nothing(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config = complete(sampler, SampleConfig(n=8, decode_steps=4))
    shape = sampler.require_autoencoder().latent_shape
    latents = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(decode(sampler, range(8), config, 0 * z_0) for z_0 in latents))
    assert not torch.equal(*(decode(sampler, range(8), config, z_0) for z_0 in latents))


def test_settings_that_are_not_complete_are_refused(tiny_chain: Chain) -> None:
    sampler, config = load_sampler(tiny_chain.student, "cpu"), SampleConfig(n=8, decode_steps=4)
    z_0 = torch.zeros(8, *sampler.require_autoencoder().latent_shape)
    for incomplete in (config, replace(config, decode_steps=0, latent_scale=1.0)):
        with pytest.raises(ValueError, match="these settings are not complete"):
            decode(sampler, range(8), incomplete, z_0)


def test_bench_scales_the_latents_of_models_that_have_some(tiny_chain: Chain) -> None:
    config = BenchConfig(latent_scale="0.5", latent_until=0.5, decode_steps="4", steps="1", seeds="0", n=4)
    found = {p.stage: p.settings for p in plan_points(config, [tiny_chain.mdlm, tiny_chain.student], None).points}
    assert (found["student"].latent_scale, found["student"].latent_until) == (0.5, 0.5)
    assert (found["mdlm"].latent_scale, found["mdlm"].latent_until) == (1.0, 0.0)
    with pytest.raises(ConfigError) as caught:
        plan_points(config, [tiny_chain.mdlm], None)
    assert caught.value.problems == [
        f"{option} is 0.5, but none of the models has latents; leave it out"
        for option in ("--latent-until", "--latent-scale")
    ]


def test_a_models_own_factor_is_told_and_can_be_taken_away(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle", latent_scale=0.5)
    sampler = load_sampler(tmp_path / "bundle", "cpu")
    config = SampleConfig(decode_steps=4, latent_until=0.5)
    told = f"latents times 0.5, the factor that {tmp_path / 'bundle'} carries; --latent-scale 1 takes it away"
    assert notes_on(sampler, config) == [told]
    assert notes_on(sampler, replace(config, latent_scale=1.0)) == []
    assert told not in notes_on(sampler, replace(config, latent_until=1.0))
    assert complete(sampler, config).latent_scale == 0.5
    assert complete(sampler, replace(config, latent_scale=1.0)).latent_scale == 1.0


def test_bench_takes_each_models_own_factor(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle", latent_scale=0.5)
    models, shared = [tmp_path / "bundle", tiny_chain.prior, tiny_chain.mdlm], {"decode_steps": "4", "steps": "1"}
    own = plan_points(BenchConfig(**shared), models, None).points
    assert {p.stage: p.settings.latent_scale for p in own} == {"student": 0.5, "prior": 1.0, "mdlm": 1.0}
    plain = plan_points(BenchConfig(**shared, latent_scale="1"), models, None).points
    assert {p.settings.latent_scale for p in plain} == {1.0}
    several = plan_points(BenchConfig(**shared, latent_scale="1,0.5,0"), models, None).points
    assert len({p.key(0) for p in several}) == len(several)
    assert next(p.key(0) for p in several if p.settings.latent_scale == 0.5) == own[0].key(0)
    found = [(p.stage, p.settings.latent_scale) for p in several]
    assert found == [("student", 1.0), ("student", 0.5), ("prior", 1.0), ("prior", 0.5), ("mdlm", 1.0)]


@pytest.mark.parametrize("bad", [0, 11, "much", None, True, []])
def test_an_own_factor_that_is_none_is_damage(tiny_chain: Chain, tmp_path: Path, bad: object) -> None:
    export(tiny_chain.student, tmp_path / "bundle", latent_scale=0.5)
    file = tmp_path / "bundle" / "config.json"
    config = json.loads(file.read_text()) | {"sampling": {"latent_scale": bad}}
    file.write_text(sealed({k: v for k, v in config.items() if k != CHECKSUM}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_sampler(tmp_path / "bundle", "cpu")


def test_eval_measures_the_agreement_of_latents_as_they_are(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle", precision="fp32", latent_scale=0.01)
    config = EvalConfig(batches=1, draws=1, likelihood=0)
    plain, scaled = evaluate_files(config, [tiny_chain.student, tmp_path / "bundle"], data=tiny_chain.data)
    assert scaled["figures"]["latent_agreement"] == plain["figures"]["latent_agreement"]


@pytest.mark.parametrize(("config", "field"), [(SampleConfig, 0.001), (BenchConfig, "1,0.001")])
def test_a_factor_that_no_model_could_keep_is_refused(config: type[Settings], field: float | str) -> None:
    with pytest.raises(ConfigError, match=r"give 0 for the model's own, or at least 0\.01$"):
        config.from_dict({"latent_scale": field})
