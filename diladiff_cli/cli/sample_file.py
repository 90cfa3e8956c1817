"""The file of ``sample --out``: there when it is complete, and gone on with where a run of it was cut short.

What is drawn lies beside it meanwhile, as JSON lines, under a name that tells what it is drawn from.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
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
Draw = Callable[[int], Iterable[Sample]]  # from which number on


def texts_of(samples: Iterable[Sample]) -> Iterator[str]:
    """The texts alone, with a line of dashes between them."""
    for number, found in enumerate(samples):
        if number:
            yield SEPARATOR
        yield found["text"]


def write_samples(draw: Draw, out: Path, n: int, origin: str, as_text: bool) -> None:
    """Write ``n`` samples to a file, but for those that an earlier run of the same origin left behind when it was cut.

    All processes call this; the main one writes.

    Args:
        draw: Samples from a number on.
        out: The file, replaced once all samples are there. A device or pipe is written at once.
        n: How many.
        origin: Name of what the samples depend on, besides their number.
        as_text: Write the texts alone.

    Raises:
        UserError: The file cannot be written, or another run is writing it.
    """
    if not is_main_process():  # its share of the work
        with open(os.devnull, "wb") as nowhere:
            write(draw(_agreed(0)), nowhere)
        return
    with writable(out, "--out") as is_regular:
        if not is_regular:
            with out.open("wb") as file:
                samples = draw(_agreed(0))
                write(texts_of(samples) if as_text else samples, file)
            return
        part = partial_name(out, origin)
        with _told_when_cut_short(out, part, n):
            remove_leftovers(real(out), keep=part)
            kept = _keep_whole_lines(part, n)
            if kept:
                say(f"{out}: going on with {kept:,} of {n:,} samples, which a run that was cut short had drawn")
            with part.open("ab") as file:
                write(draw(_agreed(kept)), file)
            earlier = out.is_file()
            if as_text:
                with replacing_file(out) as whole, whole.open("wb") as file:
                    write(texts_of(_samples_in(part)), file)
                part.unlink()
            else:
                part.replace(real(out))
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


def _samples_in(part: Path) -> Iterator[Sample]:
    with part.open("rb") as file:
        for line in file:
            yield json.loads(line)


def _keep_whole_lines(part: Path, n: int) -> int:
    """Cut a file after its last whole sample, or its ``n``-th; how many are left. Without any it is removed."""
    kept = end = 0
    try:
        with part.open("r+b") as file:
            for line in file:
                if kept == n or not _is_sample(line, kept):
                    break
                kept, end = kept + 1, end + len(line)
            file.truncate(end)
    except FileNotFoundError:
        return 0
    if not kept:
        part.unlink()
    return kept


def _is_sample(line: bytes, number: int) -> bool:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("id") == number and isinstance(found.get("text"), str)


@contextmanager
def _told_when_cut_short(out: Path, part: Path, n: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        kept = _keep_whole_lines(part, n)
        rest = f"; {kept:,} of {n:,} samples are kept, and the same command draws the rest" if kept else ""
        say(f"{out} is not written, since it is not complete{rest}")
        raise
