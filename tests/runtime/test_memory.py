import mmap
import sys

import pytest
import torch

from diladiff_cli.runtime import memory
from diladiff_cli.runtime.memory import Halving, PeakMemory, available_bytes

CPU = torch.device("cpu")
MIB = 1 << 20


def _take_and_give_back(size: int) -> None:
    """Takes pages from the system itself: what malloc gives back at once depends on what ran before."""
    with mmap.mmap(-1, size) as pages:
        for place in range(0, size, mmap.PAGESIZE):
            pages[place] = 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
@pytest.mark.parametrize("size", [64, 160])
def test_the_peak_is_what_the_work_takes_at_most(size: int) -> None:
    with PeakMemory(CPU) as peak:
        for share in (4, 1, 2):
            _take_and_give_back(size * MIB // share)
    assert peak.bytes is not None
    assert 0.9 * size * MIB < peak.bytes < 1.3 * size * MIB  # all together have 1.75


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


class Scarce:
    """Work that fits as many items as ``room``, and keeps the parts that it was asked for."""

    def __init__(self, room: int, error: Exception | None = None) -> None:
        self.room, self.asked = room, []  # type: ignore[var-annotated]
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def __call__(self, part: range) -> list[int]:
        self.asked.append(len(part))
        if len(part) > self.room:
            raise self.error
        return list(part)


@pytest.mark.parametrize("room", [1, 3, 5, 8, 20])
def test_work_goes_on_in_parts_that_fit_and_nothing_is_lost(room: int, capsys: pytest.CaptureFixture[str]) -> None:
    halving, work = Halving("samples"), Scarce(room)
    found = [item for part in halving(work, range(8, 16)) for item in part]
    assert found == list(range(8, 16))
    told = capsys.readouterr().err.splitlines()
    assert len(told) == sum(asked > room for asked in work.asked)
    assert ("out of memory with 8 samples at once; going on with 4" in told) == (room < 8)


def test_what_did_not_fit_is_not_tried_again() -> None:
    halving, work = Halving("samples"), Scarce(2)
    for start in (0, 8):
        halving(work, range(start, start + 8))
    assert work.asked == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]


def test_a_single_item_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        Halving("samples")(Scarce(0), range(4))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    work = Scarce(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        Halving("samples")(work, range(4))
    assert work.asked == [4]
