"""The scripts in ``examples``, as users run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..chain import write_text
from .conftest import Cli, environment
from .test_pipeline import SETTINGS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with settings of a tiny chain, and with the console script on the way to commands."""
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    write_text(tmp_path / "text.txt")
    script = tmp_path / "bin" / "diladiff"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m diladiff_cli "$@"\n')
    script.chmod(0o755)
    return tmp_path


def train_demo(workplace: Path, minutes: str) -> "subprocess.CompletedProcess[str]":
    path = f"{workplace / 'bin'}:{os.environ['PATH']}"
    variables = {"PATH": path, "CONFIG": "tiny.toml", "MINUTES": minutes}
    command = ["bash", str(EXAMPLES / "train_demo.sh")]
    return subprocess.run(
        command, cwd=workplace, env=environment() | variables, capture_output=True, text=True, timeout=600
    )


@pytest.mark.slow
def test_the_demo_trains_in_pieces_into_a_bundle_that_samples(shell: Cli, workplace: Path) -> None:
    (workplace / "demo").mkdir()
    assert shell("encode", "text.txt", "--config", "tiny.toml", "--out", "demo/data").status == 0
    found = train_demo(workplace, "0")
    assert (found.returncode, found.stderr) == (75, "time is up; the same command goes on\n")
    assert sorted(path.name for path in (workplace / "demo").iterdir()) == ["data"]
    found = train_demo(workplace, "9")
    assert found.returncode == 0, found.stderr
    before = {p: p.stat().st_mtime_ns for p in (workplace / "demo" / "ckpt").rglob("*")}
    found = train_demo(workplace, "9")
    assert found.returncode == 0, found.stderr
    assert {p: p.stat().st_mtime_ns for p in (workplace / "demo" / "ckpt").rglob("*")} == before
    drawn = shell("sample", "--model", "demo/bundle", "--n", "2")
    assert (drawn.status, len(drawn.out.splitlines())) == (0, 2), drawn.err
