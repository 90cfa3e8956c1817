"""Runs in processes of their own: signals, and several processes that share a batch."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from diladiff_cli.runtime.metrics_log import read_metrics

from ..warmed import warm_python

pytestmark = pytest.mark.slow
SCRIPT = str(Path(__file__).with_name("toy_run.py"))


def lines(out: Path, split: str = "train") -> list[dict[str, Any]]:
    timings = {"seconds", "tokens_per_second", "split"}
    found = read_metrics(out / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k not in timings} for line in found if line["split"] == split]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_continues(
    toy: ModuleType, tmp_path: Path, environment: dict[str, str], number: int
) -> None:
    command = [str(warm_python()), SCRIPT, str(tmp_path / "parts"), "{}"]
    process = subprocess.Popen([*command, "--slow"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    for _ in range(4):
        assert process.stdout.readline() == "step\n"
    process.send_signal(number)
    process.communicate(timeout=300)
    assert process.returncode == 128 + number
    step = json.loads((tmp_path / "parts/state/state.json").read_text())["step"]
    assert 4 <= step < 12
    subprocess.run(command, check=True, timeout=300, stdout=subprocess.DEVNULL, env=environment)
    toy.toy_train(toy.settings(), tmp_path / "whole")
    assert lines(tmp_path / "parts") == lines(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("parts", "whole"))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def two_processes(out: Path, environment: dict[str, str], settings: dict[str, Any], *options: str) -> None:
    launched([SCRIPT, str(out), json.dumps(settings), *options], environment | {"PYTHON_EXEC": str(warm_python())})


def launched(script: list[str], environment: dict[str, str]) -> None:
    """Two processes of a script."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *script]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        _, errors = process.communicate(timeout=500)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors[-3000:]


def test_a_group_that_is_kept_does_not_abort_the_process_at_its_end(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import atexit, torch\n"
        "from diladiff_cli.runtime.processes import process_state\n"
        "process_state()\n"
        "torch.kept = torch.distributed.group.WORLD\n"
        "def work():\n"
        "    for _ in range(3):\n"
        "        torch.distributed.all_reduce(torch.zeros(400_000), async_op=True)\n"
        "atexit.register(work)\n"  # before the processes part
    )
    launched([str(script)], environment)


@pytest.mark.parametrize("fast", [0, 1])
def test_processes_on_unlike_processors_agree_on_a_precision(
    tmp_path: Path, environment: dict[str, str], fast: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, torch\n"
        "from diladiff_cli.runtime.precision import precision_of_main\n"
        "rank = int(os.environ['RANK'])\n"
        f"torch.cpu.get_capabilities = lambda: {{'avx512_bf16': rank == {fast}}}\n"
        f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(precision_of_main('auto'))\n"
    )
    launched([str(script)], environment)
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["fp32" if fast else "bf16"] * 2


@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_train_as_one(toy: ModuleType, tmp_path: Path, environment: dict[str, str], parts: int) -> None:
    toy.toy_train(toy.settings(), tmp_path / "one")
    two_processes(tmp_path / "two", environment, {"grad_accum": parts})
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == {name: pytest.approx(value, rel=1e-4) for name, value in theirs.items()}
    moments = [load_file(tmp_path / name / "model.safetensors")["moments.mean"] for name in ("two", "one")]
    torch.testing.assert_close(*moments, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_sharded_weights_train_as_whole_ones_which_go_on_unsharded_and_back(
    toy: ModuleType, tmp_path: Path, environment: dict[str, str], optimizer: str
) -> None:
    two, one = tmp_path / "two", tmp_path / "one"
    two_processes(two, environment, {"optimizer": optimizer, "shard": True, "max_steps": 3})
    toy.toy_train(toy.settings(optimizer=optimizer, max_steps=6), two, True)
    changes = {"optimizer": optimizer, "shard": True, "grad_accum": 2, "max_steps": 9}
    two_processes(two, environment, changes, "--resume")
    for steps in (3, 6, 9):
        toy.toy_train(toy.settings(optimizer=optimizer, max_steps=steps), one, None if steps == 3 else True)
    for ours, theirs in zip(lines(two), lines(one), strict=True):
        assert ours == {name: pytest.approx(value, rel=1e-4) for name, value in theirs.items()}
    for file in ("model.safetensors", "state/state.safetensors"):
        tensors, wanted = load_file(two / file), load_file(one / file)
        assert tensors.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=1e-5)


def test_two_processes_distil_as_one_through_the_jvp(
    toy: ModuleType, tmp_path: Path, environment: dict[str, str]
) -> None:
    """The gradients of a jvp through the wrapper are synchronised: both processes end with the same weights."""
    toy.toy_train(toy.meanflow_settings(), tmp_path / "one")
    two_processes(tmp_path / "two", environment, {}, "--meanflow")
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == {name: pytest.approx(value, rel=1e-3) for name, value in theirs.items()}
    ours, theirs = (load_file(tmp_path / name / "state/state.safetensors") for name in ("two", "one"))
    start = toy.make_run(toy.meanflow_settings(), tmp_path).model.state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)
    moved = max(float((value - theirs[f"model/{name}"]).abs().max()) for name, value in start.items())
    assert moved > 0.01
