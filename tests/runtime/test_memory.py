import sys

import pytest
import torch

from diladiff_cli.runtime import memory
from diladiff_cli.runtime.memory import PeakMemory, available_bytes

CPU = torch.device("cpu")
MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("size", [64, 256])
def test_the_peak_is_what_the_work_takes_at_most(size: int) -> None:
    with PeakMemory(CPU) as peak:
        for share in (1, 4, 2):
            torch.ones(size * MIB // share, dtype=torch.uint8)
    assert peak.bytes is not None
    assert abs(peak.bytes - size * MIB) < 32 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_what_was_taken_before_does_not_count() -> None:
    held = torch.ones(128 * MIB, dtype=torch.uint8)
    with PeakMemory(CPU) as peak:
        torch.ones(16 * MIB, dtype=torch.uint8)
    assert held.all()
    assert peak.bytes is not None
    assert peak.bytes < 64 * MIB


def test_where_the_system_does_not_tell_there_is_no_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(memory, "CLEAR", memory.Path("/proc/none/clear_refs"))
    with PeakMemory(CPU) as peak:
        torch.ones(MIB)
    assert peak.bytes is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how much is free")
def test_available_memory_is_positive() -> None:
    found = available_bytes(CPU)
    assert found is not None
    assert found > MIB
