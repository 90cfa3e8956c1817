"""Streams that are closed, and readers that go away: work goes on, and its end is told by the status."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..chain import Chain
from ..command_line import environment

TRAINING = ("train-mdlm", "--width", "16", "--layers", "1", "--heads", "2", "--batch-size", "4", "--log-every", "1")
LONG = ("--max-steps", "1000000", "--eval-every", "0", "--save-every", "0")


def started(*arguments: str | Path, ignored: int = 0) -> subprocess.Popen[str]:
    """A command whose stderr is a pipe, and with its own ways with all signals but one that it is to ignore."""

    def settle_signals() -> None:  # a background job inherits that some are ignored
        for number in (signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number == ignored else signal.SIG_DFL)

    command = [sys.executable, "-m", "diladiff_cli", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(), stderr=pipe, text=True, preexec_fn=settle_signals)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    """Read stderr up to a line with a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"stderr ended without {text}")


def saved_step(folder: Path) -> int:
    return int(json.loads((folder / "state" / "state.json").read_text())["step"])


def test_a_training_whose_reader_goes_away_ends_well(tiny_chain: Chain, tmp_path: Path) -> None:
    process = started(*TRAINING, "--max-steps", "30", "--data", tiny_chain.data, "--out", tmp_path / "m")
    read_until(process, "mdlm 1/30")
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=300) == 0
    assert saved_step(tmp_path / "m") == 30


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
@pytest.mark.parametrize("read", [True, False], ids=["read", "unread"])
def test_a_training_that_is_stopped_saves_whoever_reads(
    tiny_chain: Chain, tmp_path: Path, name: str, read: bool
) -> None:
    number = signal.Signals[name]
    process = started(*TRAINING, *LONG, "--data", tiny_chain.data, "--out", tmp_path / "m")
    read_until(process, "mdlm 1/")
    assert process.stderr is not None
    if not read:
        process.stderr.close()
        time.sleep(0.5)  # for a line that nobody reads
    process.send_signal(number)
    assert process.wait(timeout=300) == 128 + number
    assert saved_step(tmp_path / "m") > 0
    if read:
        told = process.stderr.read()
        process.stderr.close()
        assert f"{name} came: saving and stopping" in told
        assert "Traceback" not in told


def test_a_hangup_that_is_ignored_stays_so(tiny_chain: Chain, tmp_path: Path) -> None:
    arguments = (*TRAINING, "--max-steps", "300", "--data", tiny_chain.data, "--out", tmp_path / "m")
    process = started(*arguments, ignored=signal.SIGHUP)
    read_until(process, "mdlm 1/300")
    process.send_signal(signal.SIGHUP)
    assert process.stderr is not None
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=300) == 0
    assert "SIGHUP" not in told


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_stream_that_is_closed_is_nothing(tiny_chain: Chain, tmp_path: Path, closed: tuple[int, ...]) -> None:
    redirections = " ".join(f"{number}>&-" if number else "<&-" for number in closed)
    arguments = f"sample --model {tiny_chain.mdlm} --n 2 --decode-steps 2 --out {tmp_path / 'samples.jsonl'}"
    command = f"{sys.executable} -m diladiff_cli {arguments} {redirections}"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "")
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == 2
    info = subprocess.run(
        f"{sys.executable} -m diladiff_cli info {tiny_chain.mdlm} {redirections}",
        shell=True,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert info.returncode == 0
    assert "Error" not in info.stderr


def test_text_from_a_closed_standard_input_is_none(tmp_path: Path) -> None:
    command = f"{sys.executable} -m diladiff_cli encode - --tokenizer train:300 --out {tmp_path / 'data'} <&-"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: there is no text in standard input")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_under_stderr_ends_nothing(tiny_chain: Chain, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "diladiff_cli", *TRAINING, "--max-steps", "2", "--data", str(tiny_chain.data)]
    with open("/dev/full", "w") as full:
        status = subprocess.run([*command, "--out", str(tmp_path / "m")], env=environment(), stderr=full, timeout=300)
    assert status.returncode == 0
    assert saved_step(tmp_path / "m") == 2


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_in_a_callback_of_python_is_not_lost(name: str) -> None:
    program = f"""
import signal, time, weakref
from diladiff_cli.cli import main

class Watched:
    pass

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
main.AGAIN = 1.0
main.answer_signals()
watched = Watched()
weak = weakref.ref(watched, lambda _: signal.raise_signal(signal.{name}))
try:
    del watched
    print("an exception of a callback is ignored")
    time.sleep(60)
except (KeyboardInterrupt, SystemExit) as error:
    print(type(error).__name__)
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    raised = "KeyboardInterrupt" if name == "SIGINT" else "Terminated"
    assert done.stdout.splitlines() == ["an exception of a callback is ignored", raised]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("name", "word"),
    [("SIGINT", "interrupted"), ("SIGTERM", "terminated"), ("SIGHUP", "terminated"), ("SIGUSR1", "terminated")],
)
def test_a_file_of_samples_that_is_interrupted_is_said_not_to_be_there(
    tiny_chain: Chain, tmp_path: Path, name: str, word: str
) -> None:
    number = signal.Signals[name]
    arguments = ("sample", "--model", tiny_chain.mdlm, "--n", "1000000", "--out", tmp_path / "samples.jsonl")
    process = started(*arguments)
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(number)
    assert process.stderr is not None
    told = process.stderr.read().splitlines()
    process.stderr.close()
    assert process.wait(timeout=300) == 128 + number
    assert told[-1] == word
    assert told[-2].startswith(f"{tmp_path / 'samples.jsonl'} is not written, since it is not complete")
    left = [file for file in tmp_path.iterdir() if not file.name.endswith(".lock")]
    assert len(left) == ("samples are kept" in told[-2])


def test_other_faults_of_callbacks_are_told_as_ever() -> None:
    program = """
import weakref
from diladiff_cli.cli import main

class Watched:
    pass

main.answer_signals()
watched = Watched()
weak = weakref.ref(watched, lambda _: [][0])
del watched
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert "IndexError" in done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_last_of_stdout_is_written_leaves_nothing_hanging(name: str) -> None:
    """At its very end Python writes what print has kept; a thread that is started then never runs."""
    program = """
import fcntl, os, signal
from diladiff_cli.cli import main

signal.signal(signal.SIGINT, signal.default_int_handler)
main.answer_signals()
os.set_blocking(1, False)
try:
    while True:
        os.write(1, b"." * 4096)  # until the pipe is full
except BlockingIOError:
    os.set_blocking(1, True)
print("kept until the end")
os.write(2, b"ready")
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.read(5)
        time.sleep(1.0)  # for Python to come to its end
        process.send_signal(signal.Signals[name])
        time.sleep(0.2)
        process.stdout.read(1 << 16)
        try:
            assert process.wait(timeout=60) == 120  # of Python, whose last write was cut short
        finally:
            process.kill()
