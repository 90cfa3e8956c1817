import io
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, sealed
from diladiff_cli.stages import encode as stage
from diladiff_cli.stages import encode_finished
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.encode_finished import finished_data

from ..chain import write_text
from ..command_line import Cli

CONFIG = EncodeConfig(tokenizer="train:300", length=16, valid_share=0.2)
OTHER_TEXT = "holds a data set of other text .*; repeat what it was made with, use --fresh to replace it, or another"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``text.txt``, the data set ``data`` made from it, and ``encode_text`` that may not encode."""
    write_text(tmp_path / "text.txt")
    encode_text(CONFIG, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")

    def fail(*_: Any) -> None:
        pytest.fail("encoded again")

    monkeypatch.setattr(stage, "_pack", fail)
    return tmp_path


def again(folder: Path, config: EncodeConfig = CONFIG, text: str = "text.txt", **options: Any) -> dict[str, Any]:
    """``encode`` with the folder ``data``, which must stay as it is."""
    before = {p: p.read_bytes() for p in (folder / "data").rglob("*") if p.is_file()}
    try:
        source = text if text == "-" else str(folder / text)
        return encode_text(config, text=[source], out=folder / "data", **options)
    finally:
        assert {p: p.read_bytes() for p in (folder / "data").rglob("*") if p.is_file()} == before


def test_the_same_command_leaves_a_finished_data_set_alone(made: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for resume in (None, True):
        record = again(made, resume=resume)
        assert record["fingerprint"] == open_tokens(made / "data").fingerprint
        assert capfd.readouterr().err == f"{made / 'data'} is finished; --fresh encodes it again\n"
    assert again(made, dry_run=True)["finished"] is True


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_data_set_of_other_settings_is_not_replaced(made: Path, dry_run: bool) -> None:
    wanted = r"holds a data set with other settings \(length 16 -> 8, seed 0 -> 1\); repeat .* --fresh .* another --out"
    with pytest.raises(UserError, match=wanted):
        again(made, replace(CONFIG, length=8, seed=1), dry_run=dry_run)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_data_set_of_other_text_is_not_replaced(made: Path, dry_run: bool) -> None:
    with (made / "text.txt").open("a") as file:
        file.write("\n\none more document")
    with pytest.raises(UserError, match=OTHER_TEXT):
        again(made, dry_run=dry_run)
    (made / "valid.txt").write_text("held out\n")
    with pytest.raises(UserError, match=OTHER_TEXT):
        again(made, valid=[str(made / "valid.txt")], dry_run=dry_run)


def test_of_many_sources_a_few_are_named(tmp_path: Path) -> None:
    names = [str(tmp_path / f"{i}.txt") for i in range(5)]
    for number, name in enumerate(names):
        write_text(Path(name), seed=number)
    encode_text(CONFIG, text=names, out=tmp_path / "data")
    with pytest.raises(UserError) as caught:
        encode_text(CONFIG, text=names[:4], out=tmp_path / "data")
    assert f"(it had {', '.join(names[:3])} and 2 more); " in str(caught.value)


def test_text_is_the_same_in_another_place_and_form(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = (made / "text.txt").read_text().strip().split("\n\n")
    (made / "moved.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents))
    again(made, text="moved.jsonl")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((made / "text.txt").read_bytes())))
    again(made, text="-")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"another text")))
    assert again(made, text="-", dry_run=True)["finished"] is True  # which leaves standard input alone
    with pytest.raises(UserError, match=OTHER_TEXT):
        again(made, text="-")


@pytest.mark.parametrize("name", ["{home}/mine", "~/mine"])
def test_a_tokenizer_that_changed_in_its_folder_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    name = name.format(home=tmp_path)
    write_text(tmp_path / "text.txt")
    encode_text(CONFIG, text=[str(tmp_path / "text.txt")], out=tmp_path / "first")
    load_tokenizer(tmp_path / "first").save_pretrained(tmp_path / "mine")
    config = replace(CONFIG, tokenizer=name)
    encode_text(config, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    again(tmp_path, config)
    tokenizer = tmp_path / "mine" / "tokenizer.json"
    values = json.loads(tokenizer.read_text())
    values["model"]["merges"].pop()
    tokenizer.write_text(json.dumps(values))
    with pytest.raises(UserError, match=f"holds a data set of another tokenizer than that in {name}; repeat"):
        again(tmp_path, config)


def test_fresh_replaces_what_is_there(tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt")
    for length in (16, 8):
        config = replace(CONFIG, length=length)
        encode_text(config, text=[str(tmp_path / "text.txt")], out=tmp_path / "data", resume=False)
        assert open_tokens(tmp_path / "data").length == length


def test_damage_is_not_mended_from_standard_input_that_is_read_by_then(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(made / "data" / "valid-00000.safetensors", 100)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((made / "text.txt").read_bytes())))
    with pytest.raises(UserError, match="is damaged; use --fresh to encode again"):
        again(made, text="-")


def test_a_hub_data_set_is_compared_by_name_and_text_beside_it_counts_as_other(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, local = made / "data" / "config.json", str(made / "text.txt")
    monkeypatch.setattr(encode_finished, "find_files", lambda source: [Path(source)] if source == local else None)
    hub, more = ["owner/set"], ["owner/more"]
    for text, valid, made_with, same in (
        (hub, [], (hub, []), True),
        (hub, more, (hub + more, more), True),
        (hub + more, [], (hub + more, more), False),
        ([*hub, local], [], ([*hub, local], []), False),
    ):
        record = {k: v for k, v in json.loads(config.read_text()).items() if k != CHECKSUM}
        record |= dict(zip(("sources", "valid_sources"), made_with, strict=True))
        config.write_text(sealed(record))
        if same:
            assert finished_data(CONFIG, text, valid, made / "data") == record
        else:
            with pytest.raises(UserError, match=OTHER_TEXT):
                finished_data(CONFIG, text, valid, made / "data")


def change_record(data: Path, **values: Any) -> None:
    """As another version may have written it, with a checksum that fits."""
    record = json.loads((data / "config.json").read_text()) | values
    (data / "config.json").write_text(sealed({k: v for k, v in record.items() if k != CHECKSUM}))


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a lost shard": lambda data: (data / "train-00000.safetensors").unlink(),
    "a cut shard": lambda data: os.truncate(data / "valid-00000.safetensors", 100),
    "a lost tokenizer": lambda data: (data / "tokenizer.json").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_same_command_mends_a_damaged_data_set(tmp_path: Path, damage: str) -> None:
    write_text(tmp_path / "text.txt")
    write_text(tmp_path / "more.txt")
    text = [str(tmp_path / "text.txt")]
    record = encode_text(CONFIG, text=text, out=tmp_path / "data")
    wanted = {p: p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()}
    DAMAGES[damage](tmp_path / "data")
    with pytest.raises(UserError, match="holds a data set of other text .*; repeat what it was made with, use --fresh"):
        encode_text(CONFIG, text=[*text, str(tmp_path / "more.txt")], out=tmp_path / "data")
    assert encode_text(CONFIG, text=text, out=tmp_path / "data") == record
    assert {p: p.read_bytes() for p in (tmp_path / "data").rglob("*") if p.is_file()} == wanted


def test_a_changed_record_is_told(made: Path) -> None:
    config = made / "data" / "config.json"
    config.write_text(config.read_text().replace('"length": 16', '"length": 17'))
    with pytest.raises(UserError, match=r"config\.json is damaged \(it was changed .*\); use --fresh to encode again"):
        again(made)


def test_the_command_starts_over_with_fresh_alone(cli: Cli, tmp_path: Path) -> None:
    write_text(tmp_path / "text.txt")
    command = ("encode", "text.txt", "--tokenizer", "train:300", "--valid-share", "0.2", "--length")
    assert cli(*command, "16").status == 0
    found = cli(*command, "8")
    assert (found.status, found.out) == (1, "")
    assert found.error.startswith("error: data holds a data set with other settings (length 16 -> 8); ")
    assert cli(*command, "8", "--fresh").status == 0
    found = cli(*command, "8")
    assert (found.status, found.errors[0]) == (0, "data is finished; --fresh encodes it again")
    assert open_tokens(tmp_path / "data").length == 8


def test_skipped_files_of_a_folder_are_counted_by_kind(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "texts" / "more").mkdir(parents=True)
    write_text(tmp_path / "texts" / "more" / "a.TXT")
    found = cli("encode", "texts", "--dry-run")
    assert (found.status, found.err) == (0, "")
    for name in ("a.md", "b.MD", "more/c.md", "d.pdf", "more/LICENSE", "e.py", "f.c", "g.h"):
        (tmp_path / "texts" / name).touch()
    (tmp_path / "texts" / ".hidden.lock").touch()
    found = cli("encode", "texts", "--dry-run")
    (line,) = found.errors
    assert line.startswith("texts: skipped 8 files of other kinds (3 .md, ")
    assert line.endswith(
        ", …); text ends in .txt, .jsonl or .json, all of them also packed as .zst or .gz, or .parquet"
    )
    assert json.loads(found.out)["files"] == {"texts": 1}


def test_encoding_tells_its_rate_the_share_and_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("diladiff_cli.runtime.progress.SILENT_SECONDS", 0.0)
    write_text(tmp_path / "text.txt", documents=2000)
    encode_text(CONFIG, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("encoding: ")]
    assert len(told) > 2
    assert all(re.search(r"documents, [0-9,]+ tokens \([0-9,]+/s\)", line) for line in told)
    assert re.search(r", \d+%, \d:\d\d:\d\d left$", told[0])
    assert "left" not in told[-1]  # when it is done
