"""``sample --compile``."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diladiff_cli.config import SampleConfig
from diladiff_cli.stages.sample import generate
from diladiff_cli.stages.sampler import load_sampler

from ..chain import LENGTH, Chain

SETTINGS: dict[str, Any] = {"n": 5, "batch_size": 3, "steps": 1, "decode_steps": LENGTH}


def drawn(chain: Chain, **settings: Any) -> list[list[int]]:
    sampler = load_sampler(chain.student, "cpu")
    return [sample["token_ids"] for sample in generate(sampler, SampleConfig(**SETTINGS | settings))]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_runs_is_compiled_once(
    tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], precision: str
) -> None:
    compiled: list[list[int]] = []  # batch sizes of the calls, by function

    def compiler(function: Callable[..., Any]) -> Callable[..., Any]:
        calls: list[int] = []
        compiled.append(calls)

        def noted(x_t: torch.Tensor, *rest: Any) -> Any:
            assert not any(isinstance(value, torch.Tensor) for value in rest)  # whole blocks, whose shapes stay
            calls.append(len(x_t))
            return function(x_t, *rest)

        return noted

    monkeypatch.setattr(torch, "compile", compiler)
    capsys.readouterr()
    plain = drawn(tiny_chain, precision=precision)
    assert compiled == []
    assert capsys.readouterr().err == ""
    assert drawn(tiny_chain, precision=precision, compile=True) == plain
    assert capsys.readouterr().err == "compiling, for half a minute or more\n"
    assert [3 in calls and max(calls) == 3 for calls in compiled] == [True]
    compiled.clear()
    mixed = drawn(tiny_chain, precision=precision, compile=True, latent_until=0.5)
    assert [bool(calls) for calls in compiled] == [True, True]  # decoder and base
    assert mixed == drawn(tiny_chain, precision=precision, latent_until=0.5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_decoder_draws_the_same_up_to_rounding(tiny_chain: Chain) -> None:
    plain, compiled = (torch.tensor(drawn(tiny_chain, compile=choice)) for choice in (False, True))
    assert (plain == compiled).float().mean() > 0.9
