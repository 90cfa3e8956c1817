import subprocess
import sys
from pathlib import Path

import pytest

from ..command_line import Cli, Outcome, environment

SCRIPT = Path(sys.executable).with_name("diladiff")


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Runs the console script, ``python -m diladiff_cli`` where none is installed, in an empty working folder."""
    command = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "diladiff_cli"]

    def call(*arguments: str, stdin: str = "", folder: Path = tmp_path) -> Outcome:
        done = subprocess.run(
            [*command, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment(),
            timeout=900,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call
