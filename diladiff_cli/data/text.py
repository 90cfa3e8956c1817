"""Documents from files, folders, globs, standard input and Hub data sets, streamed through ``datasets``."""

import codecs
import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from diladiff_cli.errors import UserError

# Ending of a file -> the reader of ``datasets``, and its options. Text and JSON lines both come line by line: a schema
# that is inferred from the first rows would refuse later ones with other fields.
LINES: dict[str, Any] = {"sample_by": "line"}
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", LINES),
    ".txt.zst": ("text", LINES),
    ".jsonl": ("text", LINES),
    ".jsonl.zst": ("text", LINES),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
FORMATS = ", ".join(READERS)
LINES_AT_ONCE = 1000


def ending(path: Path | str) -> str | None:
    """The known ending of a file's name, the longest first; None for other files."""
    name = str(path).lower()
    return next((e for e in sorted(READERS, key=len, reverse=True) if name.endswith(e)), None)


def find_files(source: str) -> list[Path] | None:
    """The files that a source names, in order; None where it names no path but perhaps a Hub data set.

    Raises:
        UserError: A folder without text, a file of an unknown kind, or a path that is not there.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and ending(p))
        if not files:
            raise UserError(f"the folder {source} holds no text", f"put files there that end in {FORMATS}")
        return files
    if path.is_file():
        files = [path]
    elif any(c in source for c in "*?["):
        files = sorted(Path(p) for p in glob.glob(str(path), recursive=True) if Path(p).is_file())
        if not files:
            raise UserError(f"no file matches {source}", "check the pattern, and quote it")
    elif ending(source) or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError(f"there is no file or folder {source}", "check the path")
    else:
        return None
    unknown = [p for p in files if ending(p) is None]
    if unknown:
        raise UserError(f"{unknown[0]} is of an unknown kind", f"give files that end in {FORMATS}")
    return files


def iter_documents(sources: Sequence[str], text_field: str = "text") -> Iterator[str]:
    """The documents of all sources, in order, without those that are blank.

    A ``.txt`` file holds documents separated by blank lines. ``-`` is standard input: JSON lines where the first line
    is a JSON object, else text. A name that is no path is a Hub data set, ``owner/name[@revision][:config]``,
    of which the train split is streamed. Memory does not grow with the size of a source.

    Args:
        sources: Files, folders, globs, ``-`` or Hub ids.
        text_field: The field of a JSON or parquet row that holds the text.

    Raises:
        UserError: A source is missing, cannot be read, or has no such field; names it.
    """
    for source in sources:
        for name, rows in _parts(source, text_field):
            for text in _texts(rows, name, text_field):
                if text.strip():
                    yield text.strip()


def _parts(source: str, field: str) -> Iterator[tuple[str, Iterator[Any]]]:
    """The name and the rows of each file of a source, text being in ``field``."""
    files = None if source == "-" else find_files(source)
    if source == "-":
        yield "standard input", _stdin_rows(field)
    elif files is None:
        yield source, _hub_rows(source)
    else:
        for file in files:
            if file.stat().st_size:
                yield str(file), _file_rows(file, field)


def _load(reader: str, **options: Any) -> Any:
    """A streamed data set, without noise on the terminal."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    return load_dataset(reader, split="train", streaming=True, **options)


def _hub_rows(source: str) -> Iterator[Any]:
    name, _, config = source.partition(":")
    name, _, revision = name.partition("@")
    yield from _load(name, name=config or None, revision=revision or None)


def _file_rows(file: Path, field: str) -> Iterator[Any]:
    kind = ending(file) or ".txt"
    reader, options = READERS[kind]
    rows = _load(reader, data_files=glob.escape(str(file)), **options)
    if reader != "text":
        yield from rows
        return
    batches = rows.with_format("arrow").iter(LINES_AT_ONCE)
    lines = _unmarked(line for batch in batches for line in batch["text"].to_pylist())
    yield from _json_rows(lines) if kind.startswith(".jsonl") else _paragraphs(lines, field)


def _stdin_rows(field: str) -> Iterator[Any]:
    lines = _unmarked(codecs.iterdecode(sys.stdin.buffer, "utf-8"))
    first = next((line for line in lines if line.strip()), "")
    whole = chain([first], lines)
    yield from _json_rows(whole) if first.lstrip().startswith("{") else _paragraphs(whole, field)


def stdin_ending() -> str:
    """The ending that a file with the content of standard input would have; nothing of it is consumed."""
    buffer: Any = sys.stdin.buffer  # a BufferedReader, which the declared type does not promise
    begin = buffer.peek(4096)
    return ".jsonl" if begin.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"{") else ".txt"


def _unmarked(lines: Iterable[str]) -> Iterator[str]:
    """Lines without the byte order mark that some editors put before the first."""
    for number, line in enumerate(lines):
        yield line if number else line.removeprefix("\ufeff")


def _json_rows(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is no JSON: {error}") from error


def _paragraphs(lines: Iterable[str], field: str) -> Iterator[dict[str, str]]:
    """Runs of lines that are not blank, as rows."""
    paragraph: list[str] = []
    for line in chain(lines, [""]):
        if line.strip():
            paragraph.append(line.rstrip("\r\n"))
        elif paragraph:
            yield {field: "\n".join(paragraph)}
            paragraph = []


def _texts(rows: Iterator[Any], name: str, field: str) -> Iterator[str]:
    """The text of each row; every fault of reading becomes one line that names the source."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # datasets raises many kinds, for missing data sets and torn files alike
            reason = (str(error) or type(error).__name__).splitlines()[0]
            remedy = "give UTF-8 text, JSON lines, parquet, or the id of a Hub data set that can be reached"
            raise UserError(f"{name} cannot be read ({reason})", remedy) from error
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(
                f"{name} has a row without a string {field!r} (it has {fields})", "name one with --text-field"
            )
        # JSON may hold halves of surrogate pairs, which no text may
        yield row[field].encode(errors="replace").decode()
