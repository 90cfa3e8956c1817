"""Freed memory is kept for the next step, and an environment that tunes the allocator itself is left alone."""

import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")

FAULTS = """
import resource
from diladiff_cli.runtime.heap import keep_freed_memory

kept = keep_freed_memory() if {keep} else None
def touch():
    return bytearray(64 << 20)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool, **environment: str) -> list[str]:
    """What keep_freed_memory returned, and page faults of eight buffers of 64 MB, one after another."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS.format(keep=keep)],
        env=clean | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.split()


@glibc
def test_buffers_are_reused_without_page_faults() -> None:
    before, after = faults(keep=False), faults(keep=True)
    assert after[0] == "True"
    assert int(after[1]) < int(before[1]) / 20


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_the_environment_comes_first(environment: dict[str, str]) -> None:
    assert faults(keep=True, **environment)[0] == "False"
