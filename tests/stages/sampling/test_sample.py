import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.ode import SOLVERS, average_velocity_steps, probability_flow
from diladiff_cli.data.tokenizer import decode_text
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.agreement import latent_agreement
from diladiff_cli.runtime.randomness import SampleRng
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete

from ...chain import CHANNELS, LATENTS, LENGTH, Chain

STAGES = ("mdlm", "ae", "prior", "student")


@pytest.fixture(scope="module")
def samplers(tiny_chain: Chain) -> dict[str, Sampler]:
    return {stage: load_sampler(getattr(tiny_chain, stage), "cpu") for stage in STAGES}


def draw(sampler: Sampler, **settings: Any) -> list[dict[str, Any]]:
    steps = {"steps": 6} if sampler.stage == "prior" else {}
    return list(generate(sampler, SampleConfig(**{"n": 6} | steps | settings)))


def ids(samples: list[dict[str, Any]]) -> list[list[int]]:
    return [s["token_ids"] for s in samples]


@pytest.mark.parametrize("stage", STAGES)
def test_a_line_has_text_tokens_and_all_settings(samplers: dict[str, Sampler], tiny_chain: Chain, stage: str) -> None:
    sampler = samplers[stage]
    found = draw(sampler, n=3, seed=5, temperature=0.5, top_p=0.8, gamma=0.3)
    data = open_tokens(tiny_chain.data)
    assert [s["id"] for s in found] == [0, 1, 2]
    for sample in found:
        tokens = sample["token_ids"]
        assert len(tokens) == LENGTH
        assert all(0 <= i < data.vocab_size and i != data.mask_id for i in tokens)
        assert sample["text"] == decode_text(sampler.tokenizer, tokens)
        wanted = {"seed": 5, "decode_steps": LENGTH // 4, "model": str(getattr(tiny_chain, stage)), "stage": stage}
        wanted |= {"temperature": 0.5, "top_p": 0.8, "order": "random", "threshold": None}
        wanted |= {"steps": {"prior": 6, "student": 5}.get(stage), "gamma": 0.3 if stage == "student" else None}
        assert {key: sample[key] for key in wanted} == wanted
    assert [s.get("latent") for s in found] == ([None] * 3 if stage == "mdlm" else [0, 1, 2])


def test_default_steps_are_those_of_each_stage(samplers: dict[str, Sampler]) -> None:
    found = {stage: complete(samplers[stage], SampleConfig(n=2)) for stage in STAGES}
    assert {stage: c.steps for stage, c in found.items()} == {"mdlm": 0, "ae": 0, "prior": 50, "student": 5}
    assert {c.decode_steps for c in found.values()} == {LENGTH // 4}


def test_noise_between_steps_is_recorded_where_there_are_several(samplers: dict[str, Sampler]) -> None:
    assert [draw(samplers["student"], n=1, steps=steps)[0]["gamma"] for steps in (1, 2)] == [None, 0.8]


@pytest.mark.parametrize("order", ["threshold", "entropy"])
def test_orders_that_end_by_themselves_may_take_a_step_for_each_token(samplers: dict[str, Sampler], order: str) -> None:
    assert complete(samplers["mdlm"], SampleConfig(order=order)).decode_steps == LENGTH
    assert complete(samplers["mdlm"], SampleConfig(order=order, decode_steps=3)).decode_steps == 3


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold"])
def test_samples_do_not_depend_on_the_batch_size(samplers: dict[str, Sampler], stage: str, order: str) -> None:
    whole = draw(samplers[stage], order=order, threshold=0.05)
    assert draw(samplers[stage], order=order, threshold=0.05, batch_size=4) == whole
    assert draw(samplers[stage], order=order, threshold=0.05, batch_size=1) == whole


@pytest.mark.parametrize("stage", STAGES)
def test_samples_do_not_depend_on_how_many_are_drawn(samplers: dict[str, Sampler], stage: str) -> None:
    assert draw(samplers[stage], n=9)[:4] == draw(samplers[stage], n=4)


@pytest.mark.parametrize("stage", STAGES)
def test_samples_and_seeds_differ(samplers: dict[str, Sampler], stage: str) -> None:
    drawn = [tuple(row) for seed in (0, 1) for row in ids(draw(samplers[stage], seed=seed))]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("solver", SOLVERS)
def test_prior_latents_come_from_steps_on_noise_of_seed_and_index(samplers: dict[str, Sampler], solver: str) -> None:
    sampler = samplers["prior"]
    found = draw_latents(sampler, range(3, 5), SampleConfig(steps=7, seed=2, solver=solver))
    z = SampleRng(2, range(5)).normal(SampleRng.START, LATENTS, CHANNELS).float()
    with torch.no_grad():
        wanted = probability_flow(sampler.latent, z, sampler.latent.schedule, 7, solver=solver)
    torch.testing.assert_close(found, wanted[3:], rtol=1e-4, atol=1e-5)


def test_student_latents_come_from_gamma_steps(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["student"]
    rng = SampleRng(0, range(3))
    z, noises = rng.normal(2, LATENTS, CHANNELS).float(), rng.normal(3, 3, LATENTS, CHANNELS).float()
    for gamma in (0.0, 0.8):
        found = draw_latents(sampler, range(3), SampleConfig(steps=4, gamma=gamma))
        with torch.no_grad():
            wanted = average_velocity_steps(sampler.latent, z, sampler.latent.schedule, 4, noises, gamma)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "self_cond", "calls"),
    [(1, "network", 1), (2, "network", 3), (5, "network", 9), (1, "jump", 1), (5, "jump", 5)],
)
def test_a_student_needs_two_evaluations_a_step_less_one_or_one(
    samplers: dict[str, Sampler], steps: int, self_cond: str, calls: int, counted: list[str]
) -> None:
    found = draw(samplers["student"], n=2, steps=steps, self_cond=self_cond)
    assert counted.count("student") == calls
    assert len(found) == 2


@pytest.fixture
def counted(samplers: dict[str, Sampler]) -> Iterator[list[str]]:
    """The names of the parts called so far, in order."""
    names: list[str] = []
    decoder = samplers["student"].decoder
    cross = [block.cross for block in decoder.blocks if block.cross is not None]
    parts = {"student": samplers["student"].latent, "block": decoder.blocks[0], "keys": cross[0].kv}
    handles = [part.register_forward_pre_hook(lambda *_, name=name: names.append(name)) for name, part in parts.items()]
    yield names
    for handle in handles:
        handle.remove()


def test_latent_keys_are_computed_once_a_batch(samplers: dict[str, Sampler], counted: list[str]) -> None:
    draw(samplers["student"], n=6, batch_size=3, decode_steps=8)
    assert counted.count("keys") == 2
    assert counted.count("block") == 16


def test_steps_that_reveal_nothing_need_no_call(samplers: dict[str, Sampler], counted: list[str]) -> None:
    draw(samplers["student"], n=1, decode_steps=1000)
    assert counted.count("block") <= LENGTH


def test_each_token_passes_the_vocabulary_head_once(
    samplers: dict[str, Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, rows = samplers["student"].decoder, []
    logits = decoder.logits

    def count(hidden: Tensor) -> Tensor:
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(decoder, "logits", count)
    draw(samplers["student"], n=4, decode_steps=8)
    assert sum(rows) == 4 * LENGTH


def test_decodings_share_a_latent_and_nothing_else(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["student"]
    found = draw(sampler, n=12, decodings=3)
    assert [s["latent"] for s in found] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    config = complete(sampler, SampleConfig(n=12, decodings=3))
    z_0 = draw_latents(sampler, range(4), config)
    assert ids(found) == decode(sampler, range(12), config, z_0.repeat_interleave(3, 0)).tolist()
    tokens = torch.tensor(ids(found)).unflatten(0, (4, 3))
    assert latent_agreement(tokens[:, 0], tokens[:, 1]) < 1.0
    for batch_size in (1, 2, 5, 7):
        assert draw(sampler, n=12, decodings=3, batch_size=batch_size) == found


def test_given_latents_steer_the_tokens(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["ae"]
    config = complete(sampler, SampleConfig(n=20, decode_steps=4))
    z_0 = draw_latents(sampler, range(20), config)
    one = decode(sampler, range(20), config, z_0)
    assert torch.equal(one, decode(sampler, range(20), config, z_0))
    assert not torch.equal(one, decode(sampler, range(20), config, -3 * z_0))


def test_without_temperature_the_draws_do_not_matter(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["mdlm"]
    config = complete(sampler, SampleConfig(temperature=0, decode_steps=1))
    assert torch.equal(decode(sampler, range(2), config), decode(sampler, range(8, 10), config))


def test_bf16_runs_the_body_in_bf16_and_leaves_logits_in_fp32(
    samplers: dict[str, Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder, types = samplers["student"].decoder, set()
    logits = decoder.logits

    def note(hidden: Tensor) -> Tensor:
        found = logits(hidden)
        types.add((hidden.dtype, found.dtype))
        return found

    hook = decoder.blocks[0].mlp.up.register_forward_hook(lambda *args: types.add(args[-1].dtype))
    monkeypatch.setattr(decoder, "logits", note)
    low = draw(samplers["student"], n=8, precision="bf16")
    hook.remove()
    assert types == {torch.bfloat16, (torch.float32, torch.float32)}
    full = draw(samplers["student"], n=8)
    assert latent_agreement(torch.tensor(ids(low)), torch.tensor(ids(full))) > 0.8


def test_progress_counts_samples_and_decoding_steps(samplers: dict[str, Sampler]) -> None:
    calls: list[tuple[int, int]] = []
    config = SampleConfig(n=5, batch_size=3, decode_steps=2)
    list(generate(samplers["mdlm"], config, lambda done, step: calls.append((done, step))))
    assert calls == [(0, 1), (0, 2), (3, 1), (3, 2)]


def test_samples_come_as_soon_as_their_batch_is_done(samplers: dict[str, Sampler]) -> None:
    done: list[int] = []
    stream = generate(samplers["mdlm"], SampleConfig(n=100, batch_size=2), lambda n, _: done.append(n))
    next(stream)
    assert set(done) == {0}


@pytest.mark.parametrize(
    ("stage", "settings", "message"),
    [
        ("mdlm", {"steps": 5}, "steps is 5, but .* is of stage mdlm and draws no latents; leave it out"),
        ("ae", {"steps": 5}, "steps is 5, but .* is of stage ae and draws no latents; leave it out"),
        ("mdlm", {"decodings": 2}, "decodings is 2, but .* has no latents; leave it out"),
        ("mdlm", {"latent_until": 0.5}, "latent_until is 0.5, but .* has no latents; leave it out"),
        ("mdlm", {"latent_scale": 0.5}, "latent_scale is 0.5, but .* has no latents; leave it out"),
        ("student", {"n": 7, "decodings": 2}, "n 7 is not a multiple of decodings 2; change one"),
    ],
)
def test_contradictory_options_are_refused_before_drawing(
    samplers: dict[str, Sampler], stage: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        generate(samplers[stage], replace(SampleConfig(n=6), **settings))


def test_all_problems_are_reported_at_once(samplers: dict[str, Sampler]) -> None:
    with pytest.raises(ConfigError) as caught:
        generate(samplers["mdlm"], SampleConfig(n=3, steps=4, decodings=2))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("stage", ["prior", "student"])
def test_prior_and_student_need_the_auto_encoder_alone(
    chain_copy: Chain, samplers: dict[str, Sampler], stage: str
) -> None:
    wanted = ids(draw(samplers[stage]))
    shutil.rmtree(chain_copy.mdlm)
    shutil.rmtree(chain_copy.data)
    if stage == "student":
        shutil.rmtree(chain_copy.prior)
    assert ids(draw(load_sampler(getattr(chain_copy, stage), "cpu"))) == wanted
    shutil.rmtree(chain_copy.ae)
    with pytest.raises(UserError, match="which is missing; put it back, or make it again with train-ae"):
        load_sampler(getattr(chain_copy, stage), "cpu")


def test_another_auto_encoder_is_refused(chain_copy: Chain) -> None:
    shutil.rmtree(chain_copy.ae)
    shutil.copytree(chain_copy.mdlm, chain_copy.ae)
    with pytest.raises(UserError, match="is a base; give an auto-encoder, which train-ae writes"):
        load_sampler(chain_copy.student, "cpu")


@pytest.mark.parametrize("stage", ["mdlm", "student"])
def test_samples_are_the_same_where_memory_runs_out(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    config = SampleConfig(n=7, batch_size=7, decode_steps=4)
    wanted, asked = list(generate(sampler, config)), []

    def scarce(sampler: Sampler, ids: range, *more: Any) -> Tensor:
        asked.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(sampler, ids, *more)

    monkeypatch.setattr("diladiff_cli.stages.sampling.sample.decode", scarce)
    assert list(generate(sampler, config)) == wanted
    assert asked == [7, 4, 2, 2, 2, 1]
    assert "out of memory with 7 samples at once; going on with 4" in capsys.readouterr().err
