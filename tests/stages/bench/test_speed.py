"""``bench --speed`` from Python: what is measured is what it says; how fast it is, is no test."""

import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from diladiff_cli.config import BenchConfig
from diladiff_cli.core.times import sampling_grid
from diladiff_cli.core.unmask import Decoding, unmask
from diladiff_cli.runtime.memory import PeakMemory
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.bench import speed as module
from diladiff_cli.stages.bench import steps as steps_module
from diladiff_cli.stages.bench import timing
from diladiff_cli.stages.bench.speed import bench_speed
from diladiff_cli.stages.bench.steps import Setting, Window
from diladiff_cli.stages.bench.tables import speed_table

CPU = torch.device("cpu")
SMALL = BenchConfig(
    vocab_sizes="50,70", lengths="8", batch_sizes="1,3", width=16, layers=1, seconds=0.05, precision="fp32"
)
SETTING = Setting(vocab_size=50, length=64, batch_size=40, decode_steps=16, top_p=1.0)


def test_every_combination_is_measured_once_and_steps_beyond_the_length_are_not() -> None:
    reports = list(bench_speed(SMALL))
    names = ("vocab_size", "length", "batch_size", "decode_steps", "top_p")
    found = [tuple(r[name] for name in names) for r in reports]
    assert sorted(found) == sorted((k, 8, b, 8, p) for k in (50, 70) for b in (1, 3) for p in (1.0, 0.9))
    for r in reports:
        assert r["seconds"]["ours"] > 0
        assert r["tokens_per_second"] == pytest.approx(r["batch_size"] * 8 / (r["seconds"]["ours"] * 8))
        assert r["speedup_over_textbook"] > 0
        assert (r["ratio_to_first_vocabulary"] is None) is (r["vocab_size"] == 50)
        assert r["speedup_over_textbook_default_heap"] is None  # nothing asked this process to keep freed memory
    assert speed_table(reports).row_count == len(reports)


def test_the_textbook_sampler_is_measured_as_others_run_it_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "returning_freed_memory", lambda: nullcontext(True))
    monkeypatch.setattr(module, "ALWAYS_RETURNED", 8 * 3 * 8 * 50 - 1)  # bytes of the logits
    config = BenchConfig(**SMALL.to_dict() | {"vocab_sizes": "50"})
    reports = list(bench_speed(config))
    for r in reports:
        found = r["seconds"]["textbook_default_heap"]
        wanted = found / r["seconds"]["ours"] if r["batch_size"] == 3 else None
        assert r["speedup_over_textbook_default_heap"] == wanted
        assert (wanted is None) is (found is None)
        r["speedup_over_textbook_default_heap"] = 123.4
    console = Console(file=io.StringIO(), width=200)
    console.print(speed_table(reports))
    assert "with default heap" in console.file.getvalue()  # type: ignore[attr-defined]
    assert console.file.getvalue().count("123.4") == len(reports)  # type: ignore[attr-defined]


def test_a_step_of_the_textbook_sampler_is_timed_more_than_once_where_there_is_time() -> None:
    for limit, times in ((0.01, 1), (60.0, timing.ROUNDS)):
        config = BenchConfig(**SMALL.to_dict() | {"vocab_sizes": "5000", "batch_sizes": "8", "seconds": limit})
        assert [r["textbook_steps_measured"] for r in bench_speed(config)] == [times, times]


def test_all_that_is_measured_runs_on_compiled_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int] | None] = []  # shapes of the places in the last block
    peaks: list[int] = []  # calls before each measurement of memory

    def compiler(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
        def noted(x_t: Tensor, caches: Any = None, at: Tensor | None = None) -> Tensor:
            calls.append(None if at is None else (at.shape[0], at.shape[1]))
            result: Tensor = function(x_t, caches, at)
            return result

        return noted

    def peak(device: torch.device) -> PeakMemory:
        peaks.append(len(calls))
        return PeakMemory(device)

    monkeypatch.setattr(torch, "compile", compiler)
    monkeypatch.setattr(module, "PeakMemory", peak)
    config = replace(SMALL, vocab_sizes="50", batch_sizes="3", top_p=1.0, compile=True)
    (report,) = bench_speed(config)
    assert report["compiled"]
    ours, rest = calls[: peaks[0]], calls[peaks[0] :]
    assert any(ours)  # once before, so that compiling is not part of it
    assert [at for at in ours if at] == [at for at in rest if at][: sum(map(bool, ours))]
    assert rest.count(None) > ours.count(None)  # floor and textbook
    assert not next(bench_speed(replace(config, compile=False)))["compiled"]


def test_a_textbook_sampler_that_would_not_fit_into_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "available_bytes", lambda _: 8 * 3 * 8 * 50)
    for r in bench_speed(SMALL):
        assert r["seconds"]["textbook"] is None
        assert r["speedup_over_textbook"] is None
        assert r["textbook_steps_measured"] == 0
        assert r["ratio_to_floor"] > 0


@pytest.mark.parametrize("steps", [1, 5, 16])
def test_a_window_holds_the_steps_in_the_middle_of_a_generation(steps: int) -> None:
    window, asked = Window.of(SETTING, steps, 0, CPU), []
    assert window.times == sampling_grid(16).tolist()[(16 - steps) // 2 :][: steps + 1]
    masked = (window.x == 0).float().mean()
    assert float(masked) == pytest.approx(window.times[0], abs=0.05)

    def body(x_t: torch.Tensor, rows: torch.Tensor, select: torch.Tensor) -> torch.Tensor:
        asked.append(len(rows))
        return torch.zeros(int(select.sum()), 50).index_fill(-1, torch.tensor([0]), -torch.inf)

    uniform = torch.rand(window.x.shape, dtype=torch.float64)
    done = unmask(body, lambda hidden: hidden, window.x, 0, window.reveal_times, uniform, Decoding(16))
    assert len(asked) == steps
    assert min(asked) > 30
    assert float((done == 0).float().mean()) == pytest.approx(window.times[-1], abs=0.05)


def test_vocabularies_are_timed_in_turn_and_compared_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    order = count(1)
    limits: list[int] = [3, 5]  # of the first row and, were it asked again, of the second
    monkeypatch.setattr(module, "steps_within", lambda *_: limits.pop(0))
    monkeypatch.setattr(module, "seconds", lambda work, device: float(next(order)))
    monkeypatch.setattr(module, "textbook_step", lambda *_: None)
    first, second = bench_speed(replace(SMALL, batch_sizes="1", decode_steps="8", top_p=1.0))
    assert (first["steps_measured"], second["steps_measured"]) == (3, 3)
    assert (first["seconds"]["floor"], first["seconds"]["ours"]) == (5 / 3, 6 / 3)
    assert (second["seconds"]["floor"], second["seconds"]["ours"]) == (7 / 3, 8 / 3)
    assert second["ratio_to_floor"] == 8 / 7
    assert (first["ratio_to_first_vocabulary"], second["ratio_to_first_vocabulary"]) == (None, 8 / 6)


def test_memory_is_that_of_a_second_call(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def peak(device: torch.device) -> PeakMemory:
        events.append("peak")
        return PeakMemory(device)

    monkeypatch.setattr(module, "PeakMemory", peak)
    monkeypatch.setattr(steps_module, "unmask", lambda *_: events.append("ours"))
    next(bench_speed(replace(SMALL, vocab_sizes="50", batch_sizes="1", decode_steps="8", top_p=1.0)))
    assert events[:3] == ["ours", "peak", "ours"]


def test_a_length_without_any_number_of_steps_is_refused() -> None:
    config = BenchConfig(**SMALL.to_dict() | {"decode_steps": "16,32"})
    with pytest.raises(ConfigError, match="decode_steps 16,32 has none up to length 8; give smaller ones"):
        list(bench_speed(config))


@pytest.mark.parametrize(("name", "value"), [("seeds", "inf"), ("temperatures", "nan"), ("steps", "1e400")])
def test_numbers_of_lists_are_finite(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match="separated by commas"):
        BenchConfig(**{name: value})


def test_memory_that_is_short_all_the_same_leaves_the_textbook_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object) -> None:
        raise torch.OutOfMemoryError("short")

    monkeypatch.setattr(steps_module, "textbook_unmask", short)
    for r in bench_speed(SMALL):
        assert r["seconds"]["textbook"] is None
        assert r["peak_megabytes"]["textbook"] is None
