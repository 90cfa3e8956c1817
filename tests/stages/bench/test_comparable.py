"""``bench`` lets nothing stand side by side that does not compare."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.stages.bench import frontier as module
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.kept import bench_plan
from diladiff_cli.stages.bench.timing import machine, processor

from ...chain import Chain
from ...scorer import give_scorer

SETTINGS: dict[str, Any] = {"decode_steps": "2", "steps": "1", "seeds": "0,5", "n": 4, "precision": "fp32"}


def test_models_of_other_tokenizers_and_lengths_are_measured_apart(tiny_chain: Chain, tmp_path: Path) -> None:
    config = BenchConfig(**SETTINGS | {"scorer": "none"})
    with pytest.raises(UserError) as error:
        bench_plan(config, [tiny_chain.mdlm, "shipped/parents/mdlm"], tmp_path)
    assert "differ in tokenizer or length" in error.value.what


def bench(chain: Chain, out: Path, decode_steps: str) -> list[dict[str, Any]]:
    return list(bench_frontier(BenchConfig(**SETTINGS | {"decode_steps": decode_steps}), [chain.mdlm], out))


def give_another_scorer(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    scorer = give_scorer(monkeypatch, name)
    with torch.no_grad():
        for weight in scorer.model.parameters():
            weight.neg_()


def test_figures_by_a_scorer_that_was_replaced_are_measured_again(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch, "same")
    (before,) = bench(tiny_chain, tmp_path, "2")
    assert bench(tiny_chain, tmp_path, "2") == [before]
    give_another_scorer(monkeypatch, "same")
    first, second = bench(tiny_chain, tmp_path, "2,4")
    assert first["scorer"] == second["scorer"] != before["scorer"]
    assert first["figures"]["genppl"] != before["figures"]["genppl"]
    assert first["figures"]["mauve_pooled"]["by_clustering"]


def test_figures_by_a_scorer_of_another_name_stay(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch, "one")
    (before,) = bench(tiny_chain, tmp_path, "2")
    give_another_scorer(monkeypatch, "another")
    with pytest.raises(UserError, match="several scorers"):
        bench(tiny_chain, tmp_path, "2,4")
    assert bench(tiny_chain, tmp_path, "2") == [before]


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_compiled_is_compiled_before_it_is_timed(monkeypatch: pytest.MonkeyPatch, compiled: bool) -> None:
    drawn: list[tuple[range, int]] = []
    monkeypatch.setattr(module, "_draw_batch", lambda _, batch, s: drawn.append((batch, s.decode_steps)))
    batches, settings = [range(2), range(2, 3)], SampleConfig(n=3, decode_steps=8, steps=2, compile=compiled)
    sampler: Any = SimpleNamespace(device=torch.device("cpu"))
    module._warm_up(sampler, batches, settings)
    assert drawn == ([(batch, 8) for batch in batches] if compiled else [(batches[0], 1)])


CORES = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: A Processor: fast

processor\t: 1
cpu family\t: 6
model\t\t: 1
model name\t: Another
"""


def test_processors_of_one_name_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(CORES)
    assert processor(tmp_path / "cpuinfo") == "A Processor: fast (family 25, model 17)"
    (tmp_path / "other").write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert processor(tmp_path / "other") == processor(tmp_path / "none") != ""
    assert machine(torch.device("cpu")).startswith(processor())
