"""What is installed: the console script with the model that ships, and the files of a wheel."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import diladiff_cli

from ..command_line import ROOT, environment

SCRIPT = Path(sys.executable).with_name("diladiff")
ASSETS = Path(diladiff_cli.__file__).parent / "assets"


def call(*arguments: str, folder: Path, stdin: str = "") -> str:
    done = subprocess.run(
        [str(SCRIPT), *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(),
        check=True,
        timeout=900,
    )
    return done.stdout


@pytest.mark.slow
def test_the_console_script_draws_from_the_model_that_ships_and_measures_it(tmp_path: Path) -> None:
    out = call("sample", "--steps", "2", "--n", "64", folder=tmp_path)
    samples = [json.loads(line) for line in out.splitlines()]
    assert [sample["id"] for sample in samples] == list(range(64))
    assert {(sample["stage"], sample["steps"], len(sample["token_ids"])) for sample in samples} == {("student", 2, 64)}
    assert len({sample["text"] for sample in samples}) == 64
    report = json.loads(call("eval", "-", "--scorer", "none", folder=tmp_path, stdin=out))
    assert report["samples"]["n"] == report["reference"]["n"] == 64
    assert abs(report["samples"]["entropy"] - report["reference"]["entropy"]) < 0.2


@pytest.mark.slow
def test_a_wheel_holds_the_code_and_all_that_ships_with_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, timeout=900)
    (wheel,) = tmp_path.glob("diladiff-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    package = ASSETS.parent
    wanted = {p.relative_to(package.parent).as_posix() for p in package.rglob("*") if p.is_file()}
    assert {name for name in wanted if "__pycache__" not in name} == {n for n in held if n.startswith("diladiff_cli/")}


def test_files_that_ship_are_of_modest_size() -> None:
    sizes = [file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()]
    assert max(sizes) < 16_000_000
    assert sum(sizes) < 32_000_000
