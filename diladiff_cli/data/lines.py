"""Lines of files of any size: decoded strictly, in several parts where one is longer than memory would like."""

import codecs
import gzip
import io
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import IO, NamedTuple

OnRead = Callable[[int], None]  # number of further bytes of files that were read
CHUNK = 1 << 20
PACKED_CHUNK = 1 << 10  # four bytes can stand for a block of 128 KiB
LONG_WINDOW = 1 << 31  # bytes that an archive may ask to look back over: as ``zstd --long=31`` packs, and no more
LOOKED_AT = 4096  # bytes in which a NUL shows that a file is not text, as git judges
PACKED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd"}  # how such files begin
# Byte order marks, the longer ones first: that of UTF-32 begins as that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def ignore(_: int) -> None:
    """Do nothing with a number of bytes read."""


class Line(NamedTuple):
    """A line, or a part of a long one.

    Attributes:
        text: Without the line end.
        number: Of the line, from 1.
        ends: Whether the line ends here.
    """

    text: str
    number: int
    ends: bool


def encoding_of(begin: bytes) -> tuple[str, bytes]:
    """The encoding that a file's first bytes show, and its byte order mark; UTF-8 without one."""
    return next(((name, mark) for mark, name in MARKS if begin.startswith(mark)), ("utf-8", b""))


def chunks(file: IO[bytes], on_read: OnRead = ignore, size: int = 0) -> Iterator[bytes]:
    """The bytes of a file; ``on_read`` is told how many came."""
    while block := file.read(size or CHUNK):
        on_read(len(block))
        yield block


def unpacked(file: IO[bytes], ending: str, on_read: OnRead = ignore) -> Iterator[bytes]:
    """The bytes packed in a file whose name ends in .zst or .gz; ``on_read`` is told how many packed ones came.

    It may be packed in several parts, one after another.

    Raises:
        ValueError, EOFError: The file is cut off.
        ZstdError, zlib.error, BadGzipFile: It is damaged.
    """
    return (_of_gzip if ending.endswith(".gz") else _of_zstandard)(file, on_read)


def _of_gzip(file: IO[bytes], on_read: OnRead) -> Iterator[bytes]:
    reported = 0
    with gzip.GzipFile(fileobj=file) as archive:
        while block := archive.read(CHUNK):
            on_read(file.tell() - reported)
            reported = file.tell()
            yield block


def _of_zstandard(file: IO[bytes], on_read: OnRead) -> Iterator[bytes]:
    from zstandard import ZstdDecompressor

    unpacker = None
    for packed in chunks(file, on_read, PACKED_CHUNK):
        while packed:
            unpacker = unpacker or ZstdDecompressor(max_window_size=LONG_WINDOW).decompressobj()
            if block := unpacker.decompress(packed):
                yield block
            packed = b""
            if unpacker.eof:
                packed, unpacker = unpacker.unused_data, None
    if unpacker is not None:
        raise ValueError("the archive is cut off")


def check_unpacked(begin: bytes) -> None:
    """Refuse what begins as packed files do.

    Raises:
        ValueError: It does.
    """
    if packed := next((ending for ending, magic in PACKED.items() if begin.startswith(magic)), None):
        raise ValueError(f"it is packed as {packed}: unpack it first, or let the file's name end so")


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    r"""Text in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; every kind of line end becomes "\n".

    Raises:
        ValueError: It is not text; names the place.
    """
    blocks, begin = iter(blocks), b""
    while len(begin) < LOOKED_AT and (block := next(blocks, b"")):
        begin += block
    check_unpacked(begin)
    encoding, mark = encoding_of(begin)
    if encoding == "utf-8" and b"\0" in begin[:LOOKED_AT]:
        place = begin.index(b"\0")
        raise ValueError(f"not utf-8: a NUL at byte {place}, as in binary files and in UTF-16 without its mark")
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    newlines = io.IncrementalNewlineDecoder(decoder, translate=True)
    before, line = len(mark), 1
    for block in chain([begin[len(mark) :]], blocks, [b""]):
        try:
            text = newlines.decode(block, final=not block)
        except UnicodeDecodeError as error:
            good = error.object[: error.start].decode(encoding)
            line += len(re.findall(r"\r\n?|\n", good))
            place = before + len(block) - len(error.object) + error.start
            what = f"{error.reason}, 0x{error.object[error.start]:02x} at byte {place} in line {line}"
            raise ValueError(f"not {encoding}: {what}") from error
        before += len(block)
        line += text.count("\n")
        if text:
            yield text


def lines(texts: Iterable[str], limit: int) -> Iterator[Line]:
    r"""Lines of a text that comes in pieces, with "\n" for line ends; those beyond ``limit`` characters in parts."""
    number, held, size, inside = 1, list[str](), 0, False
    for text in texts:
        first, *others = text.split("\n")
        held.append(first)
        size += len(first)
        for following in others:
            yield Line("".join(held), number, True)
            number, held, size, inside = number + 1, [following], len(following), False
        if size > limit:
            yield Line("".join(held), number, False)
            held, size, inside = [], 0, True
    if size or inside:
        yield Line("".join(held), number, True)
