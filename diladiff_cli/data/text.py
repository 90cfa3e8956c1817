"""Documents from files, folders, globs, standard input and Hub data sets, streamed through ``datasets``."""

import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diladiff_cli.errors import UserError

# Ending of a file -> the reader of ``datasets``, and its options.
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".txt": ("text", {"sample_by": "paragraph"}),
    ".txt.zst": ("text", {"sample_by": "paragraph"}),
    ".jsonl": ("json", {}),
    ".jsonl.zst": ("json", {}),
    ".json": ("json", {}),
    ".parquet": ("parquet", {}),
}
FORMATS = ", ".join(READERS)


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
    is a JSON object, else text. A name that is no path is a Hub data set, ``owner/name`` or ``owner/name:config``,
    of which the train split is streamed. Memory does not grow with the size of a source.

    Args:
        sources: Files, folders, globs, ``-`` or Hub ids.
        text_field: The field of a JSON or parquet row that holds the text.

    Raises:
        UserError: A source is missing, cannot be read, or has no such field; names it.
    """
    for source in sources:
        rows = _stdin_rows() if source == "-" else _rows(source)
        for text in _texts(rows, source, text_field):
            if text.strip():
                yield text.strip()


def _rows(source: str) -> Iterator[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    files = find_files(source)
    if files is None:
        name, _, config = source.partition(":")
        yield from load_dataset(name, config or None, split="train", streaming=True)
        return
    for file in files:
        reader, options = READERS[ending(file) or ".txt"]
        if file.stat().st_size:
            yield from load_dataset(reader, data_files=str(file), split="train", streaming=True, **options)


def _stdin_rows() -> Iterator[dict[str, Any]]:
    lines = (line.decode("utf-8") for line in sys.stdin.buffer)
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("{"):
        yield from map(json.loads, (line for line in _chain(first, lines) if line.strip()))
        return
    paragraph = ""
    for line in _chain(first, lines):
        if line.strip():
            paragraph += line
        elif paragraph:
            yield {"text": paragraph}
            paragraph = ""
    yield {"text": paragraph}


def _chain(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _texts(rows: Iterator[dict[str, Any]], source: str, field: str) -> Iterator[str]:
    """The text of each row; every fault of reading becomes one line that names the source."""
    name = "standard input" if source == "-" else source
    field = "text" if source.lower().endswith((".txt", ".txt.zst")) else field
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except UserError:
            raise
        except Exception as error:  # datasets raises many kinds, for missing data sets and torn files alike
            reason = (str(error) or type(error).__name__).splitlines()[0]
            remedy = "give UTF-8 text, JSON lines, parquet, or the id of a Hub data set that can be reached"
            raise UserError(f"{name} cannot be read ({reason})", remedy) from error
        if not isinstance(row, dict) or not isinstance(row.get(field), str):
            fields = ", ".join(row) if isinstance(row, dict) else type(row).__name__
            raise UserError(
                f"{name} has a row without a string {field!r} (it has {fields})", "name one with --text-field"
            )
        yield row[field]
