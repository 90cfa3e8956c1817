"""What is not a document: hidden files, and rows without a text."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from diladiff_cli.data.text import iter_pieces

TEXTS = ["one dog", "a cat"]


def documents(source: Path) -> list[str]:
    return [piece.text for piece in iter_pieces([str(source)])]


def test_what_is_hidden_in_a_folder_is_left_out(tmp_path: Path) -> None:
    for place in ("seen", "seen/.ipynb_checkpoints", "seen/.git/deep", "seen/deep"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "a.txt").write_text(place)
    (tmp_path / "seen" / "._a.txt").write_bytes(b"\0\1no text")
    assert documents(tmp_path / "seen") == ["seen", "seen/deep"]
    assert documents(tmp_path / "seen" / ".git") == ["seen/.git/deep"]  # as it was asked for


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_row_with_null_for_its_text_is_no_document(tmp_path: Path, kind: str) -> None:
    rows = [TEXTS[0], None, TEXTS[1]]
    file = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": rows}), file)
    else:
        file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    assert documents(file) == TEXTS
