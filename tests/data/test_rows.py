"""Rows of JSON arrays and of parquet files, in pieces, beside whole columns, and of globs that match folders."""

import gzip
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data import rows
from diladiff_cli.data.files import skipped_kinds
from diladiff_cli.data.lines import unpacked
from diladiff_cli.data.rows import array_rows, parquet_rows, value_rows
from diladiff_cli.data.text import iter_pieces, some_pieces
from diladiff_cli.errors import UserError
from diladiff_cli.stages.encode import encode_text

VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def texts(*sources: Path | str, field: str = "text") -> list[str]:
    return [piece.text for piece in iter_pieces([str(source) for source in sources], field)]


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3)), st.sampled_from([None, 1, 40]), st.integers(1, 9))
def test_an_array_in_any_pieces_gives_its_rows(values: list[dict[str, Any]], indent: int | None, size: int) -> None:
    whole = json.dumps(values, indent=indent, ensure_ascii=size % 2 == 0) + "\n"
    pieces = [whole[i : i + size] for i in range(0, len(whole), size)]
    with patch.object(rows, "CHUNK", 1):  # else they would be joined before they are looked at
        found = list(array_rows(pieces))
    assert [row.values for row in found] == values
    assert [row.place for row in found] == [f"row {i + 1}" for i in range(len(values))]


def test_rows_of_an_array_come_before_its_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 1)

    def pieces() -> Any:
        yield '[{"text": "one"}, {"text": "t'
        yield 'wo"}, ' + " " * 9
        raise AssertionError("read on")

    found = array_rows(pieces())
    assert [next(found).values["text"] for _ in range(2)] == ["one", "two"]


@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_a_long_row_is_parsed_a_few_times_only(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    tried = list[int]()
    decode = rows._decode

    def counted(text: str, place: int) -> Any:
        tried.append(len(text))
        return decode(text, place)

    monkeypatch.setattr(rows, "_decode", counted)
    monkeypatch.setattr(rows, "CHUNK", 10)
    whole = json.dumps([{"text": "a" * 10_000}])
    (row,) = array_rows([whole[i : i + size] for i in range(0, len(whole), size)])
    assert len(row.values["text"]) == 10_000
    assert len(tried) < 20


def test_a_fault_is_told_before_the_rest_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "CHUNK", 1)

    def pieces() -> Any:
        yield '[{"text": "one"},\n {"text": \'two\'}, ' + '{"text": "three"}, ' * 9
        raise AssertionError("read on")

    found = array_rows(pieces())
    next(found)
    with pytest.raises(ValueError, match="^row 2 is not JSON: Expecting value at its character 10$"):
        next(found)


@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=3)), st.sampled_from([None, 1, 40]), st.integers(1, 9))
def test_values_may_follow_one_another(values: list[dict[str, Any]], indent: int | None, size: int) -> None:
    whole = "\n".join(json.dumps(value, indent=indent, ensure_ascii=size % 2 == 0) for value in values)
    with patch.object(rows, "CHUNK", 1):
        found = list(value_rows(whole[i : i + size] for i in range(0, len(whole), size)))
    assert [row.values for row in found] == values


def test_a_single_object_in_several_lines_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n  "text": "one"\n}\n')
    assert texts(tmp_path / "a.json") == ["one"]


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


def test_several_columns_of_the_field_are_told(tmp_path: Path) -> None:
    pq.write_table(
        pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"]), tmp_path / "a.parquet"
    )
    with pytest.raises(UserError, match="it has several columns 'text'"):
        texts(tmp_path / "a.parquet")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.dictionary(pa.int32(), pa.string()), pa.string()])
def test_all_kinds_of_text_columns_are_read_whatever_their_name(tmp_path: Path, kind: pa.DataType) -> None:
    pq.write_table(pa.table({"a.b": pa.array(["one", "two"]).cast(kind)}), tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet", field="a.b") == ["one", "two"]


def test_little_of_a_large_group_of_rows_is_held(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(97, 123, (20_000, 1000), dtype=np.uint8)
    rows_of_file = [row.tobytes().decode() for row in words]  # 20 MB, which hardly packs
    pq.write_table(pa.table({"text": rows_of_file}), tmp_path / "a.parquet", row_group_size=20_000)
    del rows_of_file, words
    before, most = pa.total_allocated_bytes(), 0
    for _ in parquet_rows(tmp_path / "a.parquet", "text", lambda _: None):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 8e6


def test_a_pattern_takes_folders_as_the_shell_would(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a/deep/y.txt", "b.txt", "a/z.md", ".c/hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    pattern = str(tmp_path / "*")
    assert texts(pattern) == texts(tmp_path / "a", tmp_path / "b.txt") == ["a/deep/y.txt", "a/x.txt", "b.txt"]
    assert skipped_kinds(pattern) == {".md": 1}


def test_a_pattern_that_ends_in_two_stars_is_its_folder(tmp_path: Path) -> None:
    for name in ("a/x.txt", "a/deep/y.txt", "a/z.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert texts(tmp_path / "a" / "**") == texts(tmp_path / "a") == ["a/deep/y.txt", "a/x.txt"]
    assert skipped_kinds(str(tmp_path / "a" / "**")) == {".md": 1}


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.json.gz", "a.json.zst"])
def test_packed_text_is_read(tmp_path: Path, name: str) -> None:
    whole = {".txt": "one\n\ntwo", ".json": '[{"text": "one"},\n{"text": "two"}]'}
    content = whole.get(Path(name).with_suffix("").suffix, '{"text": "one"}\n{"text": "two"}\n').encode()
    pack = gzip.compress if name.endswith(".gz") else zstandard.compress
    parts = [pack(content[:9]), pack(content[9:])]  # as `cat a.gz b.gz` makes them
    (tmp_path / name).write_bytes(b"".join(parts) + (b"\0" * 5000 if name.endswith(".gz") else b""))
    assert texts(tmp_path / name) == ["one", "two"]
    read = list[int]()
    assert len(list(iter_pieces([str(tmp_path / name)], on_read=read.append))) == 2
    assert sum(read) == (tmp_path / name).stat().st_size


def test_zeros_within_a_part_are_not_padding() -> None:
    parts = [b"one", bytes(5000)]
    packed = b"".join(gzip.compress(part, compresslevel=0) for part in parts)
    assert b"".join(unpacked(io.BytesIO(packed), "a.gz")) == b"".join(parts)


def test_a_packed_file_that_is_cut_off_or_damaged_is_told(tmp_path: Path) -> None:
    packed = gzip.compress(b"one\n\n" * 5000)
    damaged = packed[:50] + b"\0" * 9 + packed[59:]
    faults = {"Compressed file ended before": packed[:-9], "CRC check failed": damaged, "Not a gzip": packed + b"x"}
    for why, content in faults.items():
        (tmp_path / "a.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match=rf"a\.txt\.gz cannot be read \({why}"):
            texts(tmp_path / "a.txt.gz")


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, ".gz"), (zstandard.compress, ".zst")])
def test_a_packed_file_of_another_name_is_told(tmp_path: Path, pack: Any, ending: str) -> None:
    (tmp_path / "a.txt").write_bytes(pack(b"one"))
    with pytest.raises(UserError, match=rf"it is packed as \{ending}: unpack it first, or let the"):
        texts(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "content", ['[{"text": "one"}, {"text": "two"}]', ' [\n  {"text": "one"},\n  {"text": "two"}]']
)
def test_an_array_is_known_on_standard_input_and_under_the_name_of_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    assert texts(tmp_path / "a.jsonl") == ["one", "two"]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert texts("-") == ["one", "two"]


def test_an_array_is_known_however_far_its_first_object_is(monkeypatch: pytest.MonkeyPatch) -> None:
    content = "[\n" + " " * 80 + '{"text": "one"}]'
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    assert texts("-") == ["one"]


def test_a_bracket_begins_no_array_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"[Illustration: a cat]\n\n{two}")))
    assert texts("-") == ["[Illustration: a cat]", "{two}"]


def test_faults_of_a_copied_standard_input_name_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(b"one"))))
    with pytest.raises(UserError, match="^standard input cannot be read .it is packed"):
        encode_text(EncodeConfig(tokenizer="train:300", length=8), text="-", out=tmp_path / "data")


def test_faults_keep_their_hyphens_beside_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"some text")))
    (tmp_path / "bad-file.jsonl").write_text('{"a-b": 1}')
    with pytest.raises(UserError, match=r"/bad-file\.jsonl has a row without a string 'text' .line 1 has a-b."):
        list(some_pieces(["-", str(tmp_path / "bad-file.jsonl")], "text", ["-", str(tmp_path / "bad-file.jsonl")]))


def test_a_parquet_file_without_rows_holds_nothing(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "part-0.parquet")
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "part-1.parquet")
    assert texts(tmp_path) == ["one"]
