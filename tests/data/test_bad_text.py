"""Text that is broken, odd or huge: one clear line, or the right documents."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data import lines, text
from diladiff_cli.data import rows as rows_of_files
from diladiff_cli.data.files import find_files
from diladiff_cli.data.text import iter_pieces
from diladiff_cli.data.tokenizer import train_tokenizer
from diladiff_cli.errors import UserError
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.evaluation.sets import read_samples, reference_samples

GOOD = "the cat sat on the mat, and the dog in the log"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is written to the user's caches, and no hub is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    train_tokenizer([GOOD] * 9, 300).save_pretrained(folder)
    return folder


def read(*sources: Path | str, field: str = "text") -> list[str]:
    """Whole documents."""
    whole = [""]
    for piece in iter_pieces([str(source) for source in sources], field):
        whole[-1] += piece.text
        whole += [""] if piece.last else []
    return whole[:-1]


def parquet(path: Path, **columns: list[object]) -> None:
    pq.write_table(pa.table(columns), path)


def rows(*texts: str) -> bytes:
    return "".join(f'{{"text": {text}}}\n' for text in texts).encode()


def far_looking(text: bytes) -> bytes:
    """As ``zstd --long`` packs what it reads from a pipe."""
    settings = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return packer.compress(text) + packer.flush()


PACKED = zstandard.ZstdCompressor(write_checksum=True).compress(
    "\n\n".join(f"{i}: {GOOD}" for i in range(5000)).encode()
)
# Name of the file -> its content, and what the one line says beside the name.
BAD: dict[str, tuple[str, bytes | Callable[[Path], None], str]] = {
    "latin-1": (
        "a.txt",
        "one\ntwo\ncaf\xe9 au lait".encode("latin-1"),
        "not utf-8: invalid continuation byte, 0xe9 at byte 11 in line 3",
    ),
    "cut in a character": (
        "a.txt",
        "caf\xe9".encode()[:-1],
        "not utf-8: unexpected end of data, 0xc3 at byte 3 in line 1",
    ),
    "bad byte after a mark": ("a.txt", b"\xef\xbb\xbfab\r\rc\xff", "invalid start byte, 0xff at byte 8 in line 3"),
    "binary": ("a.txt", bytes(range(256)) * 9, "not utf-8: a NUL at byte 0, as in binary files and in UTF-16"),
    "picture": ("a.txt", b"\x89PNG\r\n\x1a\n" + bytes(40), "a NUL at byte 8"),
    "UTF-16 without mark": ("a.txt", GOOD.encode("utf-16-le"), "a NUL at byte 1"),
    "cut UTF-16": ("a.txt", GOOD.encode("utf-16")[:-1], "not utf-16-le: truncated data, 0x67 at byte 92 in line 1"),
    "latin-1 JSON lines": ("a.jsonl", rows('"a"') + b'{"text": "\xe9"}\n', "0xe9 at byte 24 in line 2"),
    "UTF-16 JSON lines without mark": ("a.jsonl", rows('"a"').decode().encode("utf-16-be"), "a NUL at byte 0"),
    "NUL in a JSON line": (
        "a.jsonl",
        rows('"a"') * 900 + b'{"text": "\0"}\n',
        "line 901 is not JSON: Invalid control character at column 11",
    ),
    "half a JSON line": (
        "a.jsonl",
        rows('"a"', '"b"')[:-4],
        "line 2 is not JSON: Unterminated string starting at column 10",
    ),
    "words": ("a.jsonl", GOOD.encode(), "line 1 is not JSON: Expecting value at column 1"),
    "two objects in a line": (
        "a.jsonl",
        b'{"text": "a"} {"text": "b"}\n',
        "line 1 is not JSON: Extra data at column 15",
    ),
    "deep JSON": ("a.jsonl", b"\n" + b'{"a":' * 100_000, "line 2 is not JSON: maximum recursion depth exceeded"),
    "long number": ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "line 1 is not JSON: Exceeds the limit"),
    "missing field": (
        "a.jsonl",
        rows('"a"') + b'{"id": 1, "body": "b"}\n',
        "a row without a string 'text' (line 2 has id, body); name one with --text-field",
    ),
    "number": ("a.jsonl", rows("3"), "(line 1 has text of type int)"),
    "list": ("a.jsonl", rows('["a"]'), "(line 1 has text of type list)"),
    "nested": (
        "a.json",
        b'{"data": [{"text": "a"}]}',
        "(row 1 has data); name one with --text-field; text within lists and objects is not read",
    ),
    "no object": ("a.jsonl", b'"a"\n', "(line 1 is of type str)"),
    "cut archive": ("a.txt.zst", PACKED[:-9], "the archive is cut off"),
    "cut second frame": ("a.txt.zst", PACKED + PACKED[:9], "the archive is cut off"),
    "damaged archive": ("a.txt.zst", PACKED[:50] + b"\0\0\0\0" + PACKED[54:], "cannot be read ("),
    "no archive": ("a.jsonl.zst", rows('"a"'), "cannot be read (zstd "),
    "latin-1 in an archive": ("a.txt.zst", zstandard.compress(b"a\n\n\xe9!"), "0xe9 at byte 3 in line 3"),
    "cut array": ("a.json", b'[{"text": "a"}, {"te', "row 2 is not JSON: Unterminated string starting"),
    "array without its end": ("a.json", b'[{"text": "a"} ', "the array is cut off"),
    "array without a comma": ("a.json", b'[{"text": "a"} {"text": "b"}]', "after row 1 there is '{' in place of"),
    "array and more": ("a.json", b'[{"text": "a"}]\n[]', "there is more after the array"),
    "comma at the end": ("a.json", b'[{"text": "a"},]', "row 2 is not JSON: Expecting value"),
    "deep array": ("a.json", b"[" * 100_000, "row 1 is not JSON: maximum recursion depth exceeded"),
    "array without the field": ("a.json", b'[{"text": "a"}, {"body": "b"}]', "(row 2 has body); name one with"),
    "array of texts": ("a.json", b'["a"]', "(row 1 is of type str)"),
    "no parquet": ("a.parquet", b"PAR1 or not", "cannot be read ("),
    "parquet without the column": (
        "a.parquet",
        lambda path: parquet(path, body=["a"], n=[1]),
        "without a string 'text' (it has body, n)",
    ),
    "parquet of numbers": ("a.parquet", lambda path: parquet(path, text=[1, 2]), "(row 1 has text of type int)"),
    "parquet of bytes": ("a.parquet", lambda path: parquet(path, text=[b"a"]), "(row 1 has text of type bytes)"),
}


def put(path: Path, content: bytes | Callable[[Path], None]) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    return path


@pytest.mark.parametrize("name", BAD)
def test_broken_text_is_one_line_with_file_and_place(
    tmp_path: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    file, content, what = BAD[name]
    path = put(tmp_path / file, content)
    config = EncodeConfig(tokenizer=str(tokenizer), length=8)
    for act in (
        lambda: read(path),
        lambda: encode_text(config, text=[str(path)], out=tmp_path / "data"),
        lambda: reference_samples(None, 10**6, 1, [str(path)]),
    ):
        with pytest.raises(UserError) as caught:
            act()
        assert str(path) in caught.value.what
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)
        assert os.listdir(tmp_path) == [file]
        assert not caplog.records  # no library speaks for itself


RIGHT: dict[str, tuple[str, bytes, list[str]]] = {
    "mark": ("a.txt", "\ufeffone\n\ntwo".encode(), ["one", "two"]),
    "mark in JSON lines": ("a.jsonl", b"\xef\xbb\xbf" + rows('"one"'), ["one"]),
    "UTF-16": ("a.txt", "one\r\n\r\ntwo €".encode("utf-16"), ["one", "two €"]),
    "UTF-16, the other order": ("a.txt", b"\xfe\xff" + "one\n\ntwo €".encode("utf-16-be"), ["one", "two €"]),
    "UTF-16 JSON lines": ("a.jsonl", rows('"one"').decode().encode("utf-16"), ["one"]),
    "Windows": ("a.txt", b"a\r\nb\r\n\r\n\r\nc\r\n", ["a\nb", "c"]),
    "old Mac": ("a.txt", b"a\rb\r\r\rc\r", ["a\nb", "c"]),
    "old Mac JSON lines": ("a.jsonl", rows('"one"', '"two"').replace(b"\n", b"\r"), ["one", "two"]),
    "mixed ends": ("a.txt", b"a\r\nb\rc\n\r\n\r\rd", ["a\nb\nc", "d"]),
    "other separators": ("a.txt", "a\x0bb\x0cc\x1cd\x85e\u2028f".encode(), ["a\x0bb\x0cc\x1cd\x85e\u2028f"]),
    "a NUL far in": ("a.txt", b"a" * 5000 + b"\0b", ["a" * 5000 + "\0b"]),
    "an escaped NUL": ("a.jsonl", rows(r'"a\u0000b"'), ["a\0b"]),
    "half a pair": ("a.jsonl", rows(r'"a \ud83d\ude00 \ud83d \udc00"'), ["a \U0001f600 ? ?"]),
    "two frames": ("a.txt.zst", zstandard.compress(b"a\n\nb") + zstandard.compress(b" c\n\nd"), ["a", "b c", "d"]),
    "a frame to skip": ("a.txt.zst", b"\x50\x2a\x4d\x18\x03\0\0\0xyz" + zstandard.compress(b"a"), ["a"]),
    "empty": ("a.txt", b"", []),
    "an archive with a long window": ("a.txt.zst", far_looking(b"a\n\nb"), ["a", "b"]),
    "empty archive": ("a.txt.zst", zstandard.compress(b""), []),
    "blank": ("a.txt", b" \n\t\n\r\n \x0c\n", []),
    "blank rows": ("a.jsonl", b"\n" + rows('""', r'" \n "', '"a"') + b"\n", ["a"]),
}


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("chunk", [1 << 20, 3])
def test_odd_text_gives_the_right_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, chunk: int
) -> None:
    monkeypatch.setattr(lines, "CHUNK", chunk)
    monkeypatch.setattr(lines, "PACKED_CHUNK", chunk)
    file, content, documents = RIGHT[name]
    assert read(put(tmp_path / file, content)) == documents


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("spec", ["train:300", "existing"])
def test_no_text_is_told_with_the_names_of_the_files(
    tmp_path: Path, tokenizer: Path, content: bytes, spec: str
) -> None:
    files = [str(put(tmp_path / name, content)) for name in ("a.txt", "b.jsonl")]
    config = EncodeConfig(tokenizer=str(tokenizer) if spec == "existing" else spec, length=8)
    with pytest.raises(UserError, match=f"there is no text in {files[0]}, {files[1]}: empty or blank; give files"):
        encode_text(config, text=files, out=tmp_path / "data")
    good = put(tmp_path / "good.txt", GOOD.encode())
    with pytest.raises(UserError, match=f"there is no text in {files[1]}: empty or blank"):
        encode_text(config, text=[str(good)], valid=[files[1]], out=tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_a_corpus_shorter_than_a_block_says_how_short_it_is(tmp_path: Path, tokenizer: Path) -> None:
    source = put(tmp_path / "a.txt", b"the cat")
    with pytest.raises(UserError, match=r"the train split has \d+ tokens in 1 of 1 .*, less than one block of 64"):
        encode_text(EncodeConfig(tokenizer=str(tokenizer), length=64), text=[str(source)], out=tmp_path / "data")


def test_links_in_circles_give_each_file_once(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    put(tmp_path / "a" / "b" / "x.txt", b"one")
    put(tmp_path / "a" / "y.txt", b"two")
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "b" / "self").symlink_to(".")
    (tmp_path / "a" / "z.txt").symlink_to("y.txt")
    for source in (tmp_path, tmp_path / "**" / "*.txt"):
        assert read(source) == ["one", "two"]
    assert read(tmp_path / "*" / "*.txt") == ["two"]


def test_a_linked_folder_is_read_like_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    put(tmp_path / "real" / "x.txt", b"one")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "part").symlink_to(tmp_path / "real")
    (tmp_path / "corpus" / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert find_files(str(tmp_path / "corpus")) == [tmp_path / "corpus" / "part" / "x.txt"]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"\xff\xfe\0", "line 2 is not JSON"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b'{"text": null}', "line 2 has no text"),
        (b'{"text": "a", "token_ids": [-1]}', "line 2 has token_ids that are not a list of integers from 0"),
        (b'{"text": "a", "token_ids": [1e3]}', "line 2 has token_ids"),
        (b'{"text": "a", "token_ids": [true]}', "line 2 has token_ids"),
        (b'{"text": "a", "token_ids": [99999999999999999999]}', "line 2 has token_ids"),
        (b'{"text": "a", "token_ids": {"0": 1}}', "line 2 has token_ids"),
    ],
)
def test_broken_samples_are_one_line(tmp_path: Path, line: bytes, what: str) -> None:
    path = put(tmp_path / "s.jsonl", rows('"a"') + line + b"\n")
    with pytest.raises(UserError, match=what) as caught:
        read_samples(str(path))
    assert caught.value.what.startswith(f"{path}, line 2 ")


def test_samples_with_half_a_pair_or_windows_line_ends_are_text(tmp_path: Path) -> None:
    path = put(tmp_path / "s.jsonl", b"\xef\xbb\xbf" + rows(r'"a \ud83d"', '"b"').replace(b"\n", b"\r\n"))
    assert [sample["text"] for sample in read_samples(str(path))] == ["a ?", "b"]


def test_a_row_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_of_files, "LONGEST_ROW", 100)
    monkeypatch.setattr(lines, "CHUNK", 10)
    monkeypatch.setattr(lines, "LOOKED_AT", 10)
    path = put(tmp_path / "a.jsonl", rows('"a"', json.dumps("b" * 100)))
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read \(line 2 is longer than 100 characters\)"):
        read(path)
    path = put(tmp_path / "a.json", b'[{"text": "a"}, {"text": "' + b"b" * 200)
    with pytest.raises(UserError, match=r"a\.json cannot be read \(row 2 is not JSON: it has no end within 100 char"):
        read(path)


def test_a_name_that_the_hub_does_not_have_is_told_with_the_folder_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text, "_load", unreachable)
    (tmp_path / "texts").mkdir()
    what = r"text is not a file or folder here, and cannot be read from the Hub \(no route\)"
    with pytest.raises(UserError, match=what + r"; did you mean texts\? Otherwise give UTF-8"):
        list(iter_pieces(["text"]))


def unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no route")
