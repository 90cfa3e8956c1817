"""Lines of text, decoded strictly: those of files as ``datasets`` reads them, and those of a stream."""

import codecs
import glob
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from diladiff_cli.data.files import ending

CHUNK = 1 << 20  # characters that are read at once, and then on to the end of their last line
ROWS = 1000  # of a table that datasets hands over
LOOKED_AT = 4096  # bytes in which a NUL tells that a file is no text, as git judges
LINE_END = re.compile(rb"\r\n?|\n")
MARK = "\ufeff"
# Byte order marks, the longer ones first: that of UTF-32 begins as that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def load_streamed(source: str, **options: Any) -> Any:
    """The train split of a reader or a Hub data set, streamed by ``datasets`` without noise on the terminal."""
    from datasets import load_dataset
    from datasets.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()
    return load_dataset(source, split="train", streaming=True, **options)


def load_file(reader: str, file: Path, **options: Any) -> Any:
    """A file that a reader of ``datasets`` streams; nothing is left in a cache, nor is one needed."""
    with tempfile.TemporaryDirectory() as folder:
        return load_streamed(reader, data_files=glob.escape(str(file)), cache_dir=folder, **options)


def file_lines(file: Path) -> Iterator[str]:
    r"""The lines of a file in UTF-8, or, unpacked, in UTF-16 or UTF-32 with a mark; "\r" and "\r\n" end lines too.

    Memory grows with the longest line alone.

    Raises:
        ValueError: The file is no text, names the place; or an archive that is cut off.
        ZstdError: A damaged archive.
    """
    with _unpacked(file) as opened:
        encoding = encoding_of(opened.read(LOOKED_AT))
    if is_packed(file) and encoding != "utf-8":
        raise ValueError(f"{encoding} in an archive, where only UTF-8 is read")
    options = {"encoding": encoding, "encoding_errors": "strict", "sample_by": "line", "chunksize": CHUNK}
    tables = load_file("text", file, **options).with_format("arrow")
    try:
        yield from _unmarked(line for table in tables.iter(ROWS) for line in table["text"].to_pylist())
    except UnicodeDecodeError as error:
        raise ValueError(f"not {encoding}: {_fault(file, encoding) or error.reason}") from error
    if is_packed(file):
        _check_end(file)


def stream_lines(stream: IO[bytes]) -> Iterator[str]:
    """As :func:`file_lines`, of a stream that cannot be read twice, such as standard input.

    Raises:
        ValueError: It is no text; names the last line that was.
    """
    begin = stream.read(LOOKED_AT)
    encoding, whole = encoding_of(begin), 0
    text = io.TextIOWrapper(io.BufferedReader(_Rejoined(begin, stream)), encoding=encoding, errors="strict")
    try:
        for line in _unmarked(text):
            whole += 1
            yield line.removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"not {encoding}: {error.reason}, after line {whole}") from error


def encoding_of(begin: bytes) -> str:
    """The encoding that the first bytes of a text tell; UTF-8 without a byte order mark.

    Raises:
        ValueError: Those of a binary file.
    """
    encoding = next((name for mark, name in MARKS if begin.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in begin:
        place = begin.index(b"\0")
        raise ValueError(f"not utf-8: a NUL at byte {place}, as in binary files and in UTF-16 without its mark")
    return encoding


def is_packed(file: Path) -> bool:
    """Whether a file's name tells of a Zstandard archive."""
    return (ending(file) or "").endswith(".zst")


def _unmarked(lines: Iterable[str]) -> Iterator[str]:
    """The lines without the mark of UTF-8, which its decoder leaves."""
    rest = iter(lines)
    for first in rest:
        yield first.removeprefix(MARK)
        break
    yield from rest


class _Rejoined(io.RawIOBase):
    """A stream from its begin, some of which was read already."""

    def __init__(self, begin: bytes, rest: IO[bytes]) -> None:
        super().__init__()
        self._held, self._rest = begin, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        some = self._held or self._rest.read(len(buffer))
        size = min(len(some), len(buffer))
        buffer[:size], self._held = some[:size], some[size:]
        return size


@contextmanager
def _unpacked(file: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, or of what is packed in it."""
    with file.open("rb") as opened:
        if not is_packed(file):
            yield opened
            return
        from zstandard import ZstdDecompressor

        yield io.BufferedReader(ZstdDecompressor().stream_reader(opened, read_across_frames=True))


def _fault(file: Path, encoding: str) -> str | None:
    """Where a file is no UTF-8; None for other encodings, whose lines no one byte ends."""
    if encoding != "utf-8":
        return None
    with _unpacked(file) as opened:
        before, number = 0, 1
        for line in opened:
            try:
                line.decode()
            except UnicodeDecodeError as error:
                number += len(LINE_END.findall(line[: error.start]))
                place = before + error.start
                return f"{error.reason}, 0x{line[error.start]:02x} at byte {place} in line {number}"
            before, number = before + len(line), number + len(LINE_END.findall(line))
    return None


def _check_end(file: Path) -> None:
    """Refuse an archive that is cut off, which its readers take for one that ends there."""
    from zstandard import ZstdDecompressor

    unpacker = None
    with file.open("rb") as opened:
        while packed := opened.read(CHUNK):
            while packed:
                unpacker = unpacker or ZstdDecompressor().decompressobj()
                unpacker.decompress(packed)
                packed = b""
                if unpacker.eof:
                    packed, unpacker = unpacker.unused_data, None
    if unpacker is not None:
        raise ValueError("the archive is cut off")
