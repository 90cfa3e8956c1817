"""A process with a command of its own, which needs no model and starts quickly."""

import signal
import subprocess
import sys

from ..command_line import environment

TEMPLATE = """
import os, sys, time
from pathlib import Path
from diladiff_cli.cli import main
from diladiff_cli.cli.command import command

@command("try", examples=("try",))
def body():
    "Try."
{body}

body.add_to(main.app)
sys.argv[1:] = {arguments}
main.main()
"""


def start(body: str, arguments: tuple[str, ...] = ("try",), **more: str) -> "subprocess.Popen[str]":
    """The console script with the command ``try``, whose body is given; ``more`` are environment variables."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = TEMPLATE.format(body=lines, arguments=list(arguments))
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | more,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job inherits that it is ignored
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err
