"""Rows of JSON lines, of JSON arrays and of parquet files, one at a time, each with its place for messages."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from diladiff_cli.data.lines import CHUNK, OnRead, lines

LONGEST_ROW = 1 << 28  # characters of one in JSON
ROWS = 1000  # of a parquet file that are held at once
_BLANK = re.compile(r"[ \t\n\r]*")  # what JSON has between values
_decode = json.JSONDecoder().raw_decode


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        values: A dict by fields in a file that is as it should be.
        place: Such as "line 3".
    """

    values: Any
    place: str


def json_rows(texts: Iterable[str], array: bool) -> Iterator[Row]:
    """The rows of JSON lines, without blank ones, or of a JSON array; texts are in pieces of any length.

    Raises:
        ValueError: A row is not JSON, or too long; names it.
    """
    return _of_array(texts) if array else _of_lines(texts)


def _of_lines(texts: Iterable[str]) -> Iterator[Row]:
    for text, number, ends in lines(texts, LONGEST_ROW):
        place = f"line {number}"
        if not ends:
            raise ValueError(f"{place} is longer than {LONGEST_ROW:,} characters")
        if text.strip():
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise _no_json(place, error) from error
            yield Row(values, place)


def _of_array(texts: Iterable[str]) -> Iterator[Row]:
    reader = _Reader(texts)
    reader.read_sign()  # the bracket that begins an array
    sign, number = reader.next_sign(), 0
    if sign == "]":
        reader.read_sign()
    while sign != "]":
        number += 1
        place = f"row {number}"
        try:
            values = reader.read_value()
        except (ValueError, RecursionError) as error:
            raise _no_json(place, error) from error
        yield Row(values, place)
        sign = reader.read_sign()
        if sign not in ("]", ","):
            raise ValueError(f"after {place} there is {sign!r} in place of a comma" if sign else "the array is cut off")
    if reader.next_sign():
        raise ValueError("there is more after the array")


def _no_json(place: str, error: Exception) -> ValueError:
    what = str(error)
    if isinstance(error, json.JSONDecodeError):
        what = error.msg.removesuffix(" at") + (f" at column {error.colno}" if place.startswith("line") else "")
    return ValueError(f"{place} is not JSON: {what}")


class _Reader:
    """JSON values and the signs between them, of a text that comes in pieces."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._held, self._place = filter(None, texts), "", 0

    def _more(self) -> bool:
        """Drop what is read and hold about twice the rest, so that a long value is parsed few times."""
        rest = self._held[self._place :]
        further = "".join(islice(self._texts, 1 + len(rest) // CHUNK))
        self._held, self._place = rest + further, 0
        return bool(further)

    def next_sign(self) -> str:
        """The next character that is not blank, which is still to be read; empty at the end."""
        while self._skip_blanks() == len(self._held) and self._more():
            pass
        return self._held[self._place : self._place + 1]

    def read_sign(self) -> str:
        """The next character that is not blank; empty at the end."""
        found = self.next_sign()
        self._place += len(found)
        return found

    def read_value(self) -> Any:
        """The next value."""
        while True:
            try:
                value, self._place = _decode(self._held, self._skip_blanks())
                return value
            except json.JSONDecodeError:  # perhaps for want of its end
                if len(self._held) - self._place > LONGEST_ROW:
                    raise ValueError(f"it has no end within {LONGEST_ROW:,} characters") from None
                if not self._more():
                    raise

    def _skip_blanks(self) -> int:
        if found := _BLANK.match(self._held, self._place):
            self._place = found.end()
        return self._place


def parquet_rows(file: Path, field: str, on_read: OnRead) -> Iterator[Row]:
    """The rows of a parquet file with one of its columns alone, as far as it has that; little is held at once.

    Raises:
        ArrowException: It is none, or damaged.
    """
    from pyarrow.parquet import ParquetFile

    size, done, told = file.stat().st_size, 0, 0
    with ParquetFile(file) as opened:
        columns = opened.schema_arrow.names
        if field not in columns:
            yield Row(dict.fromkeys(columns), "it")
        for batch in opened.iter_batches(ROWS, columns=[field] if field in columns else []):
            for number, values in enumerate(batch.to_pylist(), start=done + 1):
                yield Row(values, f"row {number}")
            done += len(batch)
            now = size * done // opened.metadata.num_rows
            on_read(now - told)
            told = now
