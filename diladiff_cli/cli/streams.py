"""The process's own streams: none is missing, and nobody has to read stderr."""

import errno
import io
import os
import sys
from contextlib import suppress

GONE = {errno.EPIPE, errno.EIO}  # whoever read is: a pipe, a terminal


class Unread(io.TextIOWrapper):
    """Stderr, where a writer goes on if nobody reads: what is written then goes nowhere, as on a full disk."""

    def write(self, text: str) -> int:
        """Like a file's, but never fails."""
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Like a file's, but never fails."""
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        if error.errno in GONE:
            discard(self.fileno())


def discard(descriptor: int) -> None:
    """Have what is written to an open descriptor go nowhere from now on."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def settle_streams() -> None:
    """Open what of stdin, stdout and stderr is closed, as nothing, and let no telling on stderr end the work."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "r" if number == 0 else "w"
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)  # takes the lowest number that is free
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115
    with suppress(AttributeError, OSError):  # where a program that calls this has a stderr of its own
        sys.stderr.flush()
        if sys.stderr.fileno() == 2:
            raw = open(2, "wb", closefd=False)  # noqa: SIM115
            sys.stderr = Unread(raw, sys.stderr.encoding, errors="backslashreplace", line_buffering=True)
