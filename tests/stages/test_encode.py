import io
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.tokenizer import decode_text, load_tokenizer
from diladiff_cli.data.tokens import TokenData, open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages import encode as stage
from diladiff_cli.stages.encode import encode_text, is_held_out

DOCUMENTS = [
    f"Story number {i}: the {animal} went to town, and came home again." for i in range(40) for animal in ("cat", "dog")
]
SMALL = EncodeConfig(tokenizer="train:300", length=16, valid_share=0.2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "stories.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in DOCUMENTS))
    return path


def all_text(data: TokenData, split: str) -> str:
    blocks = data.split(split)
    ids = blocks.gather(np.arange(len(blocks))).flatten().tolist()
    return decode_text(load_tokenizer(data.path), ids)


def test_blocks_hold_the_documents_in_order_with_separators_between(text: Path, tmp_path: Path) -> None:
    record = encode_text(SMALL, text=[str(text)], out=tmp_path / "data")
    data = open_tokens(tmp_path / "data")
    for split, holds in (("train", False), ("valid", True)):
        wanted = [d for i, d in enumerate(DOCUMENTS) if is_held_out(SMALL, i) is holds]
        assert record["splits"][split]["documents"] == len(wanted)
        found = all_text(data, split)
        assert "\n\n".join(wanted).startswith(found)
        lost = record["splits"][split]["tokens"] - len(data.split(split)) * SMALL.length
        assert 0 <= lost < SMALL.length


def test_the_share_of_held_out_documents_is_the_one_asked_for() -> None:
    config = EncodeConfig(valid_share=0.02)
    held_out = sum(is_held_out(config, i) for i in range(20_000))
    assert held_out == pytest.approx(400, abs=4 * 20)
    assert not any(is_held_out(EncodeConfig(valid_share=0.0), i) for i in range(1000))


def test_named_validation_sources_keep_all_of_the_text_for_training(text: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "held_out.txt"
    held_out.write_text("A mouse slept.\n\nA bird sang all day long in the old tree.\n")
    record = encode_text(SMALL, text=[str(text)], valid=[str(held_out)], out=tmp_path / "data")
    assert record["splits"]["train"]["documents"] == len(DOCUMENTS)
    assert record["splits"]["valid"]["documents"] == 2


@pytest.mark.parametrize("dry_run", [False, True])
def test_text_is_not_for_training_and_validation_at_once(text: Path, tmp_path: Path, dry_run: bool) -> None:
    link, other = tmp_path / "link.jsonl", tmp_path / "other.txt"
    link.symlink_to(text)
    (tmp_path / "hard").mkdir()
    hard = tmp_path / "hard" / "link.jsonl"
    hard.hardlink_to(text)
    other.write_text("A mouse slept.\n")
    both = "would be training and validation text at once; name them apart, or leave --valid out"
    for sources, valid, found in (
        ([str(text)], [str(text)], text),
        ([str(other), str(text)], [str(link)], text),
        ([str(text)], [str(hard)], text),
        ([str(other), str(tmp_path)], [str(other)], other),
        (["somebody/stories"], ["somebody/stories"], "somebody/stories"),
        (["somebody/stories"], ["somebody/stories@v2"], "somebody/stories"),
        (["-"], ["-"], "-"),
    ):
        with pytest.raises(UserError, match=f"^{re.escape(str(found))} {both}"):
            encode_text(SMALL, text=sources, valid=valid, out=tmp_path / "data", dry_run=dry_run)
    with pytest.raises(UserError, match=f" and 1 more {both}"):
        encode_text(SMALL, text=[str(tmp_path), str(other)], valid=[str(other), str(text)], out=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_fingerprint_depends_on_the_text_and_not_on_the_run(text: Path, tmp_path: Path) -> None:
    first = encode_text(SMALL, text=[str(text)], out=tmp_path / "a")["fingerprint"]
    assert encode_text(SMALL, text=[str(text)], out=tmp_path / "b")["fingerprint"] == first
    text.write_text(text.read_text() + json.dumps({"text": "One more story, about a horse that could fly."}) + "\n")
    assert encode_text(SMALL, text=[str(text)], out=tmp_path / "c")["fingerprint"] != first


def test_no_block_holds_the_mask_token_and_ids_are_below_the_vocabulary(text: Path, tmp_path: Path) -> None:
    encode_text(SMALL, text=[str(text)], out=tmp_path / "data")
    data = open_tokens(tmp_path / "data")
    blocks = data.split("train").gather(np.arange(len(data.split("train"))))
    assert int(blocks.max()) < data.vocab_size <= 300
    assert not (blocks == data.mask_id).any()


def stdin_of(raw: bytes) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(io.BytesIO(raw)))


@pytest.mark.parametrize("begin", ["", "\ufeff", "\n \n"])
@pytest.mark.parametrize("as_json", [True, False])
def test_standard_input_serves_the_tokenizer_and_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begin: str, as_json: bool
) -> None:
    text = "\n".join(json.dumps({"text": d}) for d in DOCUMENTS) if as_json else "\n\n".join(DOCUMENTS)
    monkeypatch.setattr(sys, "stdin", stdin_of((begin + text).encode()))
    record = encode_text(SMALL, text=["-"], out=tmp_path / "data")
    assert sum(split["documents"] for split in record["splits"].values()) == len(DOCUMENTS)
    assert "text" not in all_text(open_tokens(tmp_path / "data"), "train")


def test_standard_input_read_once_is_not_copied(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_text(SMALL, text=[str(text)], out=tmp_path / "first")
    monkeypatch.setattr(stage, "rereadable", None)
    monkeypatch.setattr(sys, "stdin", stdin_of("\n\n".join(DOCUMENTS).encode()))
    config = replace(SMALL, tokenizer=str(tmp_path / "first"))
    record = encode_text(config, text=["-"], out=tmp_path / "data")
    assert record["splits"]["train"] == encode_text(config, text=[str(text)], out=tmp_path / "again")["splits"]["train"]


def test_a_dry_run_writes_nothing(text: Path, tmp_path: Path) -> None:
    plan = encode_text(SMALL, text=[str(text)], out=tmp_path / "data", dry_run=True)
    assert plan["files"] == {str(text): 1}
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("documents", "settings", "split", "remedy"),
    [
        (["again and again " * 400], {}, "valid", "give several documents, or a text for validation with --valid"),
        (["again"] * 40, {"valid_share": 0.0}, "valid", "give more text, a larger --valid-share, a smaller --length"),
        (["again"] * 40, {"valid_share": 1.0}, "train", "give more text, a smaller --valid-share, a smaller --length"),
        (["again"] * 40, {"length": 1024}, "train", "give more text, a smaller --valid-share, a smaller --length"),
    ],
    ids=["one document", "none held out", "all held out", "too long a block"],
)
def test_a_split_of_less_than_one_block_is_told(
    documents: list[str], settings: dict[str, Any], split: str, remedy: str, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(documents))
    what = rf"the {split} split has \d+ tokens in \d+ of {len(documents)} documents, .*; {remedy}"
    with pytest.raises(UserError, match=what):
        encode_text(replace(SMALL, **settings), text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_text_for_validation_that_is_too_short_is_told_so(text: Path, tmp_path: Path) -> None:
    (tmp_path / "valid.txt").write_text("too short")
    with pytest.raises(UserError, match=r"the valid split .*; give more text or a smaller --length$"):
        encode_text(SMALL, text=[str(text)], valid=[str(tmp_path / "valid.txt")], out=tmp_path / "data")


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        (
            SMALL,
            "one short line",
            "in 1 of 1 documents, .*; give several documents, or .* with --valid",
        ),
        (replace(SMALL, length=64), "\n\n".join("abcdefghijklmnopqrstuvwxyz"), "less than one block"),
        (EncodeConfig(tokenizer="./no-such-tokenizer"), "x", "there is no folder ./no-such-tokenizer with a tokenizer"),
    ],
)
def test_faults_are_one_line_and_leave_what_was_there(
    config: EncodeConfig, content: str, message: str, tmp_path: Path
) -> None:
    source, out = tmp_path / "text.txt", tmp_path / "data"
    source.write_text(content)
    out.mkdir()
    (out / "config.json").write_text('{"stage": "data", "old": true}')
    with pytest.raises(UserError, match=message) as caught:
        encode_text(config, text=[str(source)], out=out, resume=False)
    assert "\n" not in str(caught.value)
    assert json.loads((out / "config.json").read_text())["old"]


def test_a_folder_of_another_kind_is_not_replaced(text: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.json").write_text('{"stage": "mdlm"}')
    with pytest.raises(UserError, match="is a base, which a token data set would replace"):
        encode_text(SMALL, text=[str(text)], out=tmp_path / "data")


def test_text_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text was given"):
        encode_text(SMALL, text=[], out=tmp_path / "data")


@pytest.mark.parametrize("size", ["100", "many", "", "-300", "\u00b2"])
def test_a_size_that_cannot_hold_all_bytes_is_refused(size: str) -> None:
    with pytest.raises(ConfigError, match=f"tokenizer train:{size} has no usable size; give at least train:258"):
        EncodeConfig(tokenizer=f"train:{size}")
    assert EncodeConfig(tokenizer="train:258").tokenizer == "train:258"


def test_a_tokenizer_smaller_than_asked_for_is_told(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = encode_text(replace(SMALL, tokenizer="train:5000"), text=[str(text)], out=tmp_path / "large")
    told = f"the tokenizer has {record['vocab_size']} tokens, not 5000: the text has no more words or repetitions"
    assert told in capsys.readouterr().err.splitlines()
    encode_text(SMALL, text=[str(text)], out=tmp_path / "small")
    assert "tokens, not" not in capsys.readouterr().err
