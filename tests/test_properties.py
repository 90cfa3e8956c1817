"""Laws that hold for any configuration and any text: what is written comes back."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diladiff_cli.config import SECTIONS, EncodeConfig, resolve
from diladiff_cli.data import lines, text
from diladiff_cli.data.text import iter_pieces
from diladiff_cli.data.tokenizer import decode_text, encode_documents, load_tokenizer, train_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.settings import Settings
from diladiff_cli.stages.encode import encode_text, is_held_out

from .configurations import configurations, to_toml

LENGTH = 8
few = settings(deadline=None, derandomize=True, max_examples=30)
# A NUL near the begin is refused, a byte order mark there is none of the text, and no text holds half a pair.
unicode = st.characters(exclude_characters="\0\ufeff", exclude_categories=["Cs"])
documents = st.lists(st.text(unicode).map(str.strip).filter(bool), max_size=6)
one_line = st.text(st.characters(exclude_characters="\0\ufeff\r\n", exclude_categories=["Cs"])).filter(str.strip)
paragraphs = st.lists(st.lists(one_line, min_size=1, max_size=3).map("\n".join).map(str.strip), max_size=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples are written, one over the other."""
    return tmp_path_factory.mktemp("properties")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Path:
    """A byte-level tokenizer, trained on few words."""
    train_tokenizer(["the cat sat on the mat, the dog in the log"] * 9, 300).save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"


@pytest.mark.parametrize("stage", SECTIONS)
@given(data=st.data())
@few
def test_a_configuration_comes_back_from_dict_json_and_toml(stage: str, data: st.DataObject) -> None:
    config: Settings = data.draw(configurations(SECTIONS[stage]))
    values = config.to_dict()
    assert type(config).from_dict(values) == config
    assert type(config).from_dict(json.loads(json.dumps(values))) == config
    assert type(config).from_dict(tomllib.loads(to_toml(values))) == config


@pytest.mark.parametrize("stage", SECTIONS)
@given(data=st.data())
@few
def test_a_configuration_comes_back_from_a_file_whatever_the_preset(
    stage: str, folder: Path, data: st.DataObject
) -> None:
    config: Settings = data.draw(configurations(SECTIONS[stage]))
    preset = data.draw(st.sampled_from([None, "demo", "small", "owt"]))
    for name, content in (
        ("c.json", json.dumps({stage: config.to_dict()})),
        ("c.toml", f"[{stage}]\n{to_toml(config.to_dict())}"),
    ):
        (folder / name).write_text(content, encoding="utf-8")
        assert resolve(stage, preset, folder / name) == config


def read(path: Path) -> list[str]:
    """Documents, joined from their pieces."""
    whole = [""]
    for piece in iter_pieces([str(path)]):
        whole[-1] += piece.text
        whole += [""] if piece.last else []
    assert whole.pop() == ""
    return whole


@given(documents=documents, size=st.integers(1, 30))
@few
def test_documents_of_any_length_come_back_from_json_lines(folder: Path, documents: Sequence[str], size: int) -> None:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f" {document}\n"}) + "\n" for document in documents))
    with patch.object(text, "PIECE", size), patch.object(lines, "CHUNK", size):
        assert all(len(piece.text) <= size for piece in iter_pieces([str(path)]))
        assert read(path) == documents


@given(
    documents=paragraphs,
    size=st.integers(1, 30),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
)
@few
def test_documents_come_back_from_text_with_any_line_ends_and_encoding(
    folder: Path, documents: Sequence[str], size: int, end: str, encoding: str
) -> None:
    path = folder / "a.txt"
    path.write_bytes("\n\n".join(documents).replace("\n", end).encode(encoding))
    with patch.object(lines, "CHUNK", size):
        assert read(path) == documents


@given(text=st.text("ab \n\t.é", max_size=200), size=st.integers(20, 40))
@few
def test_a_long_document_gives_the_same_tokens_in_pieces(tokenizer: Path, folder: Path, text: str, size: int) -> None:
    loaded, path = load_tokenizer(tokenizer), folder / "a.jsonl"
    words = f"begin {text} end"
    path.write_text(json.dumps({"text": words}))
    with patch("diladiff_cli.data.text.PIECE", size):
        pieces = list(iter_pieces([str(path)]))
    if max(map(len, words.split())) < size // 2 and "".join(words.split()):  # else a word is cut
        rows = encode_documents(loaded, [piece.text for piece in pieces])
        ids = [i for row, piece in zip(rows, pieces, strict=True) for i in (row if piece.last else row[:-1])]
        assert ids == encode_documents(loaded, [words])[0]


def tokens(folder: Path, split: str) -> list[int]:
    blocks = open_tokens(folder).split(split)
    return blocks.gather(np.arange(len(blocks))).flatten().tolist()


@given(documents=documents, seed=st.integers(0, 100), size=st.integers(20, 60))
@settings(few, max_examples=8)
def test_blocks_hold_the_tokens_of_each_splits_documents_in_order(
    tokenizer: Path, folder: Path, documents: list[str], seed: int, size: int
) -> None:
    config = EncodeConfig(tokenizer=str(tokenizer), length=LENGTH, valid_share=0.4, seed=seed)
    loaded: Any = load_tokenizer(tokenizer)
    whole = [*documents, *(f"the cat and dog number {i}" for i in range(20))]  # enough for both splits
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": document}) + "\n" for document in whole))
    with patch("diladiff_cli.data.text.PIECE", size):
        record = encode_text(config, text=[str(folder / "a.jsonl")], out=folder / "data", resume=False)
    assert encode_text(config, text=[str(folder / "a.jsonl")], out=folder / "data") == record  # known in other pieces
    for split, holds in (("train", False), ("valid", True)):
        wanted = [document for i, document in enumerate(whole) if is_held_out(config, i) is holds]
        ids = [i for row in encode_documents(loaded, wanted) for i in row]
        found = tokens(folder / "data", split)
        assert record["splits"][split]["documents"] == len(wanted)
        assert len(ids) - len(found) in range(LENGTH)
        if max(map(len, whole)) <= size:
            assert found == ids[: len(found)]
        text = decode_text(loaded, found)
        # The last token may be a part of a character.
        assert "".join(f"{document}\n\n" for document in wanted).startswith(text.rstrip("\ufffd"))
