import subprocess
import sys
from pathlib import Path

import pytest

from ..command_line import Cli, Outcome, environment


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Runs ``diladiff`` as a process of its own; ``prepare`` is Python that runs there first."""

    def call(*arguments: str | Path, prepare: str = "", stdout: int | None = None) -> Outcome:
        code = f"import sys\n{prepare}\nfrom diladiff_cli.cli.main import main\nmain()"
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
            env=environment(),
            timeout=600,
        )
        return Outcome(done.returncode, done.stdout or "", done.stderr)

    return call
