import subprocess
import sys
from pathlib import Path

import pytest

from ..command_line import Cli, Outcome, environment
from ..warmed import warm_python

SCRIPT = Path(sys.executable).with_name("diladiff")


@pytest.fixture
def shell(tmp_path: Path) -> Cli:
    """Runs the console script, ``python -m diladiff_cli`` where none is installed, in an empty working folder."""
    return _processes([str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "diladiff_cli"], tmp_path)


@pytest.fixture
def warm_shell(tmp_path: Path) -> Cli:
    """The same without the time that imports take, see :mod:`tests.warmed`."""
    return _processes([str(warm_python()), "-m", "diladiff_cli"], tmp_path)


def _processes(command: list[str], place: Path) -> Cli:
    def call(*arguments: str, stdin: str = "", folder: Path = place) -> Outcome:
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
