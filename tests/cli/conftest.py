import subprocess
import sys
from pathlib import Path

import pytest

from ..command_line import Cli, Outcome, environment


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
