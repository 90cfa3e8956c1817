import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType

from diladiff_cli.config import MdlmConfig
from diladiff_cli.runtime.clock import Clock
from diladiff_cli.runtime.session import CutShort, Session, StopRequest
from diladiff_cli.settings import ConfigError


def session(tmp_path: Path, **changes: Any) -> Session:
    values: dict[str, Any] = {"precision": "fp32", "batch_size": 12}
    return Session(MdlmConfig(**values | changes), tmp_path / "out")


@pytest.mark.parametrize("parts", [1, 2, 3, 12])
def test_micro_batches_cover_the_batch_in_order(tmp_path: Path, parts: int) -> None:
    found = session(tmp_path, grad_accum=parts).micro_batches()
    assert len(found) == parts
    assert [place for places in found for place in places] == list(range(12))


@pytest.mark.parametrize("index", [0, 1])
def test_each_process_has_its_share_of_the_batch(tmp_path: Path, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    monkeypatch.setattr("accelerate.Accelerator.process_index", index)
    found = session(tmp_path, grad_accum=2).micro_batches()
    assert found == [[range(3), range(3, 6)], [range(6, 9), range(9, 12)]][index]


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharding_of_other_frameworks_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.distributed_type", DistributedType(kind))
    with pytest.raises(
        ConfigError, match=f"training under {kind} is not supported; launch with --multi_gpu, and use shard"
    ):
        session(tmp_path)


def test_a_batch_that_processes_cannot_share_names_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 8)
    with pytest.raises(ConfigError, match="batch_size 12 is not a multiple of 8 processes times grad_accum 1"):
        session(tmp_path)
    with pytest.raises(ConfigError, match="batch_size 12 is not a multiple of grad_accum 5"):
        session(tmp_path, grad_accum=5)


def test_stages_of_different_precision_follow_one_another_in_one_process(tmp_path: Path) -> None:
    for precision, kind in (("bf16", torch.bfloat16), ("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with session(tmp_path, precision=precision).accelerator.autocast():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind


def test_one_process_agrees_with_itself_and_averages_over_itself(tmp_path: Path) -> None:
    one = session(tmp_path)
    assert one.agree(15) == 15
    assert one.mean_over_processes({"a": torch.tensor(1.5)}) == {"a": 1.5}
    assert one.is_main


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_a_request_and_the_old_handler_comes_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal_number == 0
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    assert signal.getsignal(number) is before


def test_a_signal_ends_what_need_not_be_finished_once() -> None:
    with StopRequest() as stop:
        with pytest.raises(CutShort), torch.no_grad(), stop.at_once():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            finally:
                os.kill(os.getpid(), signal.SIGINT)  # while it is left: only noted
                reached = True
        assert reached
        assert torch.is_grad_enabled()
        assert stop.signal_number == signal.SIGTERM  # the first
        os.kill(os.getpid(), signal.SIGTERM)  # outside: only noted
        with pytest.raises(CutShort), stop.at_once():
            pytest.fail("a signal came before")


def test_a_signal_counts_where_nobody_reads_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> int:
        raise BrokenPipeError

    with StopRequest() as stop:
        monkeypatch.setattr("os.write", gone)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT


def test_the_clock_counts_on_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = Clock(7.0)
    now[0] += 3
    assert (clock.session_seconds(), clock.seconds()) == (3.0, 10.0)
