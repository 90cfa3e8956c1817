"""Rows of JSON arrays and of parquet files, in pieces, beside whole columns, and of globs that match folders."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diladiff_cli.data import rows
from diladiff_cli.data.files import skipped_kinds
from diladiff_cli.data.rows import json_rows, parquet_rows
from diladiff_cli.data.text import iter_pieces

VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def texts(*sources: Path | str, field: str = "text") -> list[str]:
    return [piece.text for piece in iter_pieces([str(source) for source in sources], field)]


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3)), st.sampled_from([None, 1]), st.integers(1, 9))
def test_an_array_in_any_pieces_gives_its_rows(values: list[dict[str, Any]], indent: int | None, size: int) -> None:
    whole = json.dumps(values, indent=indent, ensure_ascii=False) + "\n"
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    found = list(json_rows(pieces, array=True))
    assert [row.values for row in found] == values
    assert [row.place for row in found] == [f"row {i + 1}" for i in range(len(values))]


def test_rows_of_an_array_come_before_its_end_is_read() -> None:
    def pieces() -> Any:
        yield '[{"text": "one"}, {"text": "t'
        yield 'wo"}, '
        raise AssertionError("read on")

    found = json_rows(pieces(), array=True)
    assert [next(found).values["text"] for _ in range(2)] == ["one", "two"]


def test_a_long_row_is_parsed_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()
    decode = rows._decode

    def counted(text: str, place: int) -> Any:
        tried.append(len(text))
        return decode(text, place)

    monkeypatch.setattr(rows, "_decode", counted)
    monkeypatch.setattr(rows, "CHUNK", 10)
    whole = json.dumps([{"text": "a" * 10_000}])
    (row,) = json_rows([whole[i : i + 10] for i in range(0, len(whole), 10)], array=True)
    assert len(row.values["text"]) == 10_000
    assert len(tried) < 20


def test_texts_like_dates_stay_and_rows_may_differ(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "2020-01-01", "n": 1},\n {"n": "x", "text": "two"}, {"text": null}]')
    assert texts(tmp_path / "a.json") == ["2020-01-01", "two"]


@pytest.mark.parametrize("content", ["[]", " [ ] \n"])
def test_an_empty_array_holds_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert texts(tmp_path / "a.json") == []


def test_of_a_parquet_file_one_column_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ROWS", 2)
    others = pa.array([[("a", 1)]] * 5, pa.map_(pa.string(), pa.int64()))
    path, read = tmp_path / "a.parquet", list[int]()
    pq.write_table(pa.table({"others": others, "text": ["one", None, "three", "four", "five"]}), path)
    found = parquet_rows(path, "text", read.append)
    assert next(found) == ({"text": "one"}, "row 1")
    assert [row.values["text"] for row in found] == [None, "three", "four", "five"]
    assert len(read) == 3
    assert sum(read) == path.stat().st_size
    assert texts(path) == ["one", "three", "four", "five"]


def test_a_pattern_takes_folders_as_the_shell_would(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a/deep/y.txt", "b.txt", "a/z.md", ".c/hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    pattern = str(tmp_path / "*")
    assert texts(pattern) == texts(tmp_path / "a", tmp_path / "b.txt") == ["a/deep/y.txt", "a/x.txt", "b.txt"]
    assert skipped_kinds(pattern) == {".md": 1}
