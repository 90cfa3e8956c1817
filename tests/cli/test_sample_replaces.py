"""What ``sample --out`` replaces: samples, and nothing else."""

from pathlib import Path

import pytest

from ..chain import Chain
from .conftest import Cli

CONTENTS = ["my notes\n", '{"a": 1}\n', "[1]\n", '{"text": "a text to train on"}\n', "\nbelow\n", "a text\n", "\0\xff"]
FEW = ("--n", "1", "--decode-steps", "2")


@pytest.mark.parametrize("content", CONTENTS)
def test_something_else_than_samples_is_not_replaced(cli: Cli, tiny_chain: Chain, tmp_path: Path, content: str) -> None:
    (tmp_path / "notes.txt").write_text(content, encoding="latin-1")
    found = cli("sample", "--model", tiny_chain.mdlm, *FEW, "--out", "notes.txt")
    wanted = "error: notes.txt holds something else than samples, which they would replace; choose another --out"
    assert (found.status, found.errors) == (1, [wanted])
    assert (tmp_path / "notes.txt").read_text(encoding="latin-1") == content
    # Texts alone have no form by which to tell them.
    assert cli("sample", "--model", tiny_chain.mdlm, *FEW, "--out", "notes.txt", "--format", "text").status == 0


@pytest.mark.parametrize("content", ["", '{"id": 0, "text": "before"}\n', '{"text": "a", "id": 0}\n{"text"'])
def test_samples_and_empty_files_are_replaced(cli: Cli, tiny_chain: Chain, tmp_path: Path, content: str) -> None:
    (tmp_path / "s.jsonl").write_text(content)
    found = cli("sample", "--model", tiny_chain.mdlm, *FEW, "--out", "s.jsonl")
    assert (found.status, found.errors) == (0, ["s.jsonl: 1 samples, in place of an earlier file"])
