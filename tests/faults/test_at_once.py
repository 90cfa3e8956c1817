"""Two commands that would write the same place: the later one is refused, and the earlier one loses nothing."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from diladiff_cli.runtime.locks import sole_writer
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.stages.train_mdlm import train_mdlm

from ..chain import Chain, mdlm_config
from ..command_line import Cli, environment
from ..warmed import warm_python

TEXT = ("{text}", "--tokenizer", "train:300", "--length", "16", "--valid-share", "0.25")
SIZES = ("--width", "16", "--layers", "1", "--heads", "2")
TRAINING = ("--batch-size", "8", "--precision", "fp32", "--warmup-steps", "0", "--eval-every", "0")
FEW = (*TRAINING, "--max-steps", "2")
WRITERS: dict[str, tuple[str, ...]] = {
    "encode": ("encode", *TEXT, "--out"),
    "encode --ae": ("encode", "--ae", "{ae}", "--out"),
    "encode --fresh": ("encode", "--ae", "{ae}", "--fresh", "--out"),
    "train-mdlm": ("train-mdlm", "--data", "{data}", *SIZES, *FEW, "--out"),
    "train-ae": ("train-ae", "--base", "{mdlm}", *FEW, "--out"),
    "train-prior": ("train-prior", "--ae", "{ae}", *SIZES, *FEW, "--out"),
    "distill": ("distill", "--prior", "{prior}", *FEW, "--tangent-warmup-steps", "0", "--out"),
    "export": ("export", "--model", "{student}", "--out"),
    "sample": ("sample", "--model", "{student}", "--n", "2", "--steps", "1", "--out"),
    "sample --trace": ("sample", "--model", "{student}", "--steps", "1", "--trace"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_what_another_command_writes_is_left_alone(name: str, cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    names = {part: getattr(tiny_chain, part) for part in ("text", "data", "mdlm", "ae", "prior", "student")}
    out = tmp_path / "out"
    unfinished = tmp_path / ".out.partial-12345678"  # what the other has written so far
    unfinished.touch()
    command = [word.format(**names) for word in WRITERS[name]]
    refusal = f"error: another run is writing {out}; wait until it ends, or choose another {command[-1]}"
    with sole_writer(out):
        found = cli(*command, out)
        assert (found.status, found.errors) == (1, [refusal])
        assert unfinished.exists()
        assert not out.exists()
        assert cli(*command, out, "--dry-run").status == 0 or name == "export"  # which has none
    assert cli(*command, out).status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with sole_writer(out):  # nothing is concluded from what the other may be changing
        assert cli(*command, out).errors == [refusal]


def test_a_stage_that_is_called_without_its_folder_says_so(tiny_chain: Chain) -> None:
    with pytest.raises(TypeError, match="'out'"):
        train_mdlm(mdlm_config(), data=tiny_chain.data)  # type: ignore[call-arg]


def test_a_training_goes_on_while_the_same_command_is_refused(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "mdlm"
    command = ["train-mdlm", "--data", str(tiny_chain.data), *SIZES, *TRAINING, "--log-every", "1"]
    command += ["--max-steps", "100000", "--out", str(out)]
    python = [str(warm_python()), "-m", "diladiff_cli"]
    with subprocess.Popen([*python, *command], stderr=subprocess.PIPE, text=True, env=environment()) as first:
        try:
            while not (out / "metrics.jsonl").exists():
                assert first.poll() is None
                time.sleep(0.05)
            found = cli(*command)
            assert found.status == 1
            assert found.error.startswith(f"error: another run is writing {out}; ")
            first.send_signal(signal.SIGTERM)
            _, errors = first.communicate(timeout=120)
        finally:
            first.kill()
    assert first.returncode == 128 + signal.SIGTERM, errors
    steps = [line["step"] for line in read_metrics(out / "metrics.jsonl") if line["split"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert json.loads((out / "config.json").read_text())["progress"]["step"] >= len(steps)
    assert [path.name for path in tmp_path.iterdir()] == ["mdlm"]
