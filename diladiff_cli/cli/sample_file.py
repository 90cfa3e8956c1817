"""The file of ``sample --out``: there when it is complete, and gone on with where a run of it was cut short.

What is drawn lies beside it meanwhile, as JSON lines, under a name that says what it is drawn from.
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

from diladiff_cli.cli.output import check_place, write
from diladiff_cli.errors import UserError
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
            write(source.draw(from_main(0)), nowhere)
        return
    with writable(out, "--out") as target:
        if not target.is_regular:
            with out.open("wb") as file:
                samples = source.draw(from_main(0))
                write(texts_of(samples) if as_text else samples, file)
            return
        draft = _Draft(real(out), source, n, target.is_locked)
        with _told_when_cut_short(out, draft):
            kept = draft.begin()
            if kept:
                say(f"{out}: going on with {kept:,} of {n:,} samples, which a run that was cut short had drawn")
            if draft.beyond:
                say(f"{out}: {draft.beyond:,} further samples lie beside it, and are removed once it is complete")
            if draft.of_others():
                say(f"{out}: samples of runs with other settings lie beside it, and are removed once it is complete")
            with draft.file.open("ab") as file:
                write(source.draw(from_main(kept)), file)
            earlier = out.is_file()
            draft.finish(as_text)
        if target.is_locked:  # else another run may be at work on the rest
            remove_leftovers(real(out))
        say(f"{out}: {n} samples" + (", in place of an earlier file" if earlier else ""))


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
        raise UserError(f"cannot write {out} ({error.strerror})", f"choose another {option}") from error


class _Draft:
    """What is drawn of a file's samples, in a file beside it that no other run has.

    A file system without locks lets two runs at once come here, so what others wrote is copied, and left where they may
    be at work.

    Attributes:
        beyond: Samples that an earlier run left beyond those that are asked for.
    """

    def __init__(self, place: Path, source: Source, n: int, is_alone: bool) -> None:
        self.place, self.source, self.n, self.is_alone = place, source, n, is_alone
        self.file = partial_name(place, f"{source.origin}-{uuid.uuid4().hex[:8]}")
        self.is_finished, self.beyond = False, 0

    def begin(self) -> int:
        """Copy the most samples that a run of the same origin left; how many these are."""
        most, best, left = 0, None, self._left(f"{self.source.origin}-*")
        for path in left:
            with suppress(OSError):  # gone meanwhile, or of somebody else
                found = sum(1 for _ in self._whole_lines(path))
                most, best = (found, path) if found > most else (most, best)
                self.beyond = max(self.beyond, path.read_bytes().count(b"\n") - self.n)
        if best is not None:
            with self.file.open("wb") as file:
                file.writelines(self._whole_lines(best))
        for path in left if self.is_alone and not self.beyond else ():
            with suppress(OSError):
                path.unlink()
        return most

    def finish(self, as_text: bool) -> None:
        """Put all samples where they belong."""
        if as_text:
            with replacing_file(self.place) as whole, whole.open("wb") as file:
                write(texts_of(self._samples()), file)
            self.is_finished = True
            self.file.unlink()
        else:
            self.file.replace(self.place)
            self.is_finished = True

    def kept(self) -> int:
        """The most samples of this origin that are there for a later run; an own file with fewer is removed."""
        counts = dict[Path, int]()
        for path in self._left(f"{self.source.origin}-*"):
            with suppress(OSError):
                counts[path] = path.read_bytes().count(b"\n")
        most = min(self.n, max(counts.values(), default=0))
        if counts.get(self.file, 0) < most or not most:
            with suppress(OSError):
                self.file.unlink(missing_ok=True)
        return most

    def of_others(self) -> bool:
        """Whether runs of another origin left samples."""
        return len(self._left("*-*")) > len(self._left(f"{self.source.origin}-*"))

    def _left(self, pattern: str) -> list[Path]:
        found = self.place.parent.glob(f".{escape(self.place.name)}.partial-{pattern}")
        return [path for path in found if path.is_file()]

    def _whole_lines(self, path: Path) -> Iterator[bytes]:
        """The lines up to the first that is damaged, at most as many as there are to be."""
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if number == self.n or not line.endswith(b"\n"):
                    return
                try:
                    found = json.loads(line)
                except (ValueError, RecursionError):
                    return
                if not self.source.is_whole(number, found):
                    return
                yield line

    def _samples(self) -> Iterator[Sample]:
        with self.file.open("rb") as file:
            for line in file:
                yield json.loads(line)


@contextmanager
def _told_when_cut_short(out: Path, draft: _Draft) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if not draft.is_finished:
            kept = draft.kept()
            rest = f"; {kept:,} of {draft.n:,} samples are kept, and the same command does the rest" if kept else ""
            say(f"{out} is not written, since it is not complete{rest}")
        raise
