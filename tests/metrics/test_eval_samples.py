import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diladiff_cli.data.tokenizer import SEPARATOR_TOKEN, train_tokenizer
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.scorers import Scorer
from diladiff_cli.stages.evaluation.files import overview_table
from diladiff_cli.stages.evaluation.samples import (
    FEW,
    evaluate_samples,
    report_table,
)
from diladiff_cli.stages.evaluation.scoring import GIVEN, Scoring
from diladiff_cli.stages.evaluation.sets import (
    SETTINGS,
    evenly_spaced,
    group_samples,
    read_samples,
    reference_samples,
)


def sample(text: str, **others: Any) -> dict[str, Any]:
    return {"id": 0, "text": text, "token_ids": [ord(c) for c in text], "steps": 2, "model": "m"} | others


SAMPLES = [sample(text) for text in ("a b c d e", "b b a f c", "f e d c b", "a a a a a")]
REFERENCE = [sample(text) for text in ("c b a f f", "e e b a c", "a b d f e", "d c d a b") * 2]


def reports_of(
    samples: list[Any],
    reference: list[Any] | None,
    scorer: Scorer | None,
    source: str = GIVEN,
    progress: Callable[[int], None] | None = None,
    **how: Any,
) -> list[dict[str, Any]]:
    """Reports of samples beside a reference, both scored in one way."""
    scoring = Scoring(scorer, **how)
    real = None if reference is None else scoring.of(reference, progress, source)
    return [evaluate_samples(group, real, scoring, progress) for group in group_samples(samples)]


def one_report(*arguments: Any, **settings: Any) -> dict[str, Any]:
    """Of samples that were all drawn in one way."""
    [report] = reports_of(*arguments, **settings)
    return report


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
    samples = [s | {"id": i, "latent": i // 2, "seed": 0} for i, s in enumerate(SAMPLES)]
    report = one_report(samples, REFERENCE, tiny_scorer, note="tiny, as asked for")
    figures = {"genppl", "mauve", "entropy", "distinct_1", "distinct_2", "distinct_3", "repetition_4"}
    agreement = {"latent_agreement", "chance_agreement"}
    assert figures | agreement == set(report["definitions"])
    assert figures | agreement <= set(report["samples"])
    assert figures == set(report["definitions"]) & set(report["reference"])
    assert report["left_out"] == {}
    assert report["settings"] == {"model": "m", "steps": 2}
    assert report["samples"]["n"] == report["reference"]["n"] == 4
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_definitions_name_scorer_numbers_length_and_tokenisation(tiny_scorer: Scorer) -> None:
    pytest.importorskip("mauve")
    definitions = one_report(SAMPLES, REFERENCE, tiny_scorer, context=4)["definitions"]
    for name in ("genppl", "mauve"):
        found = definitions[name]
        assert (found["scorer"], found["context"], found["tokenisation"]) == ("tiny", 4, "text re-tokenised by tiny")
    assert definitions["genppl"]["scored"]["samples"] == {"n": 4, "mean_length": 3}
    assert definitions["mauve"]["n"] == 4
    assert definitions["entropy"]["counted"]["reference"] == {"n": 4, "mean_length": 9}
    assert definitions["entropy"]["tokenisation"] == "the generator's token_ids"


def test_texts_of_one_latent_are_compared_with_each_other_and_with_the_next_latents() -> None:
    ids = {(0, 0): [1, 2, 3, 4], (0, 1): [1, 2, 9, 9], (1, 0): [5, 6, 3, 8], (1, 1): [5, 6, 3, 9]}
    samples = [sample("x", id=2 * j + d, latent=j, seed=0, token_ids=row) for (j, d), row in ids.items()]
    report = one_report(samples, None, None)
    assert report["samples"]["latent_agreement"] == pytest.approx((2 / 4 + 3 / 4) / 2)
    # Latent 0's first text with latent 1's second, and the other way round.
    assert report["samples"]["chance_agreement"] == pytest.approx((1 / 4 + 0 / 4) / 2)
    definition = report["definitions"]["latent_agreement"]
    assert (definition["latents"], definition["decodings"], definition["length"]) == (2, 2, 4)


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        ({"stage": "student"}, "needs samples drawn with --decodings 2"),
        ({"stage": "mdlm"}, "a base has no latents"),
        ({}, "needs samples of diladiff, drawn with --decodings 2"),
    ],
)
def test_one_text_a_latent_has_no_agreement_and_the_remedy_is_named(stage: dict[str, str], reason: str) -> None:
    for samples in (SAMPLES, [s | {"latent": i} for i, s in enumerate(SAMPLES)], [{"text": "a", "latent": 0}] * 2):
        report = one_report([s | stage for s in samples], None, None)
        assert report["left_out"]["latent_agreement"] == reason
        assert "latent_agreement" not in report["samples"]


def test_a_single_latent_has_no_chance_to_compare_with() -> None:
    report = one_report([sample("ab", id=6, latent=3), sample("ac", id=7, latent=3)], None, None)
    assert report["samples"]["latent_agreement"] == pytest.approx(1 / 2)
    assert report["left_out"]["chance_agreement"] == "needs samples of several latents"


@pytest.mark.parametrize("stage", [["a"], {"a": 1}, 3])
def test_settings_of_other_programs_may_be_anything(stage: Any) -> None:
    report = one_report([sample("ab", stage=stage, order=stage)], None, None)
    assert report["left_out"]["latent_agreement"] == "needs samples drawn with --decodings 2"
    other = one_report([sample("ab", stage=stage, order="random")], None, None)
    table = overview_table([report, other])
    assert table is not None
    assert "order" in [column.header for column in table.columns]


def test_genppl_of_each_side_is_its_own(tiny_scorer: Scorer) -> None:
    report = one_report(SAMPLES, REFERENCE[:4], tiny_scorer)
    for side, texts in (("samples", SAMPLES), ("reference", REFERENCE[:4])):
        nlls = [float(v) for nll in tiny_scorer.score([s["text"] for s in texts]).nlls for v in nll]
        assert report[side]["genppl"] == pytest.approx(math.exp(sum(nlls) / len(nlls)), rel=1e-5)
    assert "mauve" not in report["reference"]
    assert "reference mauve" in report["left_out"]


def test_without_a_scorer_the_rest_remains_and_the_reason_is_given() -> None:
    report = one_report(SAMPLES, REFERENCE, None, note="none installed")
    assert report["left_out"]["genppl"] == report["left_out"]["mauve"] == "none installed"
    assert report["samples"]["distinct_1"] == pytest.approx(7 / 36)
    assert "genppl" not in report["samples"]


def test_text_alone_is_measured_in_scorer_tokens(tiny_scorer: Scorer) -> None:
    bare = [{"text": s["text"]} for s in SAMPLES]
    report = one_report(bare, REFERENCE, tiny_scorer)
    assert report["definitions"]["entropy"]["tokenisation"] == "text re-tokenised by the scorer"
    assert report["samples"]["mean_length"] == report["reference"]["mean_length"] == 5
    without = one_report(bare, None, None)
    assert "token_ids" in without["left_out"]["entropy"]
    assert "entropy" not in without["samples"]


def test_each_way_of_sampling_gets_its_report(tiny_scorer: Scorer) -> None:
    mixed = [sample("a b", steps=s, seed=i) for i, s in enumerate([1, 2, 1, 2, 1])]
    assert [len(group) for group in group_samples(mixed)] == [3, 2]
    counts: list[int] = []
    reports = reports_of(mixed, REFERENCE, tiny_scorer, progress=counts.append)
    assert [r["settings"]["steps"] for r in reports] == [1, 2]
    assert sum(counts) == len(mixed) + len(REFERENCE)
    assert "seed" not in SETTINGS


def test_known_scores_of_the_reference_are_taken_as_they_are(tiny_scorer: Scorer) -> None:
    scoring = Scoring(tiny_scorer)
    known = scoring.of(REFERENCE)
    counts: list[int] = []
    report = evaluate_samples(SAMPLES, known, scoring, counts.append)
    assert sum(counts) == len(SAMPLES)
    assert report == one_report(SAMPLES, REFERENCE, tiny_scorer)


def test_the_report_names_the_reference() -> None:
    assert one_report(SAMPLES, REFERENCE, None, source="a book")["reference"]["source"] == "a book"
    assert one_report(SAMPLES, REFERENCE, None)["reference"]["source"] == "texts that were given"
    assert "reference" not in one_report(SAMPLES, None, None, source="a book")


def test_the_table_shows_both_sides_and_what_is_left_out() -> None:
    report = one_report(SAMPLES, REFERENCE, None, source="an old book", note="none installed")
    console = Console(file=io.StringIO(), width=100)
    console.print(report_table(report))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in ("entropy", "reference: an old book", "scorer: none installed", "genppl, mauve left out"):
        assert part in text


def test_the_table_says_that_mauve_of_few_texts_says_little() -> None:
    report = one_report(SAMPLES, REFERENCE, None)
    for n, said in ((FEW - 1, True), (FEW, False)):
        report["samples"] |= {"mauve": 0.5, "n": n}
        table = report_table(report)
        assert (f"mauve of {n} texts says little" in str(table.caption)) is said
        assert ("mauve (few texts)" in table.columns[0].cells) is said


def test_the_table_says_once_why_something_is_left_out() -> None:
    samples = [{"text": s["text"]} for s in SAMPLES]
    report = one_report(samples, None, None, note="none installed")
    assert len(report["left_out"]) > len(set(report["left_out"].values()))
    caption = str(report_table(report).caption).splitlines()
    assert [line for line in caption if "none installed" in line] == ["scorer: none installed"]
    for reason in set(report["left_out"].values()):
        assert sum(reason in line for line in caption) == 1
    for name in report["left_out"]:
        assert sum("left out" in line and name in line.split(" left out")[0].split(", ") for line in caption) == 1


def test_a_sample_that_is_there_twice_counts_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = [{"id": i, "seed": s, "text": f"text {i}", "latent": i} for i in (0, 1) for s in (0, 1)]
    lines = [json.dumps(one) for one in [*drawn, drawn[1], drawn[3], {"text": "a"}, {"text": "a"}]]
    assert read_samples(write(tmp_path, *lines)) == [*drawn, {"text": "a"}, {"text": "a"}]
    assert "samples.jsonl: 2 of 8 samples are there before, and count once\n" in capsys.readouterr().err


@pytest.fixture(scope="module")
def three_documents(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "some.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("abc", "defgh", "ij")))
    return str(path)


def test_reference_pieces_are_packed_and_have_the_samples_length_in_tokens(three_documents: str) -> None:
    tokenizer = train_tokenizer(["z"], 258)  # one token per byte
    pieces = reference_samples(tokenizer, 5, 10, [three_documents])
    # abc|defgh|ij| with | the separator: 13 tokens, two pieces and a rest.
    assert [piece["text"] for piece in pieces] == ["abc\n\nd", "efgh\n\n"]
    separator = tokenizer.convert_tokens_to_ids(SEPARATOR_TOKEN)
    assert [piece["token_ids"].index(separator) for piece in pieces] == [3, 4]
    assert [len(piece["token_ids"]) for piece in pieces] == [5, 5]


def test_reference_pieces_are_cut_by_characters_without_a_tokenizer(three_documents: str) -> None:
    pieces = reference_samples(None, 4, 2, [three_documents])
    assert [piece["text"] for piece in pieces] == ["abc\n", "gh\n\n"]
    with pytest.raises(UserError, match="shorter than one sample"):
        reference_samples(None, 100, 2, [three_documents])


def test_few_pieces_come_from_all_over_the_text(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("".join(f"{number:06}\n\n" for number in range(1000)))
    pieces = reference_samples(None, 8, 4, [str(tmp_path / "long.txt")])
    assert [int(piece["text"]) for piece in pieces] == [0, 500, 250, 750]


def test_pieces_and_each_half_of_them_spread_evenly_over_the_text() -> None:
    assert evenly_spaced(3, 8) == [0, 1, 2]
    assert evenly_spaced(10, 12) == [0, 1, 3, 5, 6, 8, 2, 4, 7, 9]
    assert evenly_spaced(0, 8) == []
    rows = evenly_spaced(1000, 10)
    assert rows[:5] == [0, 200, 400, 600, 800]
    assert rows[5:] == [100, 300, 500, 700, 900]


def test_what_empty_samples_do_not_have_is_left_out_with_its_reason(tiny_scorer: Scorer) -> None:
    report = one_report([sample(""), sample("")], REFERENCE, tiny_scorer)
    missing = ("genppl", "entropy", "distinct_1", "repetition_4")
    assert {report["left_out"][name] for name in missing} == {"all samples are empty or too short"}
    assert not report["definitions"].keys() & missing
    short = one_report([sample("ab"), sample("ba")], None, None)
    assert short["left_out"]["repetition_4"] == "all samples are empty or too short"
    assert "entropy" not in short["left_out"]
