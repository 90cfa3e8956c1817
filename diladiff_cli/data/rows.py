"""Rows of JSON lines, values and arrays and of parquet files, one at a time, each with its place for messages."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from diladiff_cli.data.lines import CHUNK, OnRead, lines

LONGEST_ROW = 1 << 28  # characters of one in JSON
LONGEST_TOKEN = 16  # characters of JSON beside texts and numbers, which may be cut where a piece ends
ROWS = 100  # of a parquet file that are held at once
BUFFER = 1 << 16  # bytes of one that are read at once
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


def line_rows(texts: Iterable[str]) -> Iterator[Row]:
    """The rows of JSON lines, without blank ones; texts are in pieces of any length.

    Raises:
        ValueError: A row is not JSON, or too long; names it.
    """
    for text, number, ends in lines(texts, LONGEST_ROW):
        place = f"line {number}"
        if not ends:
            raise ValueError(f"{place} is longer than {LONGEST_ROW:,} characters")
        if text.strip():
            try:
                values = json.loads(text)
            except json.JSONDecodeError as error:
                what = f"{error.msg.removesuffix(' at')} at column {error.colno}"
                raise ValueError(f"{place} is not JSON: {what}") from error
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place} is not JSON: {error}") from error
            yield Row(values, place)


def value_rows(texts: Iterable[str]) -> Iterator[Row]:
    """The rows of JSON values that follow one another, in whatever lines; otherwise as :func:`line_rows`."""
    reader = _Reader(texts)
    while reader.next_sign():
        yield reader.read_row()


def array_rows(texts: Iterable[str]) -> Iterator[Row]:
    """The rows of a JSON array, of which the first sign is known; otherwise as :func:`line_rows`."""
    reader = _Reader(texts)
    reader.read_sign()
    sign = reader.next_sign()
    if sign == "]":
        reader.read_sign()
    while sign != "]":
        row = reader.read_row()
        yield row
        sign = reader.read_sign()
        if sign not in ("]", ","):
            what = f"after {row.place} there is {sign!r} in place of a comma" if sign else "the array is cut off"
            raise ValueError(what)
    if reader.next_sign():
        raise ValueError("there is more after the array")


class _Reader:
    """JSON values and the signs between them, of a text that comes in pieces."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts, self._held, self._place, self._rows = iter(texts), "", 0, 0

    def _more(self) -> bool:
        """Drop what is read and hold at least twice the rest, so that a long value is parsed a few times at most."""
        parts = [self._held[self._place :]]
        wanted = max(CHUNK, len(parts[0]))
        while wanted > 0 and (text := next(self._texts, "")):
            parts.append(text)
            wanted -= len(text)
        self._held, self._place = "".join(parts), 0
        return len(parts) > 1

    def next_sign(self) -> str:
        """The next character that is not blank, which is still to be read; empty at the end."""
        while self._skip_blanks() == len(self._held) and self._more():
            pass
        return self._held[self._place : self._place + 1]

    def read_sign(self) -> str:
        """The next character that is not blank; empty at the end."""
        sign = self.next_sign()
        self._place += len(sign)
        return sign

    def read_row(self) -> Row:
        """The next value."""
        self._rows += 1
        place = f"row {self._rows}"
        try:
            return Row(self._value(), place)
        except json.JSONDecodeError as error:
            what = f"{error.msg.removesuffix(' at')} at its character {error.pos - self._place + 1:,}"
            raise ValueError(f"{place} is not JSON: {what}") from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is not JSON: {error}") from error

    def _value(self) -> Any:
        while True:
            try:
                value, self._place = _decode(self._held, self._skip_blanks())
                return value
            except json.JSONDecodeError as error:
                if not (error.msg.startswith("Unterminated") or error.pos > len(self._held) - LONGEST_TOKEN):
                    raise  # no more text would mend it
                if len(self._held) - self._place > LONGEST_ROW:
                    raise ValueError(f"it has no end within {LONGEST_ROW:,} characters") from None
                if not self._more():
                    raise

    def _skip_blanks(self) -> int:
        if blanks := _BLANK.match(self._held, self._place):
            self._place = blanks.end()
        return self._place


def parquet_rows(file: Path, field: str, on_read: OnRead) -> Iterator[Row]:
    """The rows of a parquet file with one of its columns alone, as far as it has that; little is held at once.

    Raises:
        ArrowException, ValueError: It is none, or damaged, or has several columns of that name.
    """
    from pyarrow.parquet import ParquetFile

    size, done, reported = file.stat().st_size, 0, 0
    with ParquetFile(file, pre_buffer=False, buffer_size=BUFFER) as opened:
        columns = opened.schema_arrow.names
        if columns.count(field) > 1:
            raise ValueError(f"it has several columns {field!r}")
        if field not in columns:
            yield Row(dict.fromkeys(columns), "it")
        for batch in opened.iter_batches(ROWS, columns=[field] if field in columns else []):
            for number, value in enumerate(batch.column(field), start=done + 1):
                yield Row({field: value.as_py()}, f"row {number}")
            done += len(batch)
            now = size * done // opened.metadata.num_rows
            on_read(now - reported)
            reported = now
