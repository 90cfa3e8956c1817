import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from datasets import IterableDataset

import diladiff_cli
from diladiff_cli.data.files import find_files
from diladiff_cli.data.text import iter_pieces
from diladiff_cli.errors import UserError

from ..chain import Chain

DOCUMENTS = ["First document,\non two lines.", "Zweites — “Dokument”", "third"]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nothing is written to the user's caches, and no hub is asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def read(*sources: Path | str, field: str = "text") -> list[str]:
    pieces = list(iter_pieces([str(source) for source in sources], field))
    assert all(piece.last for piece in pieces)  # none of these documents is long
    return [piece.text for piece in pieces]


def json_lines(documents: Iterable[str], field: str = "text", **more: Any) -> str:
    return "".join(json.dumps({field: document} | more) + "\n" for document in documents)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(zstandard.compress(raw) if path.suffix == ".zst" else raw)
    return path


TEXTS = {
    "plain": "\n\n".join(DOCUMENTS),
    "ends with newlines": "\n\n".join(DOCUMENTS) + "\n\n\n",
    "many blank lines": "\n\n\n\n".join(["", *DOCUMENTS]),
    "Windows line ends": "\r\n\r\n".join(DOCUMENTS).replace("on two", "on two").replace(",\n", ",\r\n"),
    "byte order mark": "\ufeff" + "\n\n".join(DOCUMENTS),
    "blank lines of spaces": "\n \t\n".join(DOCUMENTS),
}


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.txt.zst"])
@pytest.mark.parametrize("text", TEXTS)
def test_blank_lines_separate_the_documents_of_a_text_file(tmp_path: Path, text: str, name: str) -> None:
    assert read(write(tmp_path / name, TEXTS[text])) == DOCUMENTS


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.json"])
def test_each_json_line_is_a_document(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, json_lines(DOCUMENTS, id=3, meta={"a": [1]}))) == DOCUMENTS
    assert read(write(tmp_path / f"b{name}", json_lines(DOCUMENTS, field="body")), field="body") == DOCUMENTS


def test_json_lines_may_start_with_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", "\ufeff" + json_lines(DOCUMENTS))) == DOCUMENTS


def test_each_parquet_row_is_a_document(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": [1, 2, 3], "body": DOCUMENTS}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", field="body") == DOCUMENTS


def test_text_is_a_stream_of_datasets_which_writes_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(IterableDataset, "__iter__", lambda rows, kept=IterableDataset.__iter__: islice(kept(rows), 2))
    assert read(write(tmp_path / "a.txt", TEXTS["plain"])) == DOCUMENTS[:2]
    assert not (tmp_path / "cache").exists()


def test_blank_documents_are_left_out_and_the_others_stripped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", json_lines([" \n", "  kept \n", "", "\t"]))
    assert read(path) == ["kept"]


def test_an_empty_file_has_no_documents(tmp_path: Path) -> None:
    for name in ("a.txt", "a.jsonl", "b.txt"):
        write(tmp_path / name, "\n\n" if name == "b.txt" else "")
    assert read(tmp_path) == []


def test_a_folder_gives_its_files_in_order_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "three")
    write(tmp_path / "a" / "x.jsonl", json_lines(["one", "two"]))
    write(tmp_path / "notes.md", "not text for us")
    assert read(tmp_path) == ["one", "two", "three"]


def test_a_folder_is_read_without_what_this_package_wrote_there(tmp_path: Path, tiny_chain: Chain) -> None:
    write(tmp_path / "b.txt", "one")
    for name in ("data", "mdlm"):
        shutil.copytree(getattr(tiny_chain, name), tmp_path / "work" / name)
    write(tmp_path / "other" / "config.json", '{"text": "two"}')  # of somebody else
    assert read(tmp_path) == ["one", "two"]


def test_a_folder_may_mix_kinds_whatever_the_field_of_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "one")
    write(tmp_path / "b.jsonl", json_lines(["two"], field="body"))
    assert read(tmp_path, field="body") == ["one", "two"]
    assert read(str(tmp_path / "*"), field="body") == ["one", "two"]


def test_a_glob_and_several_sources_keep_their_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / "deep" / f"{name}.txt", name)
    assert read(tmp_path / "deep" / "[ab].txt", tmp_path / "deep" / "c.txt") == ["a", "b", "c"]
    assert read(tmp_path / "**" / "*.txt") == ["a", "b", "c"]
    assert read(tmp_path / "**") == ["a", "b", "c"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(tmp_path: Path) -> None:
    assert read(write(tmp_path / "part[1].txt", "one")) == ["one"]


def test_a_name_that_is_no_path_is_a_hub_data_set() -> None:
    assert find_files("owner/name") is None
    assert find_files("owner/name:config") is None
    assert find_files("owner/name@refs/convert/parquet") is None
    with pytest.raises(UserError, match="there is no file or folder my_texts/; check the path"):
        find_files("my_texts/")
    with pytest.raises(
        UserError,
        match=r"nobody/nothing-at-all is not a file or folder here, and cannot be read from the Hub \(.+\); give UTF-8",
    ):
        read("nobody/nothing-at-all")


def test_a_hub_data_set_is_streamed_in_its_configuration_and_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[tuple[str, dict[str, Any]]]()

    def load_dataset(source: str, **options: Any) -> Any:
        asked.append((source, options))
        return IterableDataset.from_generator(lambda: ({"text": text, "more": 1} for text in DOCUMENTS))

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("owner/name@refs/convert/parquet:small") == DOCUMENTS
    assert read("owner/name", field="text") == DOCUMENTS
    shared = {"split": "train", "streaming": True}
    assert asked == [
        ("owner/name", shared | {"name": "small", "revision": "refs/convert/parquet"}),
        ("owner/name", shared | {"name": None, "revision": None}),
    ]


FAULTS: dict[str, tuple[str, str | bytes | None, str]] = {
    "missing file": ("gone.txt", None, r"there is no file or folder .*gone\.txt; check the path"),
    "missing folder": ("some/where/gone", None, "there is no file or folder .*gone; check the path"),
    "no regular file": ("/dev/null", None, "/dev/null is neither a file nor a folder; pipe its text in"),
    "no match": ("*.txt", None, r"no file matches .*\*\.txt; check the pattern"),
    "unknown kind": ("a.pdf", "x", r"a\.pdf is of an unknown kind; give files that end in \.txt"),
    "other bytes": ("a.txt", b"caf\xe9 au lait", r"a\.txt cannot be read \(.*utf-8.*\); give UTF-8 text"),
    "other bytes in json": ("a.jsonl", b'{"text": "caf\xe9"}\n', r"a\.jsonl cannot be read \(.+\); give UTF-8 text"),
    "torn json": ("a.jsonl", json_lines(DOCUMENTS)[:-9], r"a\.jsonl cannot be read \(.+\); give UTF-8 text"),
    "no json": ("a.jsonl", "plain words\nmore\n", r"a\.jsonl cannot be read \(.+\); give UTF-8 text"),
    "other field": (
        "a.jsonl",
        json_lines(["x"], field="body", n=1),
        r"a\.jsonl .*'text' \(line 1 has body, n\); .*--text-field",
    ),
    "numbers": ("a.jsonl", '{"text": 3}\n', r"a\.jsonl has a row without a string 'text'"),
    "no parquet": ("a.parquet", "PAR1 or not", r"a\.parquet cannot be read \(.+\); give UTF-8 text"),
    "no zstandard": ("a.jsonl.zst", None, r"there is no file or folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_cannot_be_used_gives_one_line_that_names_it(tmp_path: Path, fault: str) -> None:
    name, content, message = FAULTS[fault]
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_fault_inside_a_folder_names_the_file(tmp_path: Path) -> None:
    write(tmp_path / "a.txt", "fine")
    write(tmp_path / "b.jsonl", '{"text": "x"')
    with pytest.raises(UserError, match=r"b\.jsonl cannot be read"):
        read(tmp_path)


def test_a_torn_archive_gives_one_line(tmp_path: Path) -> None:
    whole = zstandard.compress(json_lines(str(i) * 50 for i in range(3000)).encode())
    (tmp_path / "a.jsonl.zst").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.jsonl\.zst cannot be read"):
        read(tmp_path / "a.jsonl.zst")


def test_a_folder_without_text_says_what_belongs_there(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("x")
    with pytest.raises(UserError, match=r"holds no text; put files there that end in \.txt"):
        read(tmp_path)


def feed(monkeypatch: pytest.MonkeyPatch, content: str | bytes) -> None:
    raw = content.encode() if isinstance(content, str) else content
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


@pytest.mark.parametrize("text", TEXTS)
def test_standard_input_may_be_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    feed(monkeypatch, TEXTS[text])
    assert read("-", field="body") == DOCUMENTS


@pytest.mark.parametrize("before", ["", "\n\n", "\ufeff"])
def test_standard_input_may_be_json_lines(monkeypatch: pytest.MonkeyPatch, before: str) -> None:
    feed(monkeypatch, before + json_lines(DOCUMENTS, field="body").replace("\n", "\r\n"))
    assert read("-", field="body") == DOCUMENTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9", r"standard input cannot be read \(.*utf-8"),
        (b'{"text": "x"}\n{"text": "y', r"standard input cannot be read \(.+\)"),
        (b'{"body": "x"}\n', r"standard input has a row without a string 'text' \(line 1 has body\)"),
        (b'{"text": "x"}\n3\n', r"standard input has a row that is not an object"),
    ],
)
def test_a_fault_on_standard_input_gives_one_line(
    monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    feed(monkeypatch, content)
    with pytest.raises(UserError, match=message) as caught:
        read("-")
    assert "\n" not in str(caught.value)


def test_empty_standard_input_has_no_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    feed(monkeypatch, "")
    assert read("-") == []


PEAK = """
import sys
from pathlib import Path
from diladiff_cli.data.text import iter_pieces
count = sum(1 for _ in iter_pieces([sys.argv[1]]))
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(count, peak.split()[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("kind", ["txt", "jsonl", "stdin"])
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path, kind: str) -> None:
    peaks = []
    for times in (1, 3):
        path = tmp_path / f"{times}.{'jsonl' if kind == 'jsonl' else 'txt'}"
        with path.open("w") as file:
            for i in range(6000 * times):
                document = f"{i} " + "some words of a document " * 400
                file.write(json_lines([document]) if kind == "jsonl" else f"{document}\n\n")
        command = [sys.executable, "-c", PEAK, "-" if kind == "stdin" else str(path)]
        environment = os.environ | {"PYTHONPATH": str(Path(diladiff_cli.__file__).parents[1])}
        with path.open("rb") as stdin:
            found = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=True, env=environment)
        count, peak = map(int, found.stdout.split())
        assert count == 6000 * times
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 30_000, "KiB; the larger file has 120 MB more"


def test_json_rows_may_differ_in_their_other_fields(tmp_path: Path) -> None:
    lines = ['{"text": "one", "id": 1}', '{"id": "x", "text": "two", "more": {"a": []}}', "", '{"text": "2020-01-01"}']
    assert read(write(tmp_path / "a.jsonl", "\n".join(lines))) == ["one", "two", "2020-01-01"]


def test_half_a_surrogate_pair_in_json_becomes_text_that_can_be_encoded(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.jsonl", r'{"text": "a \ud83d\ude00 b \ud83d c"}')) == ["a \U0001f600 b ? c"]


def test_a_torn_json_line_is_named_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read \(line 3 is not JSON"):
        read(write(tmp_path / "a.jsonl", '{"text": "one"}\n\n{"text": '))
