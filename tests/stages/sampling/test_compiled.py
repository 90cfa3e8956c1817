"""``sample --compile``."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from diladiff_cli.config import SampleConfig
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler, with_compiled_blocks

from ...chain import LENGTH, Chain

SETTINGS: dict[str, Any] = {"n": 5, "batch_size": 3, "steps": 1, "decode_steps": LENGTH}


def drawn(chain: Chain, **settings: Any) -> list[list[int]]:
    sampler = load_sampler(chain.student, "cpu")
    return [sample["token_ids"] for sample in generate(sampler, SampleConfig(**SETTINGS | settings))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_runs_is_compiled_once(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    compiled: list[list[tuple[int, int]]] = []  # batch sizes and places in the last block of the calls, by function

    def compiler(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        assert function.__name__ == "states"
        assert dynamic
        calls: list[tuple[int, int]] = []
        compiled.append(calls)

        def noted(x_t: Tensor, caches: Any, at: Tensor | None) -> Tensor:
            calls.append((len(x_t), LENGTH if at is None else at.shape[1]))
            result: Tensor = function(x_t, caches, at)
            return result

        return noted

    monkeypatch.setattr(torch, "compile", compiler)
    capsys.readouterr()
    plain = drawn(tiny_chain, precision=precision)
    assert compiled == []
    assert capsys.readouterr().err == ""
    assert drawn(tiny_chain, precision=precision, compile=True) == plain
    assert capsys.readouterr().err == "compiling the decoder, for half a minute or more\n"
    (calls,) = compiled
    assert max(calls)[0] == 3
    assert min(places for _, places in calls) < LENGTH / 2  # of the last block, as without
    compiled.clear()
    mixed = drawn(tiny_chain, precision=precision, compile=True, latent_until=0.5)
    assert [bool(calls) for calls in compiled] == [True, True]  # decoder and base
    assert mixed == drawn(tiny_chain, precision=precision, latent_until=0.5)


def test_the_network_of_a_prior_is_compiled_as_well(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = Counter[str]()

    def compiler(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        name = f"{type(function.__self__).__name__}.{function.__name__}"  # type: ignore[attr-defined]

        def noted(*given: Any) -> Any:
            calls[name] += 1
            return function(*given)

        return noted

    monkeypatch.setattr(torch, "compile", compiler)
    sampler = load_sampler(tiny_chain.prior, "cpu")
    settings = SETTINGS | {"steps": 4}
    plain = list(generate(sampler, SampleConfig(**settings)))
    assert not calls
    capsys.readouterr()
    assert list(generate(sampler, SampleConfig(**settings, compile=True))) == plain
    assert calls["LatentPrior.forward"] == 2 * 4  # batches and steps
    assert calls["TokenDenoiser.states"] > 0
    told = [f"compiling {what}, for half a minute or more" for what in ("the prior", "the decoder")]
    assert capsys.readouterr().err.splitlines() == told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_decoder_draws_the_same_up_to_rounding(tiny_chain: Chain) -> None:
    plain, compiled = (torch.tensor(drawn(tiny_chain, compile=choice)) for choice in (False, True))
    assert (plain == compiled).float().mean() > 0.9


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_not_every_batch_and_number_of_places_is_compiled_anew(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    decoder = with_compiled_blocks(sampler.decoder)
    # Beside which some of the batches are small.
    monkeypatch.setattr("diladiff_cli.networks.products.MIN_WORK", 8 * LENGTH * decoder.width**2)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(11, decoder.latents, decoder.latent_width, generator=generator)
    counters["stats"].clear()
    for batch_size, places in ((7, 3), (5, 2), (9, 5), (6, 9), (8, 4), (11, 10)):
        x = torch.randint(1, 50, (batch_size, LENGTH), generator=generator)
        at = torch.rand(x.shape, generator=generator).argsort(1)[:, :places]
        caches = decoder.latent_caches(z[:batch_size])
        with torch.no_grad():
            found, wanted = (network.states(x, caches, at) for network in (decoder, sampler.decoder))
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    assert counters["stats"]["unique_graphs"] <= 2  # torch takes another for 8 places or fewer


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_many_networks_and_kinds_of_batches_are_all_compiled(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # the graphs alone
    torch.compiler.reset()
    counters["stats"].clear()
    config: Any = torch._dynamo.config
    for name in ("student", "mdlm"):
        decoder = with_compiled_blocks(load_sampler(getattr(tiny_chain, name), "cpu").decoder)
        monkeypatch.setattr(config, "fail_on_recompile_limit_hit", True)  # where it would go on uncompiled
        for batch_size, places in product((1, 8), (None, 1, 5)):
            x = torch.ones(batch_size, LENGTH, dtype=torch.int64)
            at = None if places is None else torch.arange(places).expand(batch_size, -1).contiguous()
            z = torch.zeros(batch_size, decoder.latents, decoder.latent_width)
            with torch.no_grad():
                decoder.states(x, decoder.latent_caches(z) if decoder.latents else None, at)
    assert counters["stats"]["unique_graphs"] > 8  # of which torch allows no more by itself
