"""Where the text that samples are compared with may come from."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.stages.evaluation.measure import SampleMeasure

from ...command_line import Cli


def test_standard_input_is_the_reference_of_one_way_of_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"some words of real text, " * 40)

    monkeypatch.setattr("sys.stdin", Stdin)
    samples = [{"text": "a text that was drawn", "temperature": t} for t in (1.0, 1.0, 0.5)]
    reports = SampleMeasure(EvalConfig(scorer="none"), files=("-",)).reports(samples)
    assert next(reports)["reference"]["source"] == "-"
    with pytest.raises(UserError) as error:
        next(reports)
    assert "was read already" in error.value.what


def test_the_reference_has_a_field_of_its_own(cli: Cli, tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1], "body": ["some words of real text, " * 40]}), tmp_path / "a.parquet")
    (tmp_path / "s.jsonl").write_text(json.dumps({"text": "a text that was drawn"}) + "\n")
    command = ("eval", tmp_path / "s.jsonl", "--reference", tmp_path / "a.parquet", "--scorer", "none")
    (report,) = map(json.loads, cli(*command, "--text-field", "body").out.splitlines())
    assert report["reference"]["n"] == 1
    failed = cli(*command)
    assert failed.status == 1
    assert "without a string 'text' (it has n, body); name one with --text-field" in failed.err


def test_a_field_of_no_reference_is_refused(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"text": "a text that was drawn"}) + "\n")
    failed = cli("eval", tmp_path / "s.jsonl", "--text-field", "body")
    assert failed.errors == ["error: --text-field has no meaning without a --reference to read; leave it out"]


def test_the_text_that_ships_is_read_whatever_the_field(tmp_path: Path) -> None:
    samples = [{"text": "a text that was drawn"}]
    (report,) = SampleMeasure(EvalConfig(scorer="none", text_field="body")).reports(samples)
    assert report["reference"]["n"] == 1
