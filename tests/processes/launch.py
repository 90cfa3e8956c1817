"""Starts the processes of a run, and gathers what they leave behind."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..warmed import warm_python

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("worker.py")
EMULATED = Path(__file__).with_name("emulated.py")  # the worker on another device
SINGLE = Path(__file__).with_name("single.py")  # and on one without double precision
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE = 300.0  # seconds until a test gives a launch up


@dataclass
class Job:
    """A command of :mod:`tests.processes.worker`, with the faults that its processes meet."""

    name: str
    arguments: Sequence[str | Path]
    faults: Sequence[Mapping[str, Any]] = ()

    def described(self) -> dict[str, Any]:
        """As the worker reads it."""
        return {"name": self.name, "arguments": [str(a) for a in self.arguments], "faults": list(self.faults)}


@dataclass
class Launch:
    """What the processes of one launch left behind.

    Attributes:
        folder: Their working folder.
        statuses: Exit status of each process.
        ended: When each ended, in seconds after the first.
    """

    folder: Path
    statuses: list[int]
    ended: list[float] = field(default_factory=list)

    def read(self, name: str, rank: int, ending: str) -> str:
        """A file that a process wrote for a command, empty where it was killed before."""
        path = self.folder / f"{name}-{rank}.{ending}"
        return path.read_text() if path.exists() else ""

    def errors(self, name: str) -> list[str]:
        """Every line that starts as an error does, of all processes."""
        texts = [self.read(name, rank, "err") for rank in range(len(self.statuses))]
        return [line for text in texts for line in text.splitlines() if line.startswith("error:")]


def environment(rank: int = 0, processes: int = 1, port: int = 0) -> dict[str, str]:
    """Of a process of a run: this checkout, one thread, and its place; no GPU."""
    left_out = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "DILADIFF_DEBUG", "ACCELERATE_USE_CPU")
    found = {name: value for name, value in os.environ.items() if name not in left_out}
    found |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "200", "ACCELERATE_USE_CPU": "true"}
    if processes > 1:
        found |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        found |= {"LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    return found


def launch(
    folder: Path,
    processes: int,
    jobs: Sequence[Job],
    bare: bool = False,
    worker: Path = WORKER,
    patience: float = PATIENCE,
    elsewhere: Path | None = None,
    others: Sequence[Job] | None = None,
) -> Launch:
    """Run commands in a row on one or more processes.

    Args:
        folder: Their working folder.
        processes: How many.
        jobs: The commands.
        bare: Let the first process keep the place where they meet, as without a launcher; else it is kept here, as
            torchrun does.
        worker: The script that runs them.
        patience: Seconds until it is given up.
        elsewhere: Working folder of all but the first, if it is another.
        others: Commands of all but the first, if they are others.
    """
    from torch.distributed import TCPStore

    folder.mkdir(parents=True, exist_ok=True)
    described = [json.dumps([job.described() for job in own]) for own in (jobs, others or jobs)]
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    kept_here = {} if bare else {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    port = free_port() if bare else store.port
    running = [
        subprocess.Popen(
            # Orders of sets differ, as without that variable.
            [warm_python(("PYTHONHASHSEED", str(rank))), worker, described[rank > 0]],
            cwd=elsewhere if elsewhere and rank else folder,
            env=environment(rank, processes, port) | kept_here,
        )
        for rank in range(processes)
    ]
    try:
        ended = _wait(running, patience)
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    return Launch(folder, [process.returncode for process in running], [at - min(ended) for at in ended])


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as taken:
        taken.bind(("localhost", 0))
        return int(taken.getsockname()[1])


def _wait(running: "Sequence[subprocess.Popen[bytes]]", patience: float) -> list[float]:
    """When each process ended."""
    ended: dict[int, float] = {}
    deadline = time.monotonic() + patience
    while len(ended) < len(running):
        for rank, process in enumerate(running):
            if rank not in ended and process.poll() is not None:
                ended[rank] = time.monotonic()
        assert time.monotonic() < deadline, f"processes {set(range(len(running))) - set(ended)} did not end"
        time.sleep(0.02)
    return [ended[rank] for rank in range(len(running))]
