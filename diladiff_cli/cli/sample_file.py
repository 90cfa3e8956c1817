"""The file of ``sample --out``: there when it is complete, and gone on with where a run of it was cut short.

What is drawn lies beside it meanwhile, as JSON lines, under a name that tells what it is drawn from.
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list

from diladiff_cli.cli.output import write
from diladiff_cli.errors import UserError
from diladiff_cli.notes import is_main_process, say
from diladiff_cli.runtime.folders import partial_name, real, remove_leftovers, replacing_file
from diladiff_cli.runtime.locks import sole_writer

SEPARATOR = "-" * 40
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """Where samples come from.

    Attributes:
        origin: Name of what they depend on, besides their number.
        draw: Samples from a number on.
        is_whole: Whether something is the sample of a number, undamaged.
    """

    origin: str
    draw: Callable[[int], Iterable[Sample]]
    is_whole: Callable[[int, Any], bool]


def texts_of(samples: Iterable[Sample]) -> Iterator[str]:
    """The texts alone, with a line of dashes between them."""
    for number, found in enumerate(samples):
        if number:
            yield SEPARATOR
        yield found["text"]


def write_samples(source: Source, out: Path, n: int, as_text: bool) -> None:
    """Write ``n`` samples to a file, of which an earlier run of the same origin that was cut short may have left some.

    All processes call this; the main one writes.

    Args:
        source: Where they come from.
        out: The file, replaced once all samples are there. A device or pipe is written at once.
        n: How many.
        as_text: Write the texts alone.

    Raises:
        UserError: The file cannot be written, or another run is writing it.
    """
    if not is_main_process():  # its share of the work
        with open(os.devnull, "wb") as nowhere:
            write(source.draw(_agreed(0)), nowhere)
        return
    with writable(out, "--out") as is_regular:
        if not is_regular:
            with out.open("wb") as file:
                samples = source.draw(_agreed(0))
                write(texts_of(samples) if as_text else samples, file)
            return
        # A name of its own, since a file system without locks lets two runs at once come here.
        part = partial_name(out, f"{source.origin}-{uuid.uuid4().hex[:8]}")
        with _told_when_cut_short(out, part, n):
            kept = _adopt(out, part, n, source)
            with part.open("ab") as file:
                write(source.draw(_agreed(kept)), file)
            earlier = out.is_file()
            if as_text:
                with replacing_file(out) as whole, whole.open("wb") as file:
                    write(texts_of(_samples_in(part)), file)
        if not as_text:
            part.replace(real(out))
        remove_leftovers(real(out))
        say(f"{out}: {n} samples" + (", in place of an earlier file" if earlier else ""))


@contextmanager
def writable(out: Path, option: str) -> Iterator[bool]:
    """Have a file for oneself, which the block writes; where it cannot, a UserError blames ``option``.

    Yields:
        Whether it is a regular file or none yet. A device or pipe is nothing that may be replaced.
    """
    remedy = f"choose another {option}"
    above = real(out).parent
    if not above.exists():
        raise UserError(f"cannot write {out} (there is no folder {above if out.is_symlink() else out.parent})", remedy)
    if out.is_dir():
        raise UserError(f"cannot write {out} (it is a folder)", remedy)
    try:
        if out.exists() and not out.is_file():
            yield False
        else:
            with sole_writer(out, option):
                yield True
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror})", remedy) from error


def _agreed(kept: int) -> int:
    """What the main process knows of samples that are there, on all processes."""
    found = [kept]
    broadcast_object_list(found)
    return found[0]


def _adopt(out: Path, part: Path, n: int, source: Source) -> int:
    """Copy to ``part`` the most samples that a run of the same origin left, at most ``n``; how many these are."""
    place = real(out)
    left = list(place.parent.glob(f".{escape(place.name)}.partial-*-*"))
    same = [path for path in left if path.name.startswith(f".{place.name}.partial-{source.origin}-")]
    lines = max(([*_whole_lines(path, n, source)] for path in same), key=len, default=[])
    if lines:
        part.write_bytes(b"".join(lines))
        say(f"{out}: going on with {len(lines):,} of {n:,} samples, which a run that was cut short had drawn")
    if len(left) > len(same):
        say(f"{out}: what runs with other settings, cut short, had drawn lies beside it until it is complete")
    for path in same:
        path.unlink()
    return len(lines)


def _whole_lines(part: Path, n: int, source: Source) -> Iterator[bytes]:
    """The lines up to the first that is damaged, at most ``n``."""
    with part.open("rb") as file:
        for number, line in enumerate(file):
            if number == n or not line.endswith(b"\n"):
                return
            try:
                found = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not source.is_whole(number, found):
                return
            yield line


def _samples_in(part: Path) -> Iterator[Sample]:
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)


@contextmanager
def _told_when_cut_short(out: Path, part: Path, n: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        kept = 0
        with suppress(OSError):  # what ended the block is what counts
            kept = part.read_bytes().count(b"\n")
            if not kept:
                part.unlink()
        rest = f"; {kept:,} of {n:,} samples are kept, and the same command does the rest" if kept else ""
        say(f"{out} is not written, since it is not complete{rest}")
        raise


@contextmanager
def told_when_interrupted(out: Path) -> Iterator[None]:
    """Say that a file is not there where SIGINT or another signal ends the block that writes it as a whole."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(f"{out} is not written, since it is not complete")
        raise
