import io
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from diladiff_cli.errors import UserError
from diladiff_cli.metrics.scorers import Scorer
from diladiff_cli.stages.eval_samples import (
    SETTINGS,
    evaluate_groups,
    evaluate_samples,
    group_samples,
    read_samples,
    reference_samples,
    report_table,
)


def sample(text: str, **others: Any) -> dict[str, Any]:
    return {"id": 0, "text": text, "token_ids": [ord(c) for c in text], "steps": 2, "model": "m"} | others


SAMPLES = [sample(text) for text in ("a b c d e", "b b a f c", "f e d c b", "a a a a a")]
REFERENCE = [sample(text) for text in ("c b a f f", "e e b a c", "a b d f e", "d c d a b") * 2]


def write(tmp_path: Path, *lines: str) -> str:
    path = tmp_path / "samples.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_samples_are_read_from_a_file_and_from_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A line separator of Unicode inside a text is no end of line.
    lines = [json.dumps(s, ensure_ascii=False) for s in (sample("a\u2028b"), sample("c"))]
    assert [s["text"] for s in read_samples(write(tmp_path, lines[0], "", lines[1]))] == ["a\u2028b", "c"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode())))
    assert len(read_samples("-")) == 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 has no text"),
        ('{"text": 3}', "line 2 has no text"),
        ('{"text": "a", "token_ids": [1.5]}', "line 2 has token_ids"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(UserError, match=what):
        read_samples(write(tmp_path, '{"text": "a"}', line))


def test_missing_and_empty_files_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        read_samples(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="holds no samples"):
        read_samples(write(tmp_path, ""))


def test_every_figure_has_a_definition_and_a_reference(tiny_scorer: Scorer) -> None:
    pytest.importorskip("mauve")
    report = evaluate_samples(SAMPLES, REFERENCE, tiny_scorer, scorer_note="tiny, as asked for")
    figures = {"genppl", "mauve", "entropy", "distinct_1", "distinct_2", "distinct_3", "repetition_4"}
    assert figures == set(report["definitions"])
    assert figures <= set(report["samples"])
    assert figures <= set(report["reference"])
    assert report["left_out"] == {}
    assert report["settings"] == {"model": "m", "steps": 2}
    assert report["samples"]["n"] == report["reference"]["n"] == 4
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_genppl_of_each_side_is_its_own(tiny_scorer: Scorer) -> None:
    report = evaluate_samples(SAMPLES, REFERENCE[:4], tiny_scorer)
    for side, texts in (("samples", SAMPLES), ("reference", REFERENCE[:4])):
        nlls = [float(v) for nll in tiny_scorer.token_nlls([s["text"] for s in texts]) for v in nll]
        assert report[side]["genppl"] == pytest.approx(math.exp(sum(nlls) / len(nlls)), rel=1e-5)
    assert "mauve" not in report["reference"]
    assert "reference mauve" in report["left_out"]


def test_without_a_scorer_the_rest_remains_and_the_reason_is_given() -> None:
    report = evaluate_samples(SAMPLES, REFERENCE, None, scorer_note="none installed")
    assert report["left_out"]["genppl"] == report["left_out"]["mauve"] == "none installed"
    assert report["samples"]["distinct_1"] == pytest.approx(7 / 36)
    assert "genppl" not in report["samples"]


def test_text_alone_is_measured_in_scorer_tokens(tiny_scorer: Scorer) -> None:
    bare = [{"text": s["text"]} for s in SAMPLES]
    report = evaluate_samples(bare, REFERENCE, tiny_scorer)
    assert report["definitions"]["entropy"]["tokenisation"] == "text re-tokenised by the scorer"
    assert report["samples"]["mean_length"] == report["reference"]["mean_length"] == 5
    without = evaluate_samples(bare, None, None)
    assert "token_ids" in without["left_out"]["entropy"]
    assert "entropy" not in without["samples"]


def test_each_way_of_sampling_gets_its_report(tiny_scorer: Scorer) -> None:
    mixed = [sample("a b", steps=s, seed=i) for i, s in enumerate([1, 2, 1, 2, 1])]
    assert [len(group) for group in group_samples(mixed)] == [3, 2]
    reports = evaluate_groups(mixed, REFERENCE, tiny_scorer)
    assert [r["settings"]["steps"] for r in reports] == [1, 2]
    assert "seed" not in SETTINGS


def test_the_table_shows_both_sides_and_what_is_left_out() -> None:
    report = evaluate_samples(SAMPLES, REFERENCE, None, scorer_note="none installed")
    console = Console(file=io.StringIO(), width=100)
    console.print(report_table(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("entropy", "reference", "genppl left out: none installed"):
        assert part in text


class CharacterTokenizer:
    """One token per character; the separator is token 1."""

    sep_token_id = 1
    eos_token_id = None

    def __call__(self, text: str, **_options: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in text]}


@pytest.fixture
def three_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for the reading and decoding of text."""

    def documents(_sources: list[str]) -> Iterator[str]:
        yield from ("abc", "defgh", "ij")

    def decode(_tokenizer: Any, ids: list[int]) -> str:
        return "".join("\n\n" if i == 1 else chr(i) for i in ids)

    for name, attribute, value in (("text", "iter_documents", documents), ("tokenizer", "decode_text", decode)):
        module = ModuleType(name)
        setattr(module, attribute, value)
        monkeypatch.setitem(sys.modules, f"diladiff_cli.data.{name}", module)


@pytest.mark.usefixtures("three_documents")
def test_reference_pieces_have_the_samples_length_in_tokens() -> None:
    pieces = reference_samples(CharacterTokenizer(), 5, 10, ["some.txt"])
    # abc|defgh|ij| with | the separator: 13 tokens, two pieces and a rest.
    assert [piece["text"] for piece in pieces] == ["abc\n\nd", "efgh\n\n"]
    assert [len(piece["token_ids"]) for piece in pieces] == [5, 5]


@pytest.mark.usefixtures("three_documents")
def test_reference_pieces_are_cut_by_characters_without_a_tokenizer() -> None:
    assert [piece["text"] for piece in reference_samples(None, 4, 2, ["some.txt"])] == ["abc\n", "gh\n\n"]
    with pytest.raises(UserError, match="shorter than one sample"):
        reference_samples(None, 100, 2, ["some.txt"])
