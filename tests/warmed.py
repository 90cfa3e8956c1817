"""Python with the imports of commands done, which take seconds of each.

A server, ``-m tests.warmed``, imports what commands need but runs none of it: it has one thread and no open file of
theirs. The program that :func:`warm_python` gives hands it its arguments, place, environment and streams. They are run
by a forked child of the server, a process of its own, and the program ends as that does: signals that it gets are
passed on, and one is killed with the other.
"""

import atexit
import json
import os
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
IMPORTED = (
    *("diladiff_cli.cli.main", "diladiff_cli.model", "diladiff_cli.stages.encode", "diladiff_cli.stages.export"),
    *("diladiff_cli.stages.encode_latents", "diladiff_cli.stages.train_mdlm", "diladiff_cli.stages.train_ae"),
    *("diladiff_cli.stages.train_prior", "diladiff_cli.stages.distill", "datasets", "safetensors.numpy"),
    *("datasets.packaged_modules.text.text", "transformers.models.auto.tokenization_auto"),
    *("transformers.tokenization_utils_tokenizers", "torch._dynamo", "rich.progress"),
    *("pydantic.fields", "pydantic.types", "pydantic.type_adapter", "annotated_types", "accelerate.tracking"),
)
FOR_FIGURES = ("diladiff_cli.stages.bench_frontier", "diladiff_cli.stages.bench_picture", "diladiff_cli.stages.info")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
request = {{"arguments": sys.argv[1:], "place": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(server, [(json.dumps(request) + "\\n").encode()], [0, 1, 2])
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
status = int(answers.readline())
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
os._exit(status)
"""


@cache
def warm_python(*variables: tuple[str, str]) -> Path:
    """A program that runs ``-m MODULE``, ``-c CODE`` or a script with arguments, as Python does.

    Its server is started with the first one, and ends with this process.

    Args:
        variables: Of the environment, which modules read when they are imported; the others are the caller's.
    """
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
    program.write_text(PROGRAM.format(python=sys.executable, address=str(address)))
    program.chmod(0o755)
    atexit.register(server.communicate)  # closes stdin, and keeps it open until then
    return program


def warm() -> None:
    """Import what commands need."""
    from diladiff_cli.cli.output import quiet_libraries

    quiet_libraries()
    for name in (*IMPORTED, *FOR_FIGURES):
        import_module(name)


def fork() -> int:
    """Of a process with one thread; the others' work would be lost."""
    if os.path.isdir("/proc/self/task"):
        threads = len(os.listdir("/proc/self/task"))
        assert threads == 1, f"{threads} threads: a fork would lose all but one"
    return os.fork()


def take_streams(*descriptors: int) -> None:
    """In the child: what a shell would set up as stdin, stdout and stderr."""
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
    sys.stdin = open(0)  # noqa: SIM115 (for the whole life of the process)


def run_command(arguments: Sequence[str]) -> None:
    """Run a command as the console script does."""
    from diladiff_cli.cli.main import main

    sys.argv = ["diladiff", *arguments]
    main()


@contextmanager
def leaving() -> Iterator[None]:
    """End the process as Python does, but without taking apart all that was imported, which takes long."""
    status = 0
    try:
        yield
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _python(*arguments: str) -> None:
    first, *others = (argument for argument in arguments if argument != "-u")
    sys.argv = [first, *others]
    if first == "-m":
        sys.argv = others
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        del sys.argv[1]
        exec(others[0], {"__name__": "__main__"})
    else:
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


class _Server:
    """Forks a child for each request, answers with its process id and, later, with how it ended."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(address)
        self.listener.listen()
        self.ended, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self.children: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Serve until stdin is closed, which is when the tests end."""
        while True:
            with selectors.DefaultSelector() as selector:
                for source in (0, self.listener, self.ended, *self.children.values()):
                    selector.register(source, selectors.EVENT_READ)
                ready = [key.fileobj for key, _ in selector.select()]
            if self.ended in ready:
                os.read(self.ended, 1 << 10)
                self._answer()
            if 0 in ready:
                return
            for pid, connection in self.children.items():
                if connection in ready:  # its program is gone
                    os.kill(pid, signal.SIGKILL)
            if self.listener in ready:
                connection, _ = self.listener.accept()
                self._start(connection)

    def _answer(self) -> None:
        for pid in list(self.children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                with self.children.pop(pid) as connection, suppress(OSError):
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def _start(self, connection: socket.socket) -> None:
        request, streams, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        while not request.endswith(b"\n"):
            request += connection.recv(1 << 16)
        pid = fork()
        if pid == 0:
            self._become(json.loads(request), streams)
        for descriptor in streams:
            os.close(descriptor)
        self.children[pid] = connection
        connection.sendall(f"{pid}\n".encode())

    def _become(self, asked: dict[str, Any], streams: Sequence[int]) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.chdir(asked["place"])
        os.environ.clear()
        os.environ.update(asked["environment"])
        take_streams(*streams)
        os.closerange(3, max(streams) + 1)
        with leaving():
            _python(*asked["arguments"])
        raise AssertionError


if __name__ == "__main__":
    warm()
    server = _Server(sys.argv[1])
    print("ready", flush=True)
    server.run()
    shutil.rmtree(Path(sys.argv[1]).parent)
