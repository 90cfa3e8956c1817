"""What reaches the terminal: data alone on stdout, everything else on stderr, libraries mostly silent."""

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diladiff_cli.cli.streams import discard
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import finite
from diladiff_cli.notes import is_main_process, several_processes
from diladiff_cli.runtime.folders import real

if TYPE_CHECKING:
    from rich.console import RenderableType

# One JSON document, or lines (a mapping becomes a line of JSON), or nothing.
Result = Mapping[str, Any] | Iterable[Mapping[str, Any] | str] | None

QUIET = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DATASETS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TOKENIZERS_PARALLELISM": "true",
}

WIDE = 140
MIN_WIDTH = 20  # columns, fewer than which tables cannot have


class ClosedPipeError(Exception):
    """Whoever read stdout has had enough."""


def connect_processes() -> None:
    """Connect the processes of a run, where there are several, so that each learns when another one ends early."""
    if several_processes():
        from diladiff_cli.runtime.processes import process_state

        process_state()


def check_place(file: Path, option: str) -> None:
    """Refuse a file that cannot be where it is to be written.

    Raises:
        UserError: It is a folder, or there is no folder for it; blames ``option``.
    """
    above = real(file).parent
    if not above.is_dir():
        what = f"there is no folder {above if file.is_symlink() else file.parent}"
    elif file.is_dir():
        what = "it is a folder"
    else:
        return
    raise UserError(f"cannot write {file} ({what})", f"choose another {option}")


def show(table: "RenderableType") -> None:
    """A table on stderr, from the main process alone."""
    from rich.console import Console

    if is_main_process():
        # Into a file or a pipe, nothing says how wide a line may be.
        width = None if sys.stderr.isatty() or "COLUMNS" in os.environ else WIDE
        console = Console(stderr=True, width=width)
        console.width = max(console.width, MIN_WIDTH)
        console.print(table)


def quiet_libraries() -> None:
    """Silence the warnings and progress bars of libraries; before they are imported."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


@contextmanager
def data_stream() -> Iterator[IO[bytes]]:
    """Stdout, for data alone: inside, all other writing to it, by compiled code too, goes to stderr."""
    sys.stdout.flush()
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield stream
    finally:
        os.dup2(stream.fileno(), 1)
        stream.close()


def write(result: Result, stream: IO[bytes]) -> None:
    """Write a command's result as it comes, each line flushed; only the main process writes.

    Raises:
        ClosedPipeError: The reader is gone.
    """
    if result is None:
        return
    for line in [document(result)] if isinstance(result, Mapping) else map(_line, result):
        if is_main_process():
            _write_line(line, stream)


def _write_line(line: str, stream: IO[bytes]) -> None:
    try:
        # A file name may hold bytes that are not text; JSON spells what Python makes of them in the same way.
        stream.write(line.encode(errors="backslashreplace") + b"\n")
        stream.flush()
    except BrokenPipeError as error:
        discard(stream.fileno())  # what is still buffered goes nowhere
        raise ClosedPipeError from error


def _line(value: Mapping[str, Any] | str) -> str:
    return value if isinstance(value, str) else json.dumps(finite(value), ensure_ascii=False)


def document(value: Mapping[str, Any]) -> str:
    """Indented JSON."""
    return json.dumps(finite(value), ensure_ascii=False, indent=2)
