"""Threads that wait leave their core to other programs soon, unless the environment says how they wait."""

import os
import subprocess
import sys

import pytest

from diladiff_cli.runtime.threads import CHOSEN, SPINS

# What the console script asks for, and whether it does so before torch is imported.
ASKED = """
import os, sys
import diladiff_cli.cli.main as command_line

def run(_):
    print(os.environ.get("GOMP_SPINCOUNT"), "torch" in sys.modules)
    {also}
    return 0

command_line.run = run
command_line.main()
"""


def asked(also: str = "", **chosen: str) -> tuple[str, str]:
    """Stdout and stderr of :data:`ASKED` in an environment that chooses so."""
    kept = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    command = [sys.executable, "-c", ASKED.format(also=also)]
    done = subprocess.run(command, env=kept | chosen, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout, done.stderr


def test_the_console_script_asks_for_short_waits_before_torch_is_imported() -> None:
    assert asked()[0] == f"{SPINS} False\n"


@pytest.mark.skipif(sys.platform != "linux", reason="torch computes with GNU's OpenMP on Linux alone")
def test_torch_waits_as_asked() -> None:
    said = asked(also='__import__("torch")', OMP_DISPLAY_ENV="verbose")[1]
    assert f"GOMP_SPINCOUNT = '{SPINS}'" in said


@pytest.mark.parametrize(
    ("chosen", "left"), [({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")], ids=str
)
def test_what_the_environment_chooses_stays(chosen: dict[str, str], left: str) -> None:
    assert asked(**chosen)[0] == f"{left} False\n"
