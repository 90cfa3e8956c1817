"""The scripts in ``examples``, as users run them."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..chain import LENGTH, Chain, write_text
from ..command_line import Cli, environment
from ..real_encoder import encoder_folder, needs_encoder
from ..warmed import warm_python
from .test_pipeline import SETTINGS

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with settings of a tiny chain, and with the console script on the way to commands."""
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    write_text(tmp_path / "text.txt")
    script = tmp_path / "bin" / "diladiff"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {warm_python()} -m diladiff_cli "$@"\n')
    script.chmod(0o755)
    return tmp_path


def script(name: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    whole = environment() | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"} | variables
    command = ["bash", str(EXAMPLES / name)]
    return subprocess.run(command, cwd=folder, env=whole, capture_output=True, text=True, timeout=600)


def python_script(name: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A script whose commands are ``python -m diladiff_cli``."""
    ours = [str(warm_python()), "-m", "diladiff_cli"]
    code = f"import sys; sys.path.insert(0, {str(EXAMPLES)!r}); import {name}; {name}.DILADIFF = {ours}; {name}.main()"
    command = [str(warm_python()), "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600)


def train_demo(folder: Path, minutes: str) -> "subprocess.CompletedProcess[str]":
    return script("train_demo.sh", folder, CONFIG="tiny.toml", MINUTES=minutes)


@pytest.mark.slow
def test_the_quickstart_ends_with_a_table_of_all_models_and_goes_on_where_it_was(warm_shell: Cli, folder: Path) -> None:
    (folder / "quickstart").mkdir()
    data = ["--tokenizer", "train:300", "--length", "32", "--valid-share", "0.3", "--out", "quickstart/data"]
    assert warm_shell("encode", "text.txt", *data).status == 0
    short = dict.fromkeys(("MDLM_STEPS", "AE_STEPS", "PRIOR_STEPS", "STUDENT_STEPS"), "2")
    found = script("quickstart.sh", folder, SAMPLES="4", SCORER="none", CONFIG="tiny.toml", **short)
    assert found.returncode == 0, found.stderr
    points = [json.loads(line) for line in (folder / "quickstart" / "frontier.jsonl").read_text().splitlines()]
    wanted = {(stage, steps) for stage in ("mdlm", "prior", "student") for steps in (4, 8, 16, 32)}
    assert {(point["stage"], point["decode_steps"]) for point in points} == wanted
    assert len(points) == len(wanted)
    rows = [[cell.strip() for cell in line.split("│")] for line in found.stderr.splitlines() if line.startswith("│")]
    assert {row[1] for row in rows} >= {"mdlm", "prior", "student"}
    network = json.loads((folder / "quickstart" / "ckpt" / "prior" / "config.json").read_text())["network"]
    assert f"width = {network['width']}" in SETTINGS  # of CONFIG
    before = {p: p.stat().st_mtime_ns for p in (folder / "quickstart" / "ckpt").rglob("*")}
    table = (folder / "quickstart" / "frontier.jsonl").read_bytes()
    found = script("quickstart.sh", folder, SAMPLES="4", SCORER="none", CONFIG="tiny.toml", **short)
    assert found.returncode == 0, found.stderr
    assert {p: p.stat().st_mtime_ns for p in (folder / "quickstart" / "ckpt").rglob("*")} == before
    assert (folder / "quickstart" / "frontier.jsonl").read_bytes() == table  # all points were kept


@pytest.mark.slow
def test_the_demo_trains_in_pieces_into_a_bundle_that_samples(warm_shell: Cli, folder: Path) -> None:
    (folder / "demo").mkdir()
    assert warm_shell("encode", "text.txt", "--config", "tiny.toml", "--out", "demo/data").status == 0
    found = train_demo(folder, "0")
    assert (found.returncode, found.stderr) == (75, "time is up; the same command goes on\n")
    assert sorted(path.name for path in (folder / "demo").iterdir()) == ["data"]
    for minutes in ("", "9"):  # the student again with a limit
        shutil.rmtree(folder / "demo" / "ckpt" / "student", ignore_errors=True)
        found = train_demo(folder, minutes)
        assert found.returncode == 0, found.stderr
    limits = [
        json.loads((folder / "demo" / "ckpt" / stage / "config.json").read_text())["training"]["max_minutes"]
        for stage in ("mdlm", "student")
    ]
    assert limits[0] == 0 < limits[1] <= 9
    before = {p: p.stat().st_mtime_ns for p in (folder / "demo" / "ckpt").rglob("*")}
    found = train_demo(folder, "9")
    assert found.returncode == 0, found.stderr
    assert {p: p.stat().st_mtime_ns for p in (folder / "demo" / "ckpt").rglob("*")} == before
    drawn = warm_shell("sample", "--model", "demo/bundle", "--n", "2")
    assert (drawn.status, len(drawn.out.splitlines())) == (0, 2), drawn.err


@pytest.mark.slow
def test_ablations_differ_in_one_choice_and_are_made_once(chain_copy: Chain, cli: Cli, tmp_path: Path) -> None:
    latents = chain_copy.root / "latents"
    assert cli("encode", "--ae", chain_copy.ae, "--out", latents, "--precision", "fp32").status == 0
    short = ["--ae-steps", "2", "--prior-steps", "2", "--schedule-steps", "3", "--scorer", "none"]
    short += ["--seeds", "0,1", "--decode-steps", "4"]
    short += ["--chain", str(chain_copy.root), "--out", "ablations"]

    def run(*options: str) -> "subprocess.CompletedProcess[str]":
        return python_script("ablations", tmp_path, *short, *options)

    done = run("--n", "4", "--only", "strong-4x", "d-2")
    assert done.returncode == 0, done.stderr
    assert "$ diladiff train-prior" in done.stderr
    file = tmp_path / "ablations" / "ablations.json"
    found = {result["variant"]: result for result in json.loads(file.read_text())}
    assert {name: result["steps"] for name, result in found.items()} == {
        "strong-4x": {"ae": 2, "prior": 2},
        "d-2": {"ae": 80, "prior": 3},
    }
    assert found["strong-4x"]["network"]["ae"]["encoder"]["latents"] == LENGTH // 4
    assert found["d-2"]["network"]["prior"]["schedule_d"] == 2.0
    assert all(set(result["points"]) == {"ae", "prior"} for result in found.values())
    points = [point for result in found.values() for point in result["points"].values()]
    assert all((point["seeds"], point["decode_steps"]) == ([0, 1], 4) for point in points)
    before = file.read_bytes()
    again = run("--n", "4", "--only", "d-2")
    assert again.returncode == 0
    assert "$ diladiff" not in again.stderr
    other = run("--n", "6", "--only", "d-2")
    assert other.returncode == 1
    assert "holds results with other settings" in other.stderr
    assert file.read_bytes() == before


@pytest.mark.slow
def test_bases_of_other_sizes_are_compared_by_character_and_made_once(tmp_path: Path) -> None:
    tales = (f"Tale {i} of the old {'cat' if i % 3 else 'dog'} that sat by the sea and sang." for i in range(900))
    (tmp_path / "text.txt").write_text("\n\n".join(tales))

    def run(*names: str) -> list[dict[str, Any]]:
        done = python_script("sizes", tmp_path, "--steps", "2", "--text", "text.txt", "--only", *names)
        assert done.returncode == 0, done.stderr
        found: list[dict[str, Any]] = json.loads((tmp_path / "sizes" / "sizes.json").read_text())
        return found

    (short,) = run("length-32")
    again, wide = run("length-32", "width-384")
    assert again == short
    assert (short["length"], short["width"], wide["length"], wide["width"]) == (32, 256, 64, 384)
    assert wide["parameters"] > 1.5 * short["parameters"]
    for r in (short, wide):  # of untrained bases, to which all tokens are alike
        assert r["bits_per_character"] == pytest.approx(
            r["nats_per_token"] / r["characters_per_token"] / math.log(2), rel=1e-6
        )


@pytest.mark.slow
@needs_encoder
def test_the_meaning_of_latents_is_measured(tiny_chain: Chain) -> None:
    # All held-out texts: of few, agreements may tie.
    command = [sys.executable, str(EXAMPLES / "semantics.py"), "--model", str(tiny_chain.ae), "--n", "57"]
    done = subprocess.run(
        [*command, "--embedder", str(encoder_folder())], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    noise = {row["sigma"]: row["agreement"] for row in found["noise"]}
    assert noise[0.0] > noise[1.0]  # a latent says more than noise
    assert all(-1 <= found["decodings"][name] <= 1 for name in ("within", "between"))
    assert all(0 < row["agreement_stderr"] < 0.2 for row in found["noise"])
    ends = found["interpolation"]["steps"][0], found["interpolation"]["steps"][-1]
    assert [step["share"] for step in ends] == [0.0, 1.0]
