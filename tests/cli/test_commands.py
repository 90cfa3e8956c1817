"""The commands that need no training of their own, on a tiny chain."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.cli.sample_file import SEPARATOR

from ..chain import LATENTS, LENGTH, Chain
from ..command_line import Cli


def samples(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def give(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Put text on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_sample_writes_what_the_library_draws(cli: Cli, tiny_chain: Chain) -> None:
    from diladiff_cli import load

    found = cli("sample", "--model", tiny_chain.student, "--steps", "2", "--n", "3", "--seed", "5")
    assert (found.status, found.err) == (0, "")
    assert samples(found.out) == load(tiny_chain.student).sample(n=3, steps=2, seed=5)


def test_sample_without_model_takes_the_local_student_and_says_so(
    cli: Cli, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_chain.root)
    found = cli("sample", "--n", "1")
    assert (found.status, found.errors) == (0, ["model: ./ckpt/student"])
    assert samples(found.out)[0]["model"] == "ckpt/student"


def test_sample_as_text_separates_the_texts_with_dashes(cli: Cli, tiny_chain: Chain) -> None:
    lines = samples(cli("sample", "--model", tiny_chain.mdlm, "--n", "3").out)
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "3", "--format", "text")
    assert found.status == 0
    assert found.out == f"\n{SEPARATOR}\n".join(line["text"] for line in lines) + "\n"


def test_sample_into_a_file_leaves_stdout_alone(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "2", "--out", "s.jsonl")
    assert (found.status, found.out, found.errors) == (0, "", ["s.jsonl: 2 samples"])
    assert samples((tmp_path / "s.jsonl").read_text()) == samples(
        cli("sample", "--model", tiny_chain.mdlm, "--n", "2").out
    )
    assert [p.name for p in tmp_path.iterdir()] == ["s.jsonl"]
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--out", "s.jsonl")
    assert found.errors == ["s.jsonl: 1 samples, in place of an earlier file"]


def test_a_failing_sample_leaves_the_old_file(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diladiff_cli.model import Model

    def failing(self: Model, *_: object) -> Any:
        yield {"id": 0, "text": "new"}
        raise RuntimeError("broke off")

    monkeypatch.setattr(Model, "stream", failing)
    (tmp_path / "s.jsonl").write_text('{"id": 0, "text": "old"}')
    assert cli("sample", "--model", tiny_chain.mdlm, "--out", "s.jsonl").status == 1
    part, file = sorted(p for p in tmp_path.iterdir() if not p.name.endswith(".lock"))
    assert (file.name, file.read_text()) == ("s.jsonl", '{"id": 0, "text": "old"}')
    assert part.name.startswith(".s.jsonl.partial-")  # for the same command again
    assert json.loads(part.read_text()) == {"id": 0, "text": "new"}


def test_sample_into_a_pipe_writes_there_and_leaves_the_pipe(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with open(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        assert cli("sample", "--model", tiny_chain.mdlm, "--n", "2", "--out", pipe).status == 0
        assert len(reader.read().splitlines()) == 2
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_sample_into_stdout_by_name_is_as_without_a_file(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, name: str
) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "2", "--out", name)
    assert (found.status, len(found.out.splitlines())) == (0, 2)
    assert found.out == cli("sample", "--model", tiny_chain.mdlm, "--n", "2").out
    assert list(tmp_path.iterdir()) == []


def test_sample_into_a_missing_folder_ends_before_the_model_is_loaded(
    cli: Cli, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diladiff_cli.model.load", None)
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--out", "nowhere/s.jsonl")
    assert (found.status, found.out) == (1, "")
    assert found.errors == ["error: cannot write nowhere/s.jsonl (there is no folder nowhere); choose another --out"]
    Path("s.jsonl").symlink_to("nowhere/s.jsonl")
    found = cli("sample", "--model", tiny_chain.mdlm, "--n", "1", "--out", "s.jsonl")
    assert "cannot write s.jsonl (there is no folder " in found.error
    assert not Path("nowhere").exists()


def test_options_that_do_not_fit_the_model_are_wrong_usage(cli: Cli, tiny_chain: Chain) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--steps", "3", "--decodings", "2")
    assert (found.status, found.out, len(found.errors)) == (2, "", 2)
    assert all(line.startswith("error: --") for line in found.errors)


@pytest.mark.parametrize(
    ("stage", "options", "message"),
    [
        ("prior", ("--gamma", "0.5"), "error: --gamma is for a student, and the model is of stage prior; leave it out"),
        (
            "student",
            ("--steps", "1", "--gamma", "0.5"),
            "error: --gamma is noise between latent steps, and --steps is 1",
        ),
        ("mdlm", ("--threshold", "0.5"), "error: --threshold is for --order threshold, and the order is random"),
        ("mdlm", ("--entropy-bound", "1"), "error: --entropy-bound is for --order entropy, and the order is random"),
        ("student", ("--data", "data"), "error: --data is for an auto-encoder, and the model is of stage student"),
    ],
)
def test_sample_refuses_options_that_would_do_nothing(
    cli: Cli, tiny_chain: Chain, stage: str, options: tuple[str, ...], message: str
) -> None:
    found = cli("sample", "--model", getattr(tiny_chain, stage), "--n", "2", *options)
    assert (found.status, found.out) == (2, "")
    assert message in found.err


def test_eval_of_samples_cuts_the_reference_in_the_tokens_of_their_model(
    cli: Cli, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, cli("sample", "--model", tiny_chain.student, "--n", "4").out)
    found = cli("eval", "-", "--scorer", "none", "--reference", tiny_chain.text)
    assert found.status == 0
    (report,) = samples(found.out)
    assert report["samples"]["n"] == report["reference"]["n"] == 4
    assert report["reference"]["mean_length"] == LENGTH
    assert report["settings"]["model"] == str(tiny_chain.student)
    assert "reference" in found.err
    assert "entropy" in found.err


def test_eval_of_samples_of_an_unknown_model_cuts_the_reference_by_characters(
    cli: Cli, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diladiff_cli.stages.evaluation import reference_text

    asked: list[tuple[Any, int, int]] = []
    original = reference_text.reference_samples

    def noted(tokenizer: Any, length: int, n: int, *text: Any) -> Any:
        asked.append((tokenizer, length, n))
        return original(tokenizer, length, n, *text)

    monkeypatch.setattr(reference_text, "reference_samples", noted)
    Path("s.jsonl").write_text("".join(json.dumps({"text": "x" * k, "model": "gone"}) + "\n" for k in (20, 30, 90)))
    found = cli("eval", "s.jsonl", "--scorer", "none", "--reference", tiny_chain.text)
    assert found.status == 0, found.err
    assert asked == [(None, 30, 6)]  # twice as many pieces as samples, of the samples' median length
    assert samples(found.out)[0]["reference"]["n"] == 3


def test_eval_gives_one_report_for_each_way_of_sampling(cli: Cli, tiny_chain: Chain) -> None:
    parts = [cli("sample", "--model", tiny_chain.student, "--n", "2", "--steps", str(s)).out for s in (1, 2)]
    Path("both.jsonl").write_text("".join(parts))
    Path("one.jsonl").write_text(parts[0])
    found = cli("eval", "both.jsonl", "one.jsonl", "--scorer", "none", "--reference", tiny_chain.text)
    assert [report["settings"]["steps"] for report in samples(found.out)] == [1, 2, 1]
    title = next(i for i, line in enumerate(found.errors) if "all ways of sampling" in line)
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in found.errors[title:] if line.startswith("│")]
    told = [(row[0], row[2]) for row in rows]
    assert told == [("both.jsonl", "1"), ("both.jsonl", "2"), ("one.jsonl", "1"), ("reference", "-")]
    assert f"reference: {tiny_chain.text}" in "".join(line.rstrip() for line in found.errors[title:])
    assert "all ways of sampling" not in cli("eval", "one.jsonl", "--scorer", "none").err


def test_eval_without_a_reference_takes_what_the_models_data_set_held_out_and_says_so(
    cli: Cli, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(monkeypatch, cli("sample", "--model", tiny_chain.student, "--n", "4").out)
    Path("c.toml").write_text('[eval]\nscorer = "none"\n')
    found = cli("eval", "-", "--config", "c.toml")
    assert found.status == 0, found.err
    source = tiny_chain.held_out
    assert found.errors[0] == f"reference: {source} in {tiny_chain.data}"
    assert "".join(found.err.split()).count("".join(source.split())) == 2  # once more below the table
    (report,) = samples(found.out)
    assert report["reference"]["source"] == source
    assert report["scorer"] == {"name": None, "note": "no scorer was asked for", "fingerprint": None}


def test_eval_refuses_what_nothing_would_heed(cli: Cli, tiny_chain: Chain) -> None:
    found = cli("eval", tiny_chain.mdlm, tiny_chain.ae, "--reference", tiny_chain.text)
    assert (found.status, found.out) == (2, "")
    assert found.errors == ["error: --reference has no meaning without samples to measure; leave it out"]
    found = cli("eval", "s.jsonl", "-", "--data", tiny_chain.data)
    assert (found.status, found.out) == (2, "")
    assert found.errors == ["error: --data has no meaning without an artifact to measure; leave it out"]
    found = cli("eval", tiny_chain.mdlm, "--context", "9", "--likelihood", "2", "--scorer", "none")
    assert (found.status, found.out) == (2, "")
    assert found.errors == [
        "error: --scorer has no meaning without samples to measure; leave it out",
        "error: --context has no meaning without samples to measure; leave it out",
        "error: --likelihood has no meaning without a prior to measure; leave it out",
    ]
    found = cli("eval", "s.jsonl", "--draws", "3")
    assert found.errors == ["error: --draws has no meaning without an artifact to measure; leave it out"]


def test_eval_of_an_artifact_gives_its_figures(cli: Cli, tiny_chain: Chain) -> None:
    found = cli("eval", tiny_chain.mdlm, "--batches", "1", "--draws", "3", "--seed", "4")
    assert found.status == 0
    (report,) = samples(found.out)
    assert report["stage"] == "mdlm"
    assert report["settings"] | {"batches": 1, "draws": 3, "seed": 4} == report["settings"]
    assert "masking ratio" in found.err


def test_pretty_indents_the_same_report(cli: Cli, tiny_chain: Chain) -> None:
    plain = cli("eval", tiny_chain.mdlm, "--batches", "1", "--draws", "1")
    pretty = cli("eval", tiny_chain.mdlm, "--batches", "1", "--draws", "1", "--pretty")
    assert json.loads(pretty.out) == json.loads(plain.out)
    assert len(plain.out.splitlines()) == 1 < len(pretty.out.splitlines())


def test_info_gives_a_record_and_a_table(cli: Cli, tiny_chain: Chain) -> None:
    for path, stage in ((tiny_chain.data, "data"), (tiny_chain.ae, "ae")):
        found = cli("info", path)
        assert found.status == 0
        assert json.loads(found.out)["stage"] == stage
        assert str(path) in found.err


def test_info_without_a_folder_tells_of_the_model_that_sample_takes(cli: Cli) -> None:
    found = cli("info")
    assert (found.status, json.loads(found.out)["stage"]) == (0, "student")
    assert "model: the small one that ships with diladiff" in found.err


def test_export_without_a_model_bundles_the_one_that_sample_takes(cli: Cli) -> None:
    found = cli("export", "--precision", "fp32")
    assert found.status == 0
    assert found.errors[0].startswith("model: the small one that ships with diladiff")
    assert found.errors[1].startswith("bundle: student in fp32, ")
    assert found.errors[2] == "its weights were stored in bf16: fp32 makes them larger, not finer"


def test_a_bundle_replaced_is_told(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    told = [cli("export", "--model", tiny_chain.mdlm).errors[0] for _ in range(2)]
    assert told[1] == told[0] + ", in place of an earlier bundle"


def test_the_shipped_model_is_compared_with_the_shipped_text(cli: Cli, tmp_path: Path) -> None:
    cli("sample", "--n", "2", "--steps", "1", "--decode-steps", "1", "--out", "s.jsonl")
    found = cli("eval", "s.jsonl", "--scorer", "none")
    assert "which comes without its data set)" in found.err


def test_a_bundle_samples_what_its_model_samples(cli: Cli, tiny_chain: Chain) -> None:
    exported = cli("export", "--model", tiny_chain.student, "--out", "bundle", "--precision", "fp32")
    assert (exported.status, exported.out, len(exported.errors)) == (0, "", 1)
    drawn = [samples(cli("sample", "--model", model, "--n", "2").out) for model in ("bundle", tiny_chain.student)]
    assert [s["token_ids"] for s in drawn[0]] == [s["token_ids"] for s in drawn[1]]


def test_encode_without_text_takes_the_shipped_text_and_says_so(cli: Cli) -> None:
    found = cli("encode", "--dry-run")
    assert found.status == 0
    assert len(found.errors) == 1
    assert found.errors[0].startswith("no text was given: using the one that ships with diladiff")
    assert [Path(name).name for name in json.loads(found.out)["files"]] == ["train.jsonl.zst", "valid.jsonl.zst"]


def test_encode_with_an_auto_encoder_writes_latents_of_its_data(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = cli("encode", "--ae", tiny_chain.ae, "--batch-size", "7")
    assert (found.status, found.out) == (0, "")
    assert json.loads((tmp_path / "latents" / "config.json").read_text())["shape"][0] == LATENTS


def test_a_dry_run_of_latents_counts_the_work_and_writes_nothing(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = cli("encode", "--ae", tiny_chain.ae, "--dry-run")
    assert (found.status, found.err) == (0, "")
    plan = json.loads(found.out)
    record = json.loads((tiny_chain.data / "config.json").read_text())
    assert plan["rows"] == {name: split["rows"] for name, split in record["splits"].items()}
    assert plan["shards"] == 2
    assert plan["finished_shards"] == 0
    assert list(tmp_path.iterdir()) == []
