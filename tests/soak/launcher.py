"""A warmed process that forks commands of the real command line and kills them at a wanted moment.

Started with ``-m tests.soak.launcher``, and warmed as :mod:`tests.warmed` is. A line of JSON on stdin asks for a
command; its forked child is a process of its own that runs as the console script would, and the launcher, its parent,
sends it SIGKILL. A line of JSON on stdout says how it ended. With arguments it runs them as a command itself, unforked.

Shards are made so small that the tiny data of the tests fill several.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from tests.warmed import ONE_THREAD, fork, take_streams, warm

ROOT = Path(__file__).parents[2]
MODULE = "tests.soak.launcher"
OUT = "out"  # where every command writes, in its working folder
POLL_SECONDS = 0.0002


@dataclass(frozen=True)
class Kill:
    """When to kill: some seconds after the start, or some seconds after the n-th file or folder in the making is seen.

    Attributes:
        seconds: Since the start or since that sight.
        at_save: Which sight, from 1; 0 counts from the start.
    """

    seconds: float
    at_save: int = 0


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        status: Exit status, or minus the signal's number.
        seconds: From the fork to the end.
        saves: How many files or folders in the making were seen.
        longest_save: The longest time, in seconds, that one of them was there.
    """

    status: int
    seconds: float
    saves: int
    longest_save: float


def unfinished(place: Path) -> set[Path]:
    """What is in the making in a working folder, or was left so by a kill."""
    found: set[Path] = set()
    for folder in (place, place / OUT):
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        found |= {folder / name for name in names if name.startswith(".") and (".partial" in name or ".old" in name)}
    return found


class Launcher:
    """The other end: starts the warmed process, and asks it for one command at a time.

    Args:
        home: An empty folder for the caches of libraries.
    """

    def __init__(self, home: Path) -> None:
        self.environment = environment(home)
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )

    def run(
        self, arguments: Sequence[str], place: Path, log: Path, kill: Kill | None = None, two_steps: bool = False
    ) -> Ending:
        """Fork a command and wait for its end.

        Args:
            arguments: What follows ``diladiff`` on the command line.
            place: Working folder.
            log: File that its output is appended to.
            kill: When to kill it; None lets it end.
            two_steps: As where the system cannot swap two folders at once.
        """
        request = {"arguments": list(arguments), "place": str(place), "log": str(log), "two_steps": two_steps}
        line = json.dumps(request | {"kill": asdict(kill) if kill else None})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return Ending(**json.loads(self._process.stdout.readline()))

    def run_alone(self, arguments: Sequence[str], place: Path, log: Path) -> int:
        """Run a command to its end as an ordinary process, unforked; returns its exit status."""
        with log.open("a") as output:
            command = [sys.executable, "-m", MODULE, *arguments]
            environment = self.environment | {"PYTHONPATH": str(ROOT)}
            done = subprocess.run(
                command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            return done.returncode

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait()


def environment(home: Path) -> dict[str, str]:
    """One thread of one CPU process, and caches of its own."""
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DILADIFF_DEBUG")
    kept = {k: v for k, v in os.environ.items() if k not in left_out}
    return kept | ONE_THREAD | {"ACCELERATE_USE_CPU": "true", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


def _warm() -> None:
    warm()
    vars(import_module("diladiff_cli.data.shards"))["SHARD_BYTES"] = 1 << 10


def _become(request: dict[str, Any]) -> NoReturn:
    """In the child: what a shell would set up, then the command."""
    os.chdir(request["place"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    take_streams(nothing, log, log)
    if request["two_steps"]:
        vars(import_module("diladiff_cli.runtime.folders"))["_exchange"] = lambda a, b: False
    try:
        _command(request["arguments"])
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(end.code or 0))  # to take apart all that was imported would take longer than the command


def _command(arguments: list[str]) -> NoReturn:
    from diladiff_cli.cli.main import main

    sys.argv = ["diladiff", *arguments]
    main()


def _watch(pid: int, place: Path, kill: Kill | None) -> Ending:
    """Wait for a child, and kill it when it is time."""
    start = time.monotonic()
    first_seen: dict[Path, float] = dict.fromkeys(unfinished(place), -1.0)  # leftovers of earlier kills
    saves, longest, due = 0, 0.0, None
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        now = time.monotonic()
        if found:
            return Ending(os.waitstatus_to_exitcode(status), now - start, saves, longest)
        there = unfinished(place)
        for path in first_seen.keys() - there:
            began = first_seen.pop(path)
            longest = max(longest, now - began if began >= 0 else 0.0)
        for path in there - first_seen.keys():
            first_seen[path] = now
            saves += 1
        if kill is not None and due is None:
            if kill.at_save == 0:
                due = start + kill.seconds
            elif saves >= kill.at_save:
                due = now + kill.seconds
        if due is not None and now >= due:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return Ending(os.waitstatus_to_exitcode(status), time.monotonic() - start, saves, longest)
        time.sleep(POLL_SECONDS)


def _serve() -> None:
    for line in iter(sys.stdin.readline, ""):
        request = json.loads(line)
        pid = fork()
        if pid == 0:
            _become(request)
        kill = Kill(**request["kill"]) if request["kill"] else None
        print(json.dumps(asdict(_watch(pid, Path(request["place"]), kill))), flush=True)


if __name__ == "__main__":
    _warm()
    if sys.argv[1:]:
        _command(sys.argv[1:])
    _serve()
