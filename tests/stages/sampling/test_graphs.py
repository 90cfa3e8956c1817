"""The way of a GPU on a CPU, where what would be captured runs as it is; tests/test_gpu.py has the captures."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.ode import SELF_COND, SOLVERS
from diladiff_cli.stages.sampling import graphs, sample
from diladiff_cli.stages.sampling.sample import decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import complete

from ...chain import Chain


@contextmanager
def replaying(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "replays_pay", lambda device: True)
        yield


SETTINGS = {
    "mdlm": SampleConfig(n=5, decode_steps=4, batch_size=2, top_p=0.9),
    "prior": SampleConfig(n=6, steps=3, decode_steps=4, batch_size=4, decodings=2, temperature=0.7),
    "student": SampleConfig(n=6, steps=2, decode_steps=5, batch_size=4, gamma=0.8, latent_until=0.5, order="spread"),
    "ae": SampleConfig(n=4, decode_steps=3, batch_size=2, top_p=0.8),
}


@pytest.mark.parametrize("stage", SETTINGS)
def test_replays_sample_as_plain_steps_do(tiny_chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, config = load_sampler(getattr(tiny_chain, stage), "cpu"), SETTINGS[stage]
    wanted = list(generate(sampler, config))
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted
    assert sampler.replays._kept


def test_replays_heed_no_default_device(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, config = load_sampler(tiny_chain.student, "cpu"), SETTINGS["student"]
    wanted = list(generate(sampler, config))
    with replaying(monkeypatch), torch.device("meta"):
        assert list(generate(sampler, config)) == wanted


def test_a_kept_replay_attends_to_the_latents_of_its_batch(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = load_sampler(tiny_chain.prior, "cpu")
    config = complete(sampler, replace(SETTINGS["prior"], decodings=1, temperature=0.0))
    batches = [torch.randn(2, *sampler.require_autoencoder().latent_shape) * 3 for _ in range(2)]
    wanted = [decode(sampler, range(2), config, z) for z in batches]
    assert not torch.equal(*wanted)
    with replaying(monkeypatch):
        for z, tokens in [*zip(batches, wanted, strict=True)] * 2:
            assert torch.equal(decode(sampler, range(2), config, z), tokens)
    assert len(sampler.replays._kept) == 1


def test_latents_are_replayed_from_the_noise_of_their_batch(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config = complete(sampler, replace(SETTINGS["student"], latent_until=0.0))
    batches = [range(2), range(2, 4), range(4, 5)]
    wanted = [draw_latents(sampler, batch, config) for batch in batches]
    with replaying(monkeypatch):
        for batch, z in zip(batches, wanted, strict=True):
            assert torch.equal(draw_latents(sampler, batch, config), z)
    assert len(sampler.replays._kept) == 2  # shapes


@pytest.mark.parametrize(
    ("stage", "name", "choices"), [("prior", "solver", SOLVERS), ("student", "self_cond", SELF_COND)]
)
def test_each_way_of_drawing_latents_has_its_own_replay(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch, stage: str, name: str, choices: Iterable[str]
) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    ways = [complete(sampler, replace(SETTINGS[stage], **{name: choice})) for choice in choices]
    wanted = [draw_latents(sampler, range(2), way) for way in ways]
    assert not torch.equal(*wanted)
    with replaying(monkeypatch):
        for way, z in zip(ways, wanted, strict=True):
            assert torch.equal(draw_latents(sampler, range(2), way), z)


def test_weights_that_lie_elsewhere_are_captured_anew(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    config, kept = replace(SETTINGS["student"], latent_until=0.0), list[int]()
    with replaying(monkeypatch):
        for network in (None, None, sampler.decoder, sampler.latent):
            if network is not None:
                network.load_state_dict({k: v.clone() for k, v in network.state_dict().items()}, assign=True)
            list(generate(sampler, replace(config, n=4)))
            kept.append(len(sampler.replays._kept))
    assert kept == [2, 2, 3, 4]


def test_a_token_left_outside_of_the_nucleus_is_drawn_by_plain_steps(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, config = load_sampler(tiny_chain.mdlm, "cpu"), replace(SETTINGS["mdlm"], top_p=0.5, temperature=2.0)
    wanted = list(generate(sampler, config))
    left: list[Any] = []
    unmask = graphs.Replays.unmask

    def noted(*args: Any) -> Any:
        left.append(unmask(*args))
        return left[-1]

    monkeypatch.setattr("diladiff_cli.core.static.draws_at_most", lambda decoding: 1)
    monkeypatch.setattr(graphs.Replays, "unmask", noted)
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted
    assert None in left


def test_networks_that_take_turns_do_so_where_only_one_is_kept(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler, config = load_sampler(tiny_chain.student, "cpu"), SETTINGS["student"]
    wanted = list(generate(sampler, config))
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 1)
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted


@pytest.mark.parametrize("stage", ["mdlm", "student"])
def test_every_step_is_told_once_with_its_tokens(
    tiny_chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    config = complete(sampler, replace(SETTINGS[stage], n=1, batch_size=1, decodings=1, decode_steps=40))
    z_0 = draw_latents(sampler, range(1), config) if sampler.latent else None
    told: list[list[Any]] = [[], []]
    decode(sampler, range(1), config, z_0, lambda step, x: told[0].append((step, x.tolist())))
    with replaying(monkeypatch):
        decode(sampler, range(1), config, z_0, lambda step, x: told[1].append((step, x.tolist())))
    assert [step for step, _ in told[0]] == list(range(40))
    assert told[1] == told[0]


@pytest.mark.parametrize("stage", ["mdlm", "prior"])
def test_where_memory_does_not_suffice_for_replays_plain_steps_do(
    tiny_chain: Chain, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    sampler, config = load_sampler(getattr(tiny_chain, stage), "cpu"), SETTINGS[stage]
    wanted = list(generate(sampler, config))
    monkeypatch.setattr(graphs, "captured", full)
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted
    assert not sampler.replays._kept


def test_steps_of_too_many_logits_are_plain_ones(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, config = load_sampler(tiny_chain.mdlm, "cpu"), SETTINGS["mdlm"]
    wanted = list(generate(sampler, config))
    monkeypatch.setattr(graphs, "MAX_LOGITS", 10)
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted
    assert not sampler.replays._kept


def test_replays_are_dropped_before_a_batch_is_halved(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, config = load_sampler(tiny_chain.mdlm, "cpu"), replace(SETTINGS["mdlm"], n=4, batch_size=4)
    wanted, kept, plain = list(generate(sampler, config)), list[int](), sample.describe

    def crowded(sampler: Any, ids: range, *rest: Any) -> Any:
        kept.append(len(sampler.replays._kept))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(sampler, ids, *rest)

    monkeypatch.setattr(sample, "describe", crowded)
    with replaying(monkeypatch):
        assert list(generate(sampler, config)) == wanted
    assert kept == [1, 1, 1]


def test_no_more_replays_are_kept_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    replays, made = graphs.Replays(), []
    for key in ("a", "b", "a", "c", "a", "b"):
        replays.get(key, lambda key=key: made.append(key) or key)  # type: ignore[misc]
    assert made == ["a", "b", "c", "b"]
