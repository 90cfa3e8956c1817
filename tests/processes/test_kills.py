"""One process of two is killed: the other ends as well, nothing is torn, and the same command goes on."""

import os
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics

from ..chain import Chain
from .conftest import STEPS, Commands
from .launch import PATIENCE, TORCHRUN, Job, Launch, environment, launch

pytestmark = pytest.mark.slow

SOON = 30.0  # seconds within which the processes that were not killed end
KILLS: dict[str, dict[str, int]] = {
    "main-in-a-step": {"rank": 0, "step": 3},
    "other-in-a-step": {"rank": 1, "step": 3},
    "main-while-saving": {"rank": 0, "save": 2},
    "other-while-saving": {"rank": 1, "save": 2},
    "other-while-encoding": {"rank": 1, "shard": 2},
}
TRAININGS = [name for name, place in KILLS.items() if "shard" not in place]
WITHOUT_LAUNCHER = {"main-in-a-step"}  # so that nobody is left whom the other process could ask what happened
SAVED = {"other-while-saving": 4}  # the step of the checkpoint that is left, where it is not 2
MARK = "DILADIFF_TEST_MARK"


@dataclass(frozen=True)
class Killed:
    """Runs that were killed and went on, beside those that were not."""

    root: Path
    launches: dict[str, Launch]
    saved: dict[str, int]
    again: Launch


@pytest.fixture(scope="module")
def killed(commands: Commands, tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """Trainings of the auto-encoder, whose state holds running statistics besides weights, and stored latents."""
    root = tmp_path_factory.mktemp("killed")

    def job(name: str, faults: Any = ()) -> Job:
        command = commands["ae"] if name in TRAININGS else ["encode", "--ae", tiny_chain.ae]
        saves = ["--save-every", "2"] if name in TRAININGS else []
        return Job(name, [*command, *saves, "--out", root / name], faults)

    launches, saved = {}, {}
    for name, place in KILLS.items():
        faults = [{"kind": "sigkill", **place}]
        launches[name] = launch(root / f"work-{name}", 2, [job(name, faults)], name in WITHOUT_LAUNCHER)
        if name in TRAININGS:
            found = load_artifact(root / name, "ae")
            assert found.state_dict()  # the hashes are right
            saved[name] = found.config["progress"]["step"]
    whole = [Job("ae", [*commands["ae"], "--save-every", "2", "--out", root / "ae"])]
    whole.append(Job("latents", ["encode", "--ae", tiny_chain.ae, "--out", root / "latents"]))
    return Killed(root, launches, saved, launch(root / "work-again", 2, [*whole, *map(job, KILLS)]))


@pytest.mark.parametrize("name", KILLS)
def test_the_other_process_ends_soon_with_one_line(killed: Killed, name: str) -> None:
    found, rank = killed.launches[name], KILLS[name]["rank"]
    assert found.statuses[rank] == -signal.SIGKILL
    assert found.statuses[1 - rank] == 1
    assert found.ended[1 - rank] < SOON
    (line,) = found.errors(name)
    assert line.startswith("error: another process of this run ended or cannot be reached (")
    assert line.endswith("; see what it or its launcher says, then give the same command again")


@pytest.mark.parametrize("name", TRAININGS)
def test_the_last_checkpoint_is_whole(killed: Killed, name: str) -> None:
    assert killed.saved[name] == SAVED.get(name, 2)


@pytest.mark.parametrize("name", TRAININGS)
def test_the_same_command_goes_on_as_if_nothing_had_been(killed: Killed, name: str) -> None:
    assert [killed.again.read(name, rank, "status") for rank in range(2)] == ["0", "0"], killed.again.errors(name)
    begun = killed.again.read(name, 0, "digests").split()[0]
    assert begun == str(killed.saved[name] + 1)
    ours, theirs = killed.root / name, killed.root / "ae"
    for file in ("model.safetensors", "state/state.safetensors"):
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file
    logged = [
        [(line["step"], line["loss"], line["grad_norm"]) for line in lines if line["split"] == "train"]
        for lines in (read_metrics(folder / "metrics.jsonl") for folder in (ours, theirs))
    ]
    assert logged[0] == logged[1]
    assert len(logged[0]) == STEPS
    assert list(killed.root.glob(f".{name}.*")) == []


def test_encoding_goes_on_with_the_shards_that_are_missing(killed: Killed) -> None:
    name = "other-while-encoding"
    assert [killed.again.read(name, rank, "status") for rank in range(2)] == ["0", "0"], killed.again.errors(name)
    ours, theirs = killed.root / name, killed.root / "latents"
    files = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == files
    assert [file for file in files if (ours / file).read_bytes() != (theirs / file).read_bytes()] == []


def marked(mark: str) -> list[int]:
    """Processes whose environment holds a mark."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or is somebody else's
            continue
    return found


def worker(mark: str, rank: int) -> int | None:
    """The process of that rank below a launcher."""
    for number in marked(mark):
        try:
            if f"LOCAL_RANK={rank}\0".encode() in (Path("/proc") / str(number) / "environ").read_bytes():
                return number
        except OSError:
            continue
    return None


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes of a launcher in /proc")
def test_a_launcher_ends_when_one_of_its_processes_is_killed(commands: Commands, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    out = tmp_path / "mdlm"
    arguments = [*commands["mdlm"], "--out", out, "--max-steps", "100000", "--save-every", "20", "--eval-every", "0"]
    process = subprocess.Popen(
        [*TORCHRUN, "-m", "diladiff_cli", *map(str, arguments)],
        cwd=tmp_path,
        env=environment() | {MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (out / "config.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        victim = worker(mark, 1)
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        started = time.monotonic()
        written, errors = process.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - started
    finally:
        for number in marked(mark):
            os.kill(number, signal.SIGKILL)
    assert process.returncode != 0
    assert written == ""
    assert seconds < SOON
    assert marked(mark) == []
    assert len([line for line in errors.splitlines() if line.startswith("error:")]) <= 1
    found = load_artifact(out, "mdlm")
    assert found.config["progress"]["step"] % 20 == 0
    assert found.state_dict()
