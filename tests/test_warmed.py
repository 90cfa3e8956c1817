"""What stands for Python in tests of processes does what Python does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .warmed import warm_python

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="it is Python itself there")]
WAIT = "print('ready', flush=True); time.sleep(100)"


def waiting(code: str) -> "subprocess.Popen[str]":
    """A process that has run some code and waits."""
    command = [str(warm_python()), "-c", f"import os, signal, sys, time; {code}; {WAIT}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_streams_arguments_place_and_environment_are_those_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os, sys\nprint(sys.stdin.read(), sys.argv[1:], os.getcwd(), os.environ['NAME'], __name__)\n"
        "print('wrong', file=sys.stderr)\nsys.exit(3)\n"
    )
    (tmp_path / "place").mkdir()
    done = subprocess.run(
        [str(warm_python()), "../script.py", "-m", "two words"],
        input="given",
        capture_output=True,
        text=True,
        cwd=tmp_path / "place",
        env=os.environ | {"NAME": "a\nb"},
    )
    wanted = f"given ['-m', 'two words'] {tmp_path / 'place'} a\nb __main__\n"
    assert (done.returncode, done.stdout, done.stderr) == (3, wanted, "wrong\n")


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("pass", 0, ""),
        ("sys.exit('gone')", 1, "gone\n"),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'\n"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt\n"),
        ("import atexit; atexit.register(os.abort)", -signal.SIGABRT, ""),
        ("import warnings; warnings.warn('odd')", 0, "UserWarning: odd\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_the_code_does(code: str, status: int, told: str) -> None:
    done = subprocess.run([str(warm_python()), "-c", f"import os, signal, sys; {code}"], capture_output=True, text=True)
    assert done.returncode == status
    assert told in done.stderr


def test_variables_that_count_at_the_start_are_those_of_the_server() -> None:
    command = ["-c", "print(hash('word'))"]
    one, same, other, real = (
        subprocess.run([python, *command], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        for python, seed in (
            (warm_python(("PYTHONHASHSEED", "0")), "2"),
            (warm_python(("PYTHONHASHSEED", "0")), "3"),
            (warm_python(("PYTHONHASHSEED", "1")), "0"),
            (sys.executable, "0"),
        )
    )
    assert one.stdout == same.stdout == real.stdout != other.stdout


def test_what_draws_without_a_seed_differs() -> None:
    command = [str(warm_python()), "-c", "import numpy; print(numpy.random.bytes(8))"]
    found = {subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2)}
    assert len(found) == 2


WHOLE = {"arguments": ["-c", "pass"], "place": "/", "environment": {}}


@pytest.mark.parametrize("request_sent", ['{"arguments": ', json.dumps(WHOLE) + "\n"], ids=["half", "whole"])
def test_the_server_outlives_a_program_that_is_killed_while_it_asks(request_sent: str) -> None:
    with socket.socket(socket.AF_UNIX) as killed, open(os.devnull, "r+b") as nothing:
        killed.connect(str(warm_python().with_name("socket")))
        socket.send_fds(killed, [request_sent.encode()], [nothing.fileno()] * 3)
    done = subprocess.run([str(warm_python()), "-c", "print('on')"], capture_output=True, text=True, timeout=60)
    assert done.stdout == "on\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_passed_on(number: signal.Signals) -> None:
    process = waiting(f"signal.signal({number.value}, lambda *_: sys.exit(5))")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 5


def test_what_runs_is_killed_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    process = waiting(f"open({str(file)!r}, 'w').write(str(os.getpid()))")
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 60
    while is_running(int(file.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)
