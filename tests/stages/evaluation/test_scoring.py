"""Scores that are kept: the same as new ones, and only where scorer, precision and text are the same."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig
from diladiff_cli.metrics.scorers import Scorer, Scores
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.evaluation.scoring import Scoring

from ...chain import Chain
from ...scorer import build_scorer, give_scorer

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
    wanted = Scoring(scorer).of(TEXTS).scores
    told: list[int] = []
    for given in (scorer, build_scorer()):  # the same one, loaded again
        assert same(Scoring(given, folder=tmp_path / "new").of(TEXTS, told.append).scores, wanted)
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
        Scoring(given, folder=tmp_path).of(TEXTS)
    Scoring(scorer, context=2, folder=tmp_path).of(TEXTS)
    Scoring(scorer, folder=tmp_path).of(TEXTS[:2])
    assert scored == [4, 4, 4, 4, 4, 2]
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", [lambda _: b"", lambda _: b"torn", lambda whole: whole[:-4] + b"\0\0\0\0"])
def test_a_damaged_file_is_made_again(
    scorer: Scorer, tmp_path: Path, scored: list[int], damage: Callable[[bytes], bytes]
) -> None:
    wanted = Scoring(scorer, folder=tmp_path).of(TEXTS).scores
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(Scoring(scorer, folder=tmp_path).of(TEXTS).scores, wanted)
    assert scored == [4, 4]
    assert file.read_bytes() == whole


def test_nothing_is_kept_without_a_folder_a_scorer_or_texts(scorer: Scorer, tmp_path: Path) -> None:
    assert Scoring(scorer).of(TEXTS).scores is not None
    assert Scoring(None, folder=tmp_path).of(TEXTS).scores is None
    assert Scoring(scorer, folder=tmp_path).of([]).scores is None
    assert list(tmp_path.iterdir()) == []


def test_a_further_point_of_bench_costs_only_that_point(
    tiny_chain: Chain, tmp_path: Path, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    give_scorer(monkeypatch)
    for temperatures, texts in (("1", [8, 4]), ("1,0.1", [4]), ("1,0.1", [])):
        config = BenchConfig(decode_steps="2", temperatures=temperatures, seeds="0", n=4, precision="fp32")
        reports = list(bench_frontier(config, [tiny_chain.mdlm], tmp_path))
        assert scored == texts  # the reference, twice as many as samples, is scored by the first call alone
        assert all(report["reference"]["genppl"] == reports[0]["reference"]["genppl"] for report in reports)
        scored.clear()
