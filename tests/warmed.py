"""Python with the imports of commands done, which take seconds of each.

A server, ``-m tests.warmed``, imports what commands need but runs none of it: it has one thread and no open file of
theirs. The program that :func:`warm_python` gives hands it its arguments, place, environment and streams. They are run
by a forked child of the server, a process of its own, and the program ends as that does: SIGINT, SIGTERM and SIGHUP are
passed on, and what runs is killed with the program.

What is settled when Python starts or a module is imported is the server's: the seed of hashes, options of Python and
variables that are read then. Tests of that, and of what a command imports, need a fresh process.
"""

import atexit
import gc
import json
import logging
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
IMPORTED = (
    *("diladiff_cli.cli.main", "diladiff_cli.model", "diladiff_cli.stages.encode", "diladiff_cli.stages.export"),
    *("diladiff_cli.stages.encode_latents", "diladiff_cli.stages.train_mdlm", "diladiff_cli.stages.train_ae"),
    *("diladiff_cli.stages.train_prior", "diladiff_cli.stages.distill", "datasets", "safetensors.numpy"),
    *("datasets.packaged_modules.text.text", "transformers.models.auto.tokenization_auto"),
    *("transformers.tokenization_utils_tokenizers", "torch._dynamo", "rich.progress"),
    *("pydantic.fields", "pydantic.types", "pydantic.type_adapter", "annotated_types", "accelerate.tracking"),
    *("diladiff_cli.stages.bench.frontier", "diladiff_cli.stages.bench.picture", "diladiff_cli.stages.info"),
)
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PROGRAM = """#!/bin/sh
exec "{python}" -IS "$0.py" "$@"
"""
CLIENT = """
import json, os, select, signal, socket, sys
# Signals wake the loop through a pipe: a handler alone can miss its turn where a call that waits has just begun.
came, note = os.pipe()
os.set_blocking(note, False)
signal.set_wakeup_fd(note)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: None)
request = {{"arguments": sys.argv[1:], "place": os.getcwd(), "environment": dict(os.environ)}}
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [(json.dumps(request) + "\\n").encode()], [0, 1, 2])
answer, numbers, whole = b"", b"", False
while answer.count(b"\\n") < 2 and not whole:
    ready, _, _ = select.select([server, came], [], [])
    if came in ready:
        numbers += os.read(came, 1 << 10)
    if server in ready:
        part = server.recv(1 << 10)
        answer, whole = answer + part, not part
    if b"\\n" in answer:
        for number in numbers:
            try:
                os.kill(int(answer.split()[0]), number)
            except ProcessLookupError:
                pass  # it has just ended
        numbers = b""
status = int(answer.split()[1]) if answer.count(b"\\n") == 2 else 1
if status < 0:
    if -status != signal.SIGKILL:
        signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def warm_python(*variables: tuple[str, str]) -> Path:
    """A program that runs ``-m MODULE``, ``-c CODE`` or a script with arguments, as Python does.

    Its server is started with the first one, and ends with this process. Where the system is not Linux it is Python
    itself: to fork what has loaded so much is not safe everywhere.

    Args:
        variables: Of the environment, which are read when Python starts or modules are imported.
    """
    if sys.platform != "linux":
        return Path(sys.executable)
    folder = Path(tempfile.mkdtemp(prefix="warm"))  # the path of a socket must be short
    address, program = folder / "socket", folder / "python"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.warmed", str(address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD, **dict(variables)},
    )
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.with_suffix(".py").write_text(CLIENT.format(address=str(address)))
    program.chmod(0o755)
    atexit.register(_stop, server, folder)
    return program


def _stop(server: "subprocess.Popen[bytes]", folder: Path) -> None:
    with suppress(subprocess.TimeoutExpired):
        server.communicate(timeout=10)  # it ends with its stdin
    server.kill()
    server.wait()
    shutil.rmtree(folder, ignore_errors=True)


def warm() -> None:
    """Import what commands need, without the warnings of libraries; to quiet them otherwise is left to commands."""
    from diladiff_cli.cli.output import quiet_libraries

    disabled = logging.root.manager.disable
    with warnings.catch_warnings():
        quiet_libraries()
        for name in IMPORTED:
            import_module(name)
    logging.disable(disabled)


def fork() -> int:
    """``os.fork`` where this process has one thread: a child would lack all others."""
    if os.path.isdir("/proc/self/task"):
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"{threads} threads: a fork would lose all but one"
    return os.fork()


def take_streams(*descriptors: int) -> None:
    """In the child: what a shell would set up as stdin, stdout and stderr."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    sys.stdin = open(0)  # noqa: SIM115 (for the whole life of the process)


def _python(*arguments: str) -> None:
    first, *others = arguments[1:] if arguments[0] == "-u" else arguments
    if first == "-m":
        sys.argv = others
        sys.path.insert(0, os.getcwd())
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *others[1:]]
        exec(others[0], {"__name__": "__main__"})
    else:
        sys.argv = [first, *others]
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


class _Server:
    """Forks a child for each request, answers with its process id and, later, with how it ended."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen()
        self.ended, self.note_end = os.pipe()
        os.set_blocking(self.note_end, False)
        signal.set_wakeup_fd(self.note_end)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.children: dict[int, socket.socket] = {}

    def run(self) -> list[str] | None:
        """Serve until stdin is closed, which is when the tests end; in a child, what it is asked to run."""
        while True:
            with selectors.DefaultSelector() as selector:
                for source in (0, self.listener, self.ended, *self.children.values()):
                    selector.register(source, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select()]
            if self.ended in ready:
                os.read(self.ended, 1 << 10)
                self._answer()
            for pid, connection in self.children.items():
                if connection in ready or 0 in ready:  # its program is gone, or all are
                    os.kill(pid, signal.SIGKILL)
            if 0 in ready:
                return None
            if self.listener in ready:
                connection, _ = self.listener.accept()
                if (asked := self._start(connection)) is not None:
                    return asked

    def _answer(self) -> None:
        for pid in list(self.children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with self.children.pop(pid) as connection, suppress(OSError):
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def _start(self, connection: socket.socket) -> list[str] | None:
        """Fork a child for a request; there, its arguments."""
        request, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        while not request.endswith(b"\n") and (more := connection.recv(1 << 16)):
            request += more  # it ends early where its program is killed, and its child then ends by itself
        pid = fork()
        if pid == 0:
            self._leave_to_parent(connection)
            return _take_over(json.loads(request), streams)
        for descriptor in streams:
            os.close(descriptor)
        self.children[pid] = connection
        with suppress(OSError):  # the program is gone, which is found next
            connection.sendall(f"{pid}\n".encode())
        return None

    def _leave_to_parent(self, connection: socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for parents in (self.listener, connection, *self.children.values()):
            parents.close()
        for descriptor in (self.ended, self.note_end):
            os.close(descriptor)


def _take_over(asked: dict[str, Any], streams: Sequence[int]) -> list[str]:
    """In a child: what a shell and the start of Python would set up; returns the arguments."""
    os.chdir(asked["place"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    take_streams(*streams)
    for descriptor in streams:
        os.close(descriptor)
    np.random.seed()  # else all children would draw the same
    found: list[str] = asked["arguments"]
    return found


if __name__ == "__main__":
    warm()
    gc.freeze()  # or children would take long to look through it all at their end
    server = _Server(sys.argv[1])
    print("ready", flush=True)
    asked = server.run()
    if asked is None:
        shutil.rmtree(Path(sys.argv[1]).parent, ignore_errors=True)
    else:
        _python(*asked)
