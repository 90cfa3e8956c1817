"""``eval`` from Python: the choice of the reference text, and one scoring for each."""

import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diladiff_cli.cli.evaluate import _with_tables
from diladiff_cli.config import EvalConfig, SampleConfig
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.diversity import token_entropy
from diladiff_cli.metrics.scorers import Scores
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.evaluation import measure as sample_measure
from diladiff_cli.stages.evaluation.artifact import evaluate_artifact
from diladiff_cli.stages.evaluation.files import evaluate_files, overview_table, table_of
from diladiff_cli.stages.evaluation.reference_text import SHIPPED, held_out, reference_text
from diladiff_cli.stages.export import export
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler

from ...chain import LENGTH, Chain
from ...command_line import Cli

NO_SCORER = EvalConfig(scorer="none")
Report = dict[str, Any]


def draw(model: Path, out: Path, n: int = 3, drop: tuple[str, ...] = (), **settings: Any) -> Path:
    """A file of samples without the fields to drop."""
    samples = generate(load_sampler(model, "cpu"), SampleConfig(n=n, **settings))
    kept = [{k: v for k, v in sample.items() if k not in drop} for sample in samples]
    out.write_text("".join(json.dumps(sample) + "\n" for sample in kept))
    return out


def measure(*targets: Path, **options: Any) -> list[Report]:
    return list(evaluate_files(NO_SCORER, targets, **options))


def shown(table: Any) -> str:
    console = Console(file=io.StringIO(), width=400)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


@dataclass
class CountingScorer:
    """Finds every text equally likely and counts those that it is asked for."""

    name: str = "counting"
    fingerprint: str = "of its own"
    precision: str = "fp32"
    context: int = 1024
    asked: list[str] = field(default_factory=list)

    def score(self, texts: list[str], _context: int | None, _batch_size: int, progress: Any = None) -> Scores:
        self.asked += texts
        if progress is not None:
            progress(len(texts))
        return Scores([[0, 1]] * len(texts), [torch.ones(1)] * len(texts), torch.empty(0, 1))


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> CountingScorer:
    found = CountingScorer()
    monkeypatch.setattr(sample_measure, "load_scorer", lambda *_: (found, "counting, as asked for"))
    return found


@pytest.mark.parametrize("stage", ["mdlm", "student"])
def test_the_reference_is_what_the_models_data_set_held_out(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    (report,) = measure(draw(getattr(tiny_chain, stage), tmp_path / "s.jsonl"))
    source = tiny_chain.held_out
    assert report["reference"]["source"] == source
    assert capsys.readouterr().err == f"reference: {source} in {tiny_chain.data}\n"
    assert "".join(source.split()) in "".join(shown(table_of(report)).split())  # in a caption of several lines
    split = open_tokens(tiny_chain.data).split("valid")
    rows = [0, len(split) // 3, 2 * len(split) // 3]  # the even ones of six
    assert report["reference"]["entropy"] == pytest.approx(token_entropy(split.gather(rows).tolist()))
    assert report["reference"]["mean_length"] == LENGTH


def test_samples_without_token_ids_get_the_same_reference_by_their_models_tokenizer(
    tiny_chain: Chain, tmp_path: Path
) -> None:
    text = reference_text(str(tiny_chain.mdlm))
    sample = {"text": text.pieces(LENGTH, 1)[0]["text"].replace("\n", " ")}
    assert text.length_of([sample]) == len(text.tokenizer(sample["text"])["input_ids"])
    (report,) = measure(draw(tiny_chain.mdlm, tmp_path / "s.jsonl", drop=("token_ids",)))
    assert report["reference"]["source"] == tiny_chain.held_out


def test_token_ids_that_are_not_of_the_models_tokenizer_count_for_nothing(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], scorer: CountingScorer
) -> None:
    file = draw(tiny_chain.mdlm, tmp_path / "s.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    foreign = [sample | {"token_ids": [1 + ord(letter) % 250 for letter in sample["text"]]} for sample in samples]
    file.write_text("".join(json.dumps(sample) + "\n" for sample in foreign))
    (report,) = evaluate_files(EvalConfig(scorer="counting"), [file])
    assert report["reference"]["source"] == SHIPPED
    assert "the token ids of the samples are not of their model's tokenizer of today" in capsys.readouterr().err
    assert report["definitions"]["entropy"]["tokenisation"] == "text re-tokenised by the scorer"
    assert scorer.asked


def test_a_data_set_that_is_reached_by_a_link_is_named_by_its_own_place(chain_copy: Chain) -> None:
    real = chain_copy.data.rename(chain_copy.root / "elsewhere")
    chain_copy.data.symlink_to(real)
    text = reference_text(str(chain_copy.mdlm))
    assert text.note == f"reference: {text.source} in {real}"


def test_blocks_are_cut_to_samples_that_are_shorter(tiny_chain: Chain) -> None:
    pieces = reference_text(str(tiny_chain.mdlm)).pieces(5, 4)
    assert [len(piece["token_ids"]) for piece in pieces] == [5] * 4


def test_without_the_data_set_the_shipped_text_is_cut_by_the_models_tokenizer(
    chain_copy: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = draw(chain_copy.mdlm, tmp_path / "s.jsonl")
    shutil.rmtree(chain_copy.data)
    (report,) = measure(samples)
    assert (report["reference"]["source"], report["reference"]["mean_length"]) == (SHIPPED, LENGTH)
    reason = f"the data set of {chain_copy.mdlm}, {chain_copy.data}, is missing"
    assert capsys.readouterr().err == f"reference: {SHIPPED} ({reason})\n"


@pytest.mark.parametrize("change", ["fingerprint", "splits"])
def test_a_data_set_that_was_changed_or_held_nothing_out_is_no_reference(chain_copy: Chain, change: str) -> None:
    file = chain_copy.data / "config.json"
    config = json.loads(file.read_text())
    del config["checksum"]
    if change == "fingerprint":
        config["fingerprint"] = "0" * 64
    else:
        config["splits"]["valid"]["shards"] = []
    file.write_text(json.dumps(config))
    found = reference_text(str(chain_copy.mdlm))
    assert found.source == SHIPPED
    what = "is not what" if change == "fingerprint" else "holds no text out"
    assert found.reason.startswith(f"{chain_copy.data} {what}")
    with pytest.raises(UserError, match="--reference"):
        held_out(load_artifact(chain_copy.mdlm))


@pytest.mark.parametrize("model", [None, "gone", ""])
def test_samples_of_no_model_at_hand_meet_the_shipped_text_cut_by_characters(tmp_path: Path, model: Any) -> None:
    samples = tmp_path / "s.jsonl"
    samples.write_text(json.dumps({"text": "x" * 70, "token_ids": [1, 2], "model": model}) + "\n")
    (report,) = measure(samples)
    assert report["reference"]["source"] == SHIPPED
    found = reference_text(model)
    assert (found.tokenizer, found.reason, found.length_of([{"text": "x" * 70}])) == (None, "", 70)
    assert len(found.pieces(70, 2)[0]["text"]) == 70


def test_a_given_text_beats_the_data_set(tiny_chain: Chain, tmp_path: Path) -> None:
    samples = draw(tiny_chain.mdlm, tmp_path / "s.jsonl")
    (report,) = measure(samples, reference=[str(tiny_chain.text)])
    assert (report["reference"]["source"], report["reference"]["mean_length"]) == (str(tiny_chain.text), LENGTH)


def test_a_reference_is_scored_once_for_all_files_and_models_that_share_it(
    tiny_chain: Chain, tmp_path: Path, scorer: CountingScorer, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [draw(model, tmp_path / f"{model.name}.jsonl") for model in (tiny_chain.mdlm, tiny_chain.student)]
    reports = list(evaluate_files(EvalConfig(), [*files, files[0]]))
    assert len(scorer.asked) == 3 * 3 + 6
    assert len({json.dumps(report["reference"]) for report in reports}) == 1
    assert reports[0]["samples"]["genppl"] == pytest.approx(torch.e)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reference: ")
    assert lines[1:] == ["loading the scorer"]  # work of less than half a minute is not told
    assert [report["target"] for report in reports] == [str(file) for file in (*files, files[0])]
    assert str(table_of(reports[1]).title).startswith(f"{files[1]}: model ")  # type: ignore[attr-defined]


def test_a_text_that_is_cut_in_two_ways_is_told_once(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = draw(tiny_chain.mdlm, tmp_path / "named.jsonl")
    nameless = draw(tiny_chain.mdlm, tmp_path / "nameless.jsonl", drop=("model",))
    first, second = measure(named, nameless, reference=[str(tiny_chain.text)])
    assert first["reference"]["source"] == second["reference"]["source"] == str(tiny_chain.text)
    assert first["reference"] != second["reference"]  # cut by tokens, and by characters
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reference: ")]
    assert told == [f"reference: {tiny_chain.text}"]


def test_references_of_different_size_are_scored_apart(
    tiny_chain: Chain, tmp_path: Path, scorer: CountingScorer
) -> None:
    files = [draw(tiny_chain.mdlm, tmp_path / f"{n}.jsonl", n) for n in (1, 2)]
    assert [r["reference"]["n"] for r in evaluate_files(EvalConfig(), files)] == [1, 2]
    assert len(scorer.asked) == 3 * 1 + 3 * 2


def test_each_way_of_sampling_in_a_file_meets_the_reference_that_it_meets_alone(
    tiny_chain: Chain, tmp_path: Path
) -> None:
    few, many = (draw(tiny_chain.mdlm, tmp_path / f"{n}.jsonl", n, temperature=1.0 / n) for n in (2, 9))
    together = tmp_path / "together.jsonl"
    together.write_text(many.read_text() + few.read_text())
    found = {report["samples"]["n"]: report["reference"] for report in measure(together)}
    assert found == {report["samples"]["n"]: report["reference"] for report in measure(few, many)}
    assert found[2] != found[9] | {"n": 2}


def test_ways_of_sampling_are_told_in_the_order_of_their_file(tmp_path: Path) -> None:
    ways = [(1, 3), (2, 2), (3, 3), (4, 1), (5, 2)]  # steps, and how many
    lines = [{"text": f"a text {i}", "token_ids": [i, 1, 2], "steps": steps} for steps, n in ways for i in range(n)]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    reports = list(evaluate_files(EvalConfig(scorer="none"), tmp_path / "s.jsonl"))
    assert [(r["settings"]["steps"], r["samples"]["n"]) for r in reports] == ways


def test_a_missing_folder_is_told_before_options_that_suit_it(cli: Cli) -> None:
    found = cli("eval", "nope", "--batches", "1", "--draws", "1")
    assert (found.status, len(found.errors)) == (1, 1)
    assert found.errors[0].startswith("error: cannot read nope (No such file or directory)")


def test_artifacts_are_measured_beside_samples_in_the_order_given(tiny_chain: Chain, tmp_path: Path) -> None:
    samples = draw(tiny_chain.mdlm, tmp_path / "s.jsonl")
    config = EvalConfig(scorer="none", batches=1, draws=2, seed=3)
    targets = [samples, tiny_chain.mdlm, samples]
    reports = list(evaluate_files(config, targets, reference=[str(tiny_chain.text)], data=tiny_chain.data))
    assert ["stage" in report for report in reports] == [False, True, False]
    assert reports[1] == evaluate_artifact(config, str(tiny_chain.mdlm), data=str(tiny_chain.data))
    assert "masking ratio" in shown(table_of(reports[1]))
    assert shown(overview_table(reports)).count(str(tiny_chain.mdlm)) == 2


def test_options_that_nothing_would_heed_are_refused_together() -> None:
    with pytest.raises(ConfigError) as caught:
        evaluate_files(NO_SCORER, [], reference=["a"], data=Path("b"))
    assert [problem.split()[0] for problem in caught.value.problems] == ["--reference", "--data"]


def test_a_bad_file_is_told_before_the_work(tiny_chain: Chain, chain_copy: Chain, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read"):
        evaluate_files(NO_SCORER, [tiny_chain.mdlm, tmp_path / "none.jsonl"])
    export(chain_copy.ae, tmp_path / "bundle")
    shutil.rmtree(chain_copy.data)
    with pytest.raises(UserError, match="bundle, which comes without its data set"):
        evaluate_files(NO_SCORER, [tiny_chain.mdlm, tmp_path / "bundle"])


def test_a_missing_scorer_or_reference_is_told_before_the_work(tiny_chain: Chain, tmp_path: Path) -> None:
    texts = draw(tiny_chain.mdlm, tmp_path / "s.jsonl", decode_steps=4)
    with pytest.raises(UserError, match="there is no scorer ./none"):
        evaluate_files(EvalConfig(scorer="./none"), [tiny_chain.mdlm, texts])
    with pytest.raises(UserError, match="there is no file or folder none.txt"):
        evaluate_files(EvalConfig(scorer="none"), [tiny_chain.mdlm, texts], reference=["none.txt"])


def test_the_table_of_a_report_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("diladiff_cli.cli.evaluate.show", lambda table: told.append("table"))
    monkeypatch.setattr("diladiff_cli.stages.evaluation.files.table_of", lambda report: None)
    for report in _with_tables(iter([{"kind": "first"}, {"kind": "second"}])):
        told.append(report["kind"])
    assert told == ["first", "table", "second", "table"]


def test_the_overview_has_a_row_for_each_way_of_sampling_and_the_settings_that_tell_them_apart(
    tiny_chain: Chain, tmp_path: Path
) -> None:
    files = [draw(tiny_chain.mdlm, tmp_path / f"{p}.jsonl", top_p=p, decode_steps=4) for p in (0.5, 0.9)]
    reports = measure(*files)
    assert overview_table(reports[:1]) is None
    together = tmp_path / "together.jsonl"
    together.write_text("".join(file.read_text() for file in files))
    assert "target" not in shown(overview_table(measure(together)))
    lines = [line.split("│")[1:-1] for line in shown(overview_table(reports)).splitlines() if line.startswith("│")]
    rows = [[part.strip() for part in line] for line in lines]
    entropies = [f"{report['samples']['entropy']:.4g}" for report in reports]
    assert [row[0] for row in rows[:2]] == [str(file) for file in files]
    assert [row[2:] for row in rows[:2]] == [
        ["-", "4", "1", p, "3", "-", entropy, "-", "-"] for p, entropy in zip(("0.5", "0.9"), entropies, strict=True)
    ]
    assert rows[2][0] == "reference"
    assert str(overview_table(reports).caption) == f"reference: {reports[0]['reference']['source']}"  # type: ignore[union-attr]
    assert len(rows) == 3
