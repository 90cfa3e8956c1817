"""The whole way through the command line, as separate processes."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ..chain import write_text
from ..command_line import Cli, environment

SETTINGS = """
batch_size = 16
warmup_steps = 0
learning_rate = 1e-2
ema_decay = 0.5
precision = "fp32"
eval_batches = 1
log_every = 1
max_steps = 4

[data]
tokenizer = "train:300"
length = 16
valid_share = 0.25

[mdlm]
width = 32
layers = 2
heads = 2

[ae]
latent_width = 8
encoder_layers = 1
decoder_warmup_steps = 0

[prior]
width = 32
layers = 1
heads = 2

[student]
tangent_warmup_steps = 0
"""


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A working folder with a text and the settings of all stages."""
    (tmp_path / "tiny.toml").write_text(SETTINGS)
    write_text(tmp_path / "text.txt")
    return tmp_path


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.slow
def test_the_whole_pipeline_runs_with_short_commands(shell: Cli, prepared: Path) -> None:
    def run(line: str, stdin: str = "") -> str:
        found = shell(*line.split(), stdin=stdin)
        assert found.status == 0, f"{line}: {found.err}"
        assert "Warning" not in found.err, line
        assert "Traceback" not in found.err, line
        return found.out

    for line in (
        "encode text.txt --config tiny.toml",
        "train-mdlm --config tiny.toml",
        "train-ae --config tiny.toml",
        "encode --ae ckpt/ae",
        "train-prior --config tiny.toml --latents latents",
        "distill --config tiny.toml",
    ):
        assert run(line) == "", line
    drawn = run("sample --steps 2 --n 4")
    assert [s["id"] for s in records(drawn)] == [0, 1, 2, 3]
    (report,) = records(run("eval - --scorer none --reference text.txt", drawn))
    assert report["settings"]["model"] == "ckpt/student"
    stages = ["mdlm", "ae", "prior", "student"]
    reports = records(run(f"eval {' '.join(f'ckpt/{stage}' for stage in stages)} --batches 1 --draws 1"))
    assert [report["stage"] for report in reports] == stages
    assert json.loads(run("info ckpt/student"))["training"]["batch_size"] == 16
    assert run("export --precision fp32") == ""
    (prepared / "ckpt").rename(prepared / "elsewhere")
    bundled = records(run("sample --steps 2 --n 4 --model bundle"))
    assert [s["token_ids"] for s in bundled] == [s["token_ids"] for s in records(drawn)]


@pytest.mark.slow
def test_sample_into_a_pipe_that_closes_ends_quietly(warm_shell: Cli, prepared: Path) -> None:
    assert warm_shell("encode", "text.txt", "--config", "tiny.toml").status == 0
    assert warm_shell("train-mdlm", "--config", "tiny.toml", "--max-steps", "1").status == 0
    process = subprocess.run(
        f"{sys.executable} -m diladiff_cli sample --model ckpt/mdlm --n 500 --batch-size 4 | head -n 1; "
        'echo "${PIPESTATUS[0]}"',
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=prepared,
        env=environment(),
        timeout=600,
    )
    first, status = process.stdout.splitlines()
    assert json.loads(first)["id"] == 0
    assert (status, process.stderr) == ("0", "")


@pytest.mark.slow
def test_sigterm_during_training_saves_and_the_same_command_continues(warm_shell: Cli, prepared: Path) -> None:
    assert warm_shell("encode", "text.txt", "--config", "tiny.toml").status == 0
    steps = 800
    arguments = ["train-mdlm", "--config", "tiny.toml", "--max-steps", str(steps), "--save-every", "0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "diladiff_cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=prepared,
        env=environment(),
    )
    log = prepared / "ckpt" / "mdlm" / "metrics.jsonl"
    deadline = time.monotonic() + 600
    while not (log.exists() and log.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert log.read_text().count("\n") >= 5
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=600)
    assert (process.returncode, out) == (143, "")
    saved = json.loads((prepared / "ckpt" / "mdlm" / "config.json").read_text())["progress"]["step"]
    assert 5 <= saved < steps
    assert err.splitlines()[-1] == f"interrupted by SIGTERM, step {saved} is saved; the same command continues"
    continued = warm_shell(*arguments)
    assert (continued.status, continued.out) == (0, "")
    logged = [line["step"] for line in records(log.read_text()) if line["split"] == "train"]
    assert logged == list(range(1, steps + 1))
    finished = warm_shell(*arguments)
    assert finished.status == 0
    assert f"is finished, at step {steps}; --fresh trains it again" in finished.err
    assert finished.errors[-1].endswith(" (explained in ckpt/mdlm/README.md)")
