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
    def error(self) -> str:
        """The only line on stderr that tells of an error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert self.err.splitlines()[-1] == line
        assert "Traceback" not in self.err
        return line


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process, in an empty working folder."""
    for name in ("RANK", "LOCAL_RANK", "DILADIFF_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Runs ``diladiff`` as a process of its own; ``prepare`` is Python that runs there first."""

    def call(*arguments: str | Path, prepare: str = "", stdout: int | None = None) -> Outcome:
        code = f"import sys\n{prepare}\nfrom diladiff_cli.cli.main import main\nmain()"
        left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DILADIFF_DEBUG")
        kept = {k: v for k, v in os.environ.items() if k not in left_out}
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
            env=kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            timeout=600,
        )
        return Outcome(done.returncode, done.stdout or "", done.stderr)

    return call
