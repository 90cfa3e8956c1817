"""What the tests of commands share: how they are called, and what they leave behind."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr."""
        return self.err.splitlines()

    @property
    def error(self) -> str:
        """The only line on stderr that tells of an error, the last of all."""
        (line,) = [line for line in self.errors if line.startswith("error: ")]
        assert self.errors[-1] == line
        assert "Traceback" not in self.err
        return line


Cli = Callable[..., Outcome]


def environment() -> dict[str, str]:
    """For subprocesses: one thread, this checkout, and nothing of a surrounding distributed run."""
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DILADIFF_DEBUG", "PYTHONUNBUFFERED")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
