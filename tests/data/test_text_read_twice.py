"""Text that several sources name: of one copy the other would be held out."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from diladiff_cli.config import EncodeConfig
from diladiff_cli.errors import UserError
from diladiff_cli.stages.encode import encode_text

CONFIG = EncodeConfig(tokenizer="train:300", length=8, valid_share=0.3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With two files of text."""
    (tmp_path / "texts").mkdir()
    for name in ("a", "b"):
        text = "\n\n".join(f"This is text {i} of file {name}." for i in range(30))
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    return tmp_path / "texts"


TWICE: dict[str, Callable[[Path], list[str]]] = {
    "a file": lambda folder: [str(folder / "a.txt")] * 2,
    "its folder": lambda folder: [str(folder), str(folder / "b.txt")],
    "a glob": lambda folder: [str(folder / "?.txt"), str(folder / "b.txt")],
    "a link": lambda folder: [str(folder / "a.txt"), str(folder / "link.jsonl")],
    "two revisions": lambda folder: ["lab/tales@main", str(folder / "a.txt"), "lab/tales@old"],
    "standard input": lambda folder: ["-", str(folder / "a.txt"), "-"],
}


@pytest.mark.parametrize("what", TWICE)
@pytest.mark.parametrize("side", ["text", "valid"])
def test_what_would_be_read_twice_is_refused(folder: Path, what: str, side: str) -> None:
    os.link(folder / "a.txt", folder / "link.jsonl")
    sources = TWICE[what](folder)
    (folder.parent / "other.txt").write_text("other")  # than is held out
    given = {"text": sources} if side == "text" else {"text": str(folder.parent / "other.txt"), "valid": sources}
    with pytest.raises(UserError, match=r"would be read twice, of .* and of .*; name it once"):
        encode_text(CONFIG, out=folder / "data", **given)
    assert not (folder / "data").exists()


def test_several_files_are_read_once_each(folder: Path) -> None:
    record = encode_text(CONFIG, text=[str(folder / "a.txt"), str(folder / "b.txt")], out=folder / "data")
    assert sum(split["documents"] for split in record["splits"].values()) == 60
