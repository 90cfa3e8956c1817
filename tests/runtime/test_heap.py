"""Freed memory is kept for the next step, and an environment that tunes the allocator itself is left alone."""

import os
import platform
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another one")

KEPT = """
import ctypes, re
from diladiff_cli.runtime.heap import keep_freed_memory

keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
buffers = [libc.malloc(30 << 20) for _ in range(100)]
for buffer in buffers:
    libc.free(buffer)
print(re.search(r"VmSize:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
FAULTS = """
import resource
from diladiff_cli.runtime.heap import keep_freed_memory

kept = keep_freed_memory() if {keep} else None
def touch():
    return bytearray(24 << 20)
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


UNDONE = """
import resource
from diladiff_cli.runtime.heap import keep_freed_memory, returning_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        bytearray(48 << 20)
        several = [bytearray(24 << 20) for _ in range(4)]
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with returning_freed_memory() as nothing:
    pass
keep_freed_memory()
faults()
kept = faults()
with returning_freed_memory() as undone:
    returned = faults()
faults()
print(nothing, undone, kept, returned, faults())
"""


def faults(keep: bool, **environment: str) -> list[str]:
    """What keep_freed_memory returned, and page faults of eight buffers of 24 MB, one after another."""
    return output(FAULTS.format(keep=keep), **environment).split()


def output(code: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=clean | environment, check=True, stdout=subprocess.PIPE, text=True).stdout


@glibc
def test_buffers_are_reused_without_page_faults() -> None:
    before, after = faults(keep=False), faults(keep=True)
    assert after[0] == "True"
    assert int(after[1]) < int(before[1]) / 20


@glibc
def test_gigabytes_are_kept_too() -> None:
    assert int(output(KEPT)) * 1024 > 100 * (30 << 20)


@glibc
def test_a_program_may_be_measured_as_if_it_did_not_keep_memory() -> None:
    nothing, undone, *found = output(UNDONE).split()
    kept, returned, again = map(int, found)
    assert (nothing, undone) == ("False", "True")
    assert max(kept, again) < 1000
    assert returned > 8 * ((48 + 3 * 24) << 20) / 4096  # of the pages of 48 MB, and of what is above twice 32 MB


@glibc
def test_every_command_asks_for_it() -> None:
    script = """
import diladiff_cli.cli.main as command_line
from diladiff_cli.runtime.heap import returning_freed_memory

def run(_):
    with returning_freed_memory() as kept_before:
        print(kept_before)
    return 0

command_line.run = run
command_line.main()
"""
    assert output(script) == "True\n"


@pytest.mark.parametrize(
    "environment", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}]
)
def test_the_environment_comes_first(environment: dict[str, str]) -> None:
    assert faults(keep=True, **environment)[0] == "False"
