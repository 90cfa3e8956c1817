"""The training part of ``bench --speed``: every stage really learns what it is timed on."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.stages.bench.tables import training_table
from diladiff_cli.stages.bench.training import MASK, Work, _stepper, bench_training, plain_loss, works

from ...command_line import environment

CPU = torch.device("cpu")
SMALL = BenchConfig(
    vocab_sizes="50,70", lengths="8", batch_sizes="1,3", width=16, layers=2, seconds=0.01, precision="fp32"
)
STAGES = ["train-mdlm", "train-ae", "train-prior", "distill"]


def all_works() -> dict[str, Work]:
    return {work.stage: work for work in works(SMALL, 50, 8, 3, CPU)}


def test_every_stage_is_measured_for_each_vocabulary() -> None:
    reports = list(bench_training(SMALL))
    assert [(r["vocab_size"], r["stage"]) for r in reports] == [(k, s) for k in (50, 70) for s in STAGES]
    for r in reports:
        assert r["batch_size"] == 3
        assert r["tokens_per_second"] > 0
        assert r["share_of_matmul"] > 0
        assert ("speedup_over_plain" in r) == (r["stage"] == "train-mdlm")
    assert training_table(reports).row_count == len(reports)


def test_what_each_stage_compiles_is_compiled_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, calls = list[str](), Counter[str]()

    def compiler(function: Any, **_: Any) -> Any:
        assert function.__name__ != "noted"
        name = f"{type(function.__self__).__name__}.{function.__name__}"
        compiled.append(name)

        @wraps(function)
        def noted(*inputs: Any, **named: Any) -> Any:
            calls[name] += 1
            return function(*inputs, **named)

        noted.__name__ = "noted"
        return noted

    monkeypatch.setattr(torch, "compile", compiler)
    reports = list(bench_training(replace(SMALL, vocab_sizes="50", compile=True)))
    assert [r["compiled"] for r in reports] == [True] * len(STAGES)
    trunk = "LatentTrunk.forward"
    wanted = ["TokenDenoiser.body", "TokenDenoiser.body", trunk, trunk, trunk, "LatentStudent.along_ode"]
    assert compiled == wanted
    assert set(calls) == set(wanted)
    compiled.clear()
    list(bench_training(replace(SMALL, vocab_sizes="50")))
    assert compiled == []


def test_the_share_of_a_known_peak_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diladiff_cli.stages.bench.training.matmul_rate", lambda *_: 5e9)
    monkeypatch.setattr("diladiff_cli.stages.bench.training.peak_flops", lambda device: 1e10)
    reports = list(bench_training(replace(SMALL, vocab_sizes="50")))
    for r in reports:
        assert r["mfu"] == pytest.approx(r["share_of_matmul"] / 2)
    (column,) = [column for column in training_table(reports).columns if column.header == "MFU"]
    assert list(column.cells) == [f"{r['mfu']:.1%}" for r in reports]


PEAK = """
import torch
from diladiff_cli.config import BenchConfig
from diladiff_cli.runtime.memory import PeakMemory
from diladiff_cli.stages.bench.training import _stepper, works
cpu = torch.device("cpu")
work = next(works(BenchConfig(width=16, layers=1), {vocab_size}, {length}, 8, cpu))
with PeakMemory(cpu) as memory:
    _stepper(work, work.loss_fn, "fp32", cpu)()
print(memory.bytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is known on Linux alone")
def test_memory_of_training_does_not_grow_with_vocabulary_times_length() -> None:
    def peak(vocab_size: int, length: int) -> int:
        code = PEAK.format(vocab_size=vocab_size, length=length)
        command = [sys.executable, "-c", code]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
        return int(found.stdout)

    logits = 4 * 30_000 * 8 * 512  # bytes of those that twice the length has more, half of them masked
    assert peak(30_000, 2048) - peak(30_000, 1024) < logits / 4


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_moves_the_weights(stage: str) -> None:
    work = all_works()[stage]
    before = {name: value.clone() for name, value in work.model.named_parameters() if value.requires_grad}
    step = _stepper(work, work.loss_fn, "fp32", CPU)
    step()
    step()  # layers behind a zero-initialised one move second
    moved = [name for name, value in before.items() if not torch.equal(value, work.model.get_parameter(name))]
    assert len(moved) > len(before) / 2


def test_the_plain_loss_is_that_of_the_stage() -> None:
    work = all_works()["train-mdlm"]
    found = [loss(work.model, work.batch, BatchRng(0, 1, range(3), 3, CPU))[0] for loss in (work.loss_fn, plain_loss)]
    torch.testing.assert_close(*found)
    assert not (work.batch == MASK).any()
