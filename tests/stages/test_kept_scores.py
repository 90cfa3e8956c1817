"""Scores that are kept: the same as new ones, and only where scorer, precision and text are the same."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, EvalConfig
from diladiff_cli.metrics.mauve import mauve_score
from diladiff_cli.metrics.scorers import Scorer, Scores
from diladiff_cli.stages import eval_files
from diladiff_cli.stages.bench_frontier import bench_frontier
from diladiff_cli.stages.eval_samples import MAUVE_SEEDS, score_texts
from diladiff_cli.stages.kept_scores import kept_scores
from tests.chain import LENGTH, Chain
from tests.scorer import build_scorer

TEXTS: list[Any] = [{"text": text} for text in ("a b c d", "", "c", "f e d c b a")]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return build_scorer()


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of a scorer got."""
    calls: list[int] = []
    score: Callable[..., Scores] = Scorer.score

    def watched(self: Scorer, texts: Any, *more: Any) -> Scores:
        calls.append(len(texts))
        return score(self, texts, *more)

    monkeypatch.setattr(Scorer, "score", watched)
    return calls


def same(one: Scores | None, other: Scores | None) -> bool:
    assert one is not None
    assert other is not None
    rows = zip(one.nlls, other.nlls, strict=True)
    return (
        one.ids == other.ids
        and all(map(torch.equal, *zip(*rows, strict=True)))
        and torch.equal(one.features, other.features)
    )


def test_kept_scores_are_those_of_the_scorer(scorer: Scorer, tmp_path: Path, scored: list[int]) -> None:
    wanted = score_texts(TEXTS, scorer)
    told: list[int] = []
    for given in (scorer, build_scorer()):  # the same one, loaded again
        assert same(kept_scores(tmp_path / "new", TEXTS, given, progress=told.append), wanted)
    assert scored == [4, 4]  # wanted, and once more
    assert sum(told) == 8


def test_another_text_context_precision_or_scorer_is_scored_anew(
    scorer: Scorer, tmp_path: Path, scored: list[int]
) -> None:
    other, configured = build_scorer(), build_scorer()  # under the same name
    with torch.no_grad():
        next(other.model.parameters())[0, 0] += 1
    configured.model.config.layer_norm_epsilon = 0.1  # type: ignore[union-attr]
    for given in (scorer, other, configured, dataclasses.replace(scorer, precision="bf16")):
        kept_scores(tmp_path, TEXTS, given)
    kept_scores(tmp_path, TEXTS, scorer, context=2)
    kept_scores(tmp_path, TEXTS[:2], scorer)
    assert scored == [4, 4, 4, 4, 4, 2]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"torn", lambda whole: whole[:-4] + b"\0\0\0\0"])
def test_a_damaged_file_is_made_again(
    scorer: Scorer, tmp_path: Path, scored: list[int], damage: Callable[[bytes], bytes]
) -> None:
    wanted = kept_scores(tmp_path, TEXTS, scorer)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(kept_scores(tmp_path, TEXTS, scorer), wanted)
    assert scored == [4, 4]
    assert file.read_bytes() == whole


def test_nothing_is_kept_without_a_folder_a_scorer_or_texts(scorer: Scorer, tmp_path: Path) -> None:
    assert kept_scores(None, TEXTS, scorer) is not None
    assert kept_scores(tmp_path, TEXTS, None) is None
    assert kept_scores(tmp_path, [], scorer) is None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_bench(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """The scorer of ``bench``, which tells all texts apart."""

    def by_letter(_: Scorer, texts: Any, *_more: Any) -> list[list[int]]:
        return [[2 + ord(letter) % 6 for letter in text[:16]] for text in texts]

    monkeypatch.setattr(Scorer, "encode", by_letter)
    monkeypatch.setattr(eval_files, "load_scorer", lambda *_: (scorer, "tiny"))
    return scorer


def bench(model: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    config = BenchConfig(
        **{"decode_steps": "2", "seeds": "0", "n": 4, "scorer": "tiny", "precision": "fp32"} | settings
    )
    return list(bench_frontier(config, [model], out))


@pytest.mark.usefixtures("in_bench")
def test_a_further_point_of_bench_costs_only_that_point(tiny_chain: Chain, tmp_path: Path, scored: list[int]) -> None:
    for temperatures, texts in (("1", [8, 4]), ("1,0.1", [4]), ("1,0.1", [])):
        reports = bench(tiny_chain.mdlm, tmp_path, temperatures=temperatures)
        assert scored == texts  # the reference, twice as many as samples, is scored by the first call alone
        assert all(report["reference"]["genppl"] == reports[0]["reference"]["genppl"] for report in reports)
        scored.clear()


def test_mauve_of_all_seeds_is_that_of_their_texts_together(
    tiny_chain: Chain, tmp_path: Path, scored: list[int], in_bench: Scorer
) -> None:
    (one,) = bench(tiny_chain.mdlm, tmp_path)
    assert "mauve_pooled" not in one["figures"]
    scored.clear()
    (found,) = bench(tiny_chain.mdlm, tmp_path, seeds="0,5,6")
    assert sorted(scored) == [4, 4, 12]  # those of two more seeds, and of as many pieces of the reference
    files = (tmp_path / "points").glob("*.jsonl")
    texts = [json.loads(line) for file in files for line in file.read_text().strip("\n").split("\n")]
    in_order = sorted(texts, key=lambda text: (text["seed"], text["id"]))
    text = eval_files.SampleMeasure(EvalConfig()).text(str(tiny_chain.mdlm))
    features = [in_bench.features([piece["text"] for piece in side]) for side in (in_order, text.pieces(LENGTH, 12))]
    wanted = mauve_score(*features, MAUVE_SEEDS)
    assert len(in_order) == found["figures"]["mauve_pooled"]["n"] == wanted["n"] == 12
    assert found["figures"]["mauve_pooled"]["by_clustering"] == pytest.approx(wanted["values"], abs=1e-3)
    assert found["definitions"]["mauve_pooled"]["buckets"] == wanted["buckets"]
    assert found["definitions"]["mauve"]["n"] == 4


@pytest.mark.usefixtures("in_bench")
def test_mauve_of_all_seeds_is_kept(tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    pooled_mauve = eval_files.SampleMeasure.pooled_mauve

    def watched(self: eval_files.SampleMeasure, sets: Any) -> Any:
        asked.append(len(sets))
        return pooled_mauve(self, sets)

    monkeypatch.setattr(eval_files.SampleMeasure, "pooled_mauve", watched)
    first = bench(tiny_chain.mdlm, tmp_path, seeds="0,5")
    assert bench(tiny_chain.mdlm, tmp_path, seeds="0,5") == first
    bench(tiny_chain.mdlm, tmp_path, seeds="0,5,6")
    assert asked == [2, 3]
