"""The file of ``sample --out``: there when it is complete, and gone on with where a run of it was cut short.

What is drawn lies beside it meanwhile, as JSON lines, under a name that says what it is drawn from.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diladiff_cli.cli.output import check_place, write
from diladiff_cli.data.lines import chunks
from diladiff_cli.errors import UserError, another_place
from diladiff_cli.notes import is_main_process, say
from diladiff_cli.runtime.folders import partial_name, real, remove_leftovers, replacing_file
from diladiff_cli.runtime.locks import sole_writer
from diladiff_cli.runtime.processes import from_main

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
    for number, sample in enumerate(samples):
        if number:
            yield SEPARATOR
        yield sample["text"]


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
            write(source.draw(from_main(0)), nowhere)
        return
    with writable(out, "--out") as target:
        if not target.is_regular:
            with out.open("wb") as file:
                samples = source.draw(from_main(0))
                write(texts_of(samples) if as_text else samples, file)
            return
        draft = partial_name(out, source.origin if target.is_locked else "")  # unlocked it may be another run's
        with _told_when_cut_short(out, draft, n, target.is_locked):
            drawn = _keep_whole_lines(draft, source)
            kept, more = min(drawn, n), drawn - n
            if kept:
                say(f"{out}: going on with {kept:,} of {n:,} samples, which a run that was cut short had drawn")
            with draft.open("ab") as file:
                write(source.draw(from_main(kept)), file)
            earlier = out.is_file()
            if not as_text and more <= 0:
                draft.replace(real(out))  # which needs no room
            else:
                _write_first(draft, out, n, as_text)
                if more <= 0:
                    draft.unlink()
        if target.is_locked and more <= 0:
            remove_leftovers(real(out))
        say(f"{out}: {n} samples" + (", in place of an earlier file" if earlier else ""))
        if more > 0:
            say(f"{more:,} more that were drawn stay in {draft.name} for the same command with a larger --n")


@dataclass(frozen=True)
class OutputFile:
    """Where a file is to be written.

    Attributes:
        is_regular: It is a regular file or none yet. A device or pipe is nothing that may be replaced.
        is_locked: No other run writes it.
    """

    is_regular: bool
    is_locked: bool


@contextmanager
def writable(out: Path, option: str) -> Iterator[OutputFile]:
    """Have a file for oneself, which the block writes; where it cannot, a UserError blames ``option``."""
    check_place(out, option)
    try:
        if out.exists() and not out.is_file():
            yield OutputFile(False, False)
        else:
            with sole_writer(out, option) as is_locked:
                yield OutputFile(True, is_locked)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror})", another_place(error, option)) from error


def _write_first(draft: Path, out: Path, n: int, as_text: bool) -> None:
    with replacing_file(out) as whole, draft.open("rb") as drawn, whole.open("wb") as file:
        lines = islice(drawn, n)
        if as_text:
            write(texts_of(map(json.loads, lines)), file)
        else:
            file.writelines(lines)


def _keep_whole_lines(draft: Path, source: Source) -> int:
    """Cut a draft off after its last whole sample; how many are left."""
    kept = size = 0
    with draft.open("a+b") as file:
        file.seek(0)
        for line in file:
            try:
                if not line.endswith(b"\n") or not source.is_whole(kept, json.loads(line)):
                    break
            except (ValueError, RecursionError):
                break
            kept, size = kept + 1, size + len(line)
        file.truncate(size)
    return kept


@contextmanager
def _told_when_cut_short(out: Path, draft: Path, n: int, can_go_on: bool) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if draft.exists():  # else all is in place, or nothing was begun
            with draft.open("rb") as file:
                kept = min(n, sum(part.count(b"\n") for part in chunks(file))) if can_go_on else 0
            if not kept:
                draft.unlink()
            rest = f"; {kept:,} of {n:,} samples are kept, and the same command does the rest" if kept else ""
            say(f"{out} is not written, since it is not complete{rest}")
        raise
