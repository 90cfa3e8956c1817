"""MAUVE of all seeds' texts together, as ``bench`` measures and keeps it."""

import importlib.util
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from diladiff_cli.config import BenchConfig, EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.mauve import NOT_INSTALLED, mauve_score
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.kept import bench_plan
from diladiff_cli.stages.evaluation.measure import SampleMeasure

from ...chain import LENGTH, Chain
from ...scorer import give_scorer

Report = dict[str, Any]
SHARED: dict[str, Any] = {"decode_steps": "2", "seeds": "0,5", "n": 4, "precision": "fp32"}


def bench(chain: Chain, out: Path, data: Path | None = None, **settings: Any) -> Report:
    (found,) = bench_frontier(BenchConfig(**SHARED | settings), [chain.mdlm], out, data)
    return found


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many sets MAUVE was measured anew, call by call."""
    calls: list[int] = []
    pooled_mauve = SampleMeasure.pooled_mauve

    def watched(self: SampleMeasure, sets: Any) -> Any:
        calls.append(len(sets))
        return pooled_mauve(self, sets)

    monkeypatch.setattr(SampleMeasure, "pooled_mauve", watched)
    return calls


def test_it_is_that_of_the_texts_of_all_seeds(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = give_scorer(monkeypatch)
    found = bench(tiny_chain, tmp_path, seeds="0,5,6")
    files = (tmp_path / "points").glob("*.jsonl")
    texts = [json.loads(line) for file in files for line in file.read_text().strip("\n").split("\n")]
    samples = sorted(texts, key=lambda text: (text["seed"], text["id"]))
    pieces = SampleMeasure(EvalConfig()).text(str(tiny_chain.mdlm)).pieces(LENGTH, 24)
    features = [scorer.score([text["text"] for text in some]).features for some in (samples, pieces[:12], pieces[12:])]
    wanted, reference = mauve_score(*features[:2]), mauve_score(features[2], features[1])
    figure = found["figures"]["mauve_pooled"]
    assert len(samples) == figure["n"] == wanted["n"] == 12
    assert figure["by_clustering"] == pytest.approx(wanted["values"], abs=1e-3)
    assert found["reference"]["mauve_pooled"] == pytest.approx(fmean(reference["values"]), abs=1e-3)
    definition = found["definitions"]["mauve_pooled"]
    assert (definition["n"], definition["buckets"], definition["scorer"]) == (12, wanted["buckets"], "tiny")
    assert definition["source"] == found["reference"]["source"]
    assert found["definitions"]["mauve"]["n"] == 4
    few = bench(tiny_chain, tmp_path, seeds="0,5", n=200)
    assert "mauve_pooled" not in few["reference"]
    assert few["left_out"]["reference mauve_pooled"] == "needs twice as many reference texts as samples"


def test_it_is_kept_for_the_same_seeds_scorer_and_reference(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    give_scorer(monkeypatch)
    calls: list[tuple[dict[str, Any], list[int]]] = [
        ({}, [2]),
        ({}, []),
        ({"seeds": "0,5,6"}, [3]),
        ({"seeds": "0"}, []),
        ({"scorer": "another"}, [2]),
        ({"data": tiny_chain.data}, [2]),
        ({"temperatures": "0.5"}, [2]),
    ]
    for settings, wanted in calls:
        options = {name: value for name, value in settings.items() if name != "data"}
        config = BenchConfig(**SHARED | options)
        (point,) = bench_plan(config, [tiny_chain.mdlm], tmp_path, settings.get("data"))["points"]
        assert point["to_pool"] is bool(wanted)
        found = bench(tiny_chain, tmp_path, **settings)
        assert asked == wanted
        assert ("mauve_pooled" in found["figures"]) == (settings != {"seeds": "0"})
        assert bench(tiny_chain, tmp_path, **settings) == found
        assert asked == wanted
        asked.clear()


def test_it_is_measured_again_when_the_data_set_is_back(
    chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    give_scorer(monkeypatch)
    sources = ("ships with", chain_copy.held_out)
    shutil.move(chain_copy.data, tmp_path / "moved")
    for source in sources:
        found = bench(chain_copy, tmp_path / "bench")
        assert source in found["definitions"]["mauve_pooled"]["source"]
        assert source in found["reference"]["source"]
        shutil.copytree(tmp_path / "moved", chain_copy.data, dirs_exist_ok=True)
    assert asked == [2, 2]


def test_figures_that_name_their_reference_by_its_folder_are_measured_again(
    chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch)
    wanted = bench(chain_copy, tmp_path / "bench")
    kept = list((tmp_path / "bench" / "points").glob("*.figures.json"))
    assert len(kept) == 2
    for file in kept:
        file.write_text(file.read_text().replace(chain_copy.held_out, "the validation split of a/folder"))
    assert bench(chain_copy, tmp_path / "bench") == wanted
    assert wanted["reference"]["source"] == chain_copy.held_out


def test_beside_kept_figures_of_a_reference_that_is_gone_it_is_left_out(
    chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch)
    for seeds in ("0", "5"):
        bench(chain_copy, tmp_path / "bench", seeds=seeds)
    shutil.rmtree(chain_copy.data)
    found = bench(chain_copy, tmp_path / "bench")
    assert "mauve_pooled" not in found["figures"]
    assert "not at hand" in found["left_out"]["mauve_pooled"]


def test_another_scorer_than_that_of_the_kept_figures_is_not_mixed_in(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch)
    for seeds in ("0", "5"):
        bench(tiny_chain, tmp_path, seeds=seeds)
    give_scorer(monkeypatch, "other")  # what --scorer auto finds now
    found = bench(tiny_chain, tmp_path)
    assert "mauve_pooled" not in found["figures"]
    assert "not at hand" in found["left_out"]["mauve_pooled"]
    with pytest.raises(UserError, match=r"several scorers \(other, tiny\)"):
        bench(tiny_chain, tmp_path, seeds="0,6")


def test_without_a_scorer_there_is_none(tiny_chain: Chain, tmp_path: Path) -> None:
    found = bench(tiny_chain, tmp_path, scorer="none")
    assert "mauve_pooled" not in found["figures"]
    assert found["left_out"]["mauve_pooled"] == "no scorer"
    assert not list((tmp_path / "points").glob("*.pooled.json"))


def test_what_is_left_out_for_want_of_the_package_comes_with_it(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda _: None)
        found = bench(tiny_chain, tmp_path)
    assert found["left_out"]["mauve"] == found["left_out"]["mauve_pooled"] == NOT_INSTALLED
    assert {"mauve", "mauve_pooled"} <= bench(tiny_chain, tmp_path)["figures"].keys()


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"text": 3}', '{"text": "a", "token_ids": [1]}', "[" * 100_000]
)
@pytest.mark.parametrize("kind", ["????????????????????.jsonl", "*.speed.json", "*.figures.json", "*.pooled.json"])
def test_what_is_damaged_is_measured_again_and_named(
    tiny_chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    content: str,
) -> None:
    give_scorer(monkeypatch)
    first = bench(tiny_chain, tmp_path)
    file = next((tmp_path / "points").glob(kind))
    file.write_text(content)
    assert bench(tiny_chain, tmp_path)["figures"] == first["figures"]
    assert f"{file} is damaged: what it held is measured again\n" in capsys.readouterr().err
