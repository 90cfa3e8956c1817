import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from diladiff_cli.cli.main import run

ROOT = Path(__file__).parents[2]


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


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process, in an empty working folder."""
    for name in ("RANK", "LOCAL_RANK", "DILADIFF_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


def environment() -> dict[str, str]:
    """For subprocesses: one thread, this checkout, and nothing of a surrounding distributed run."""
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DILADIFF_DEBUG", "PYTHONUNBUFFERED")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Runs ``python -m diladiff_cli`` as a process of its own, in an empty working folder."""

    def call(*arguments: str, stdin: str = "", folder: Path = tmp_path) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "diladiff_cli", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(),
            timeout=900,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call
