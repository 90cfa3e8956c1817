"""Documents from files, folders, globs, standard input and Hub data sets, in pieces where one is long.

All sources together are one streamed data set of ``datasets``. It reads the Hub by itself, and gets what files hold
from here: its own reader of lines decodes archives in the locale's encoding, takes those that are cut off for whole,
and needs a third of a second for a file; that of JSON makes dates of texts that look like some, and nothing of rows
that lack the field; that of parquet holds whole groups of rows with all columns. Here every fault has its place.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

from diladiff_cli.data.files import ending, find_files
from diladiff_cli.data.lines import OnRead, chunks, decoded, ignore, lines, unpacked
from diladiff_cli.data.rows import Row, array_rows, line_rows, parquet_rows, value_rows
from diladiff_cli.errors import UserError, meant_instead, reason
from diladiff_cli.hub import hub_parts

PIECE = 1 << 20  # characters; a tokenizer needs some 300 MB for that many
REMEDY = "give UTF-8 text or JSON, parquet, or the id of a Hub data set that can be reached"


class Piece(NamedTuple):
    """A document, or a part of one that is longer than :data:`PIECE` characters.

    Attributes:
        text: Parts are cut before white space where there is some.
        last: Whether the document ends here.
    """

    text: str
    last: bool


def iter_pieces(sources: Sequence[str], text_field: str = "text", on_read: OnRead = ignore) -> Iterator[Piece]:
    """The documents of all sources, in order, without those that are blank and without white space around them.

    A ``.txt`` file holds documents separated by blank lines (or by a million blank characters); JSON is lines of
    objects, or an array of them; ``-`` is standard input, JSON where it begins with either, else text. All of it is in
    UTF-8, or in UTF-16 or UTF-32 with a byte order mark. A name that is not a path is a Hub data set,
    ``owner/name[@revision][:config]``, of which the train split is streamed. Memory grows neither with the size of a
    source nor with that of a text document.

    Args:
        sources: Files, folders, globs, ``-`` or Hub ids.
        text_field: The field of a JSON or parquet row that holds the text.
        on_read: Told how many further bytes of files were read.

    Raises:
        UserError: A source is missing, cannot be read, or has no such field; names it, and the line.
    """
    if not sources:
        return
    from datasets import IterableDataset
    from datasets.iterable_dataset import ExamplesIterable  # IterableDataset.from_generator needs a cache on disk

    given = {"sources": list(sources), "field": text_field, "on_read": on_read}
    rows = IterableDataset(ExamplesIterable(_examples, given))
    yield from (Piece(**row) for row in rows)


def some_pieces(sources: Sequence[str], field: str, names: Sequence[str], on_read: OnRead = ignore) -> Iterator[Piece]:
    """The pieces of some sources, which ``names`` are for the user; ``on_read`` as of :func:`iter_pieces`.

    Raises:
        UserError: There are none, or as of :func:`iter_pieces`.
    """
    shown = ["standard input" if name == "-" else name for name in names]
    empty = True
    try:
        for piece in iter_pieces(sources, field, on_read):
            empty = False
            yield piece
    except UserError as error:
        what = error.what
        for source, name in zip(sources, names, strict=True):
            if source != name:  # a copy of standard input, the one that lies elsewhere
                what = what.replace(source, "standard input")
        raise UserError(what, error.remedy) from error
    if empty:
        raise UserError(f"there is no text in {', '.join(shown)}: empty or blank", "give files that hold some")


def _examples(sources: Sequence[str], field: str, on_read: OnRead) -> Iterator[tuple[int, dict[str, Any]]]:
    """The pieces as numbered rows, in the form in which ``datasets`` takes them."""
    pieces = (
        _pieces(_naming_faults(parts, name)) for source in sources for name, parts in _sources(source, field, on_read)
    )
    for number, piece in enumerate(chain.from_iterable(pieces)):
        yield number, piece._asdict()


def _sources(source: str, field: str, on_read: OnRead) -> Iterator[tuple[str, Iterator[Piece]]]:
    """The name of each file of a source, and its documents in parts of any length."""
    files = None if source == "-" else find_files(source)
    if source == "-":
        yield "standard input", _stdin_parts(field)
    elif files is None:
        yield source, _row_parts((Row(values, "it") for values in _hub_rows(source)), source, field)
    else:
        for file in files:
            if file.stat().st_size:
                yield str(file), _file_parts(file, field, on_read)


def _naming_faults(parts: Iterator[Piece], name: str) -> Iterator[Piece]:
    """The parts; every fault of reading becomes one line that names the source."""
    try:
        yield from parts
    except (UserError, MemoryError):
        raise
    except Exception as error:  # datasets raises many kinds, for missing data sets and torn files alike
        raise UserError(f"{name} cannot be read ({reason(error)})", REMEDY) from error


def _pieces(parts: Iterable[Piece]) -> Iterator[Piece]:
    """Parts of any length as pieces."""
    held, begun = "", False
    for text, last in parts:
        held = held + text if begun else (held + text).lstrip()
        start = 0
        while len(held) - start > PIECE:
            cut = _place_to_cut(held, start, start + PIECE)
            yield Piece(held[start:cut], False)
            start, begun = cut, True
        held = held[start:]
        if last:
            held = held.rstrip()
            if held or begun:
                yield Piece(held, True)
            held, begun = "", False


def _place_to_cut(text: str, start: int, end: int) -> int:
    """Before the last white space between words, where tokenizers cut as well; else at the end."""
    words = text[start:end].rsplit(None, 1)
    return start + len(words[0]) if len(words) > 1 else end


def _load(source: str, **options: Any) -> Any:
    """A streamed data set, without noise on the terminal: what goes wrong is raised, and has its line."""
    from datasets import load_dataset
    from datasets.utils.logging import CRITICAL, disable_progress_bar, set_verbosity

    disable_progress_bar()
    set_verbosity(CRITICAL)
    return load_dataset(source, split="train", streaming=True, **options)


def _hub_rows(source: str) -> Iterator[Any]:
    name, configuration, revision = hub_parts(source)
    try:
        rows = _load(name, name=configuration, revision=revision)
    except MemoryError:
        raise
    except Exception as error:
        what = f"{source} is not a file or folder here, and cannot be read from the Hub ({reason(error)})"
        raise UserError(what, meant_instead(Path(source), REMEDY)) from error
    yield from rows


def _row_parts(rows: Iterable[Row], name: str, field: str) -> Iterator[Piece]:
    for row in rows:
        yield Piece(_text_of(row, name, field), True)


def _file_parts(file: Path, field: str, on_read: OnRead) -> Iterator[Piece]:
    kind = ending(file) or ".txt"
    if kind == ".parquet":
        yield from _row_parts(parquet_rows(file, field, on_read), str(file), field)
        return
    with file.open("rb") as opened:
        texts = decoded(unpacked(opened, kind, on_read) if kind.endswith((".zst", ".gz")) else chunks(opened, on_read))
        if kind.startswith(".json"):
            signs, texts = _looked_at(texts)
            others = line_rows if kind.startswith(".jsonl") else value_rows
            yield from _row_parts((array_rows if signs.startswith("[") else others)(texts), str(file), field)
        else:
            yield from _paragraphs(texts)


def _stdin_parts(field: str) -> Iterator[Piece]:
    signs, texts = _looked_at(decoded(chunks(sys.stdin.buffer)))
    if _is_json(signs):
        rows = (array_rows if signs.startswith("[") else line_rows)(texts)
        yield from _row_parts(rows, "standard input", field)
    else:
        yield from _paragraphs(texts)


def _looked_at(texts: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first two characters of a text that are not blank, as far as there are some, and the text."""
    start, signs = list[str](), ""
    for text in texts:
        start.append(text)
        signs += "".join(sign[0] for sign in islice(re.finditer(r"\S", text), 2))
        if len(signs) > 1:
            break
    return signs[:2], (text for some in (start, texts) for text in some)


def _is_json(signs: str) -> bool:
    """Whether text of no known kind is JSON: an object, or an array of some."""
    return signs.startswith("{") or signs == "[{"


def ending_by_content(file: IO[bytes]) -> str:
    """The ending that a file of no known kind should have: ``.jsonl`` for JSON objects or an array, else ``.txt``.

    What cannot be decoded counts as text, whose reading reports the fault.
    """
    try:
        return ".jsonl" if _is_json(_looked_at(decoded(chunks(file)))[0]) else ".txt"
    except ValueError:
        return ".txt"


def _text_of(row: Row, name: str, field: str) -> str:
    values, place = row
    if isinstance(values, dict) and values.get(field, "") is None:
        return ""  # a null is not a document
    if isinstance(values, dict) and isinstance(values.get(field), str):
        # JSON may hold halves of surrogate pairs, which no text may
        return str(values[field]).encode(errors="replace").decode()
    if not isinstance(values, dict):
        what = f"{name} has a row that is not an object ({place} is of type {type(values).__name__})"
        raise UserError(what, f'give objects with a text, such as {{"{field}": "…"}}')
    contents = f"has {field} of type {type(values[field]).__name__}" if field in values else f"has {', '.join(values)}"
    remedy = "name one with --text-field"
    if any(isinstance(value, dict | list) for value in values.values()):
        remedy += "; text within lists and objects is not read"
    raise UserError(f"{name} has a row without a string {field!r} ({place} {contents})", remedy)


def _paragraphs(texts: Iterable[str]) -> Iterator[Piece]:
    """Runs of lines that are not blank, in parts where they are long."""
    held, size, inside, begun = list[str](), 0, False, False
    for text, _, ends in lines(texts, PIECE):
        if inside or text.strip():
            held.append(text + "\n" if ends else text)
            size += len(text)
            inside = not ends
            if size > PIECE:
                yield Piece("".join(held), False)
                held, size, begun = [], 0, True
        elif held or begun:
            yield Piece("".join(held), True)
            held, size, begun = [], 0, False
    if held or begun:
        yield Piece("".join(held), True)
