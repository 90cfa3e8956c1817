"""The rate of training, on a clock that is set by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor, nn

from diladiff_cli.runtime import clock as module
from diladiff_cli.runtime import loop
from diladiff_cli.runtime.clock import Clock, TokenRate
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.randomness import BatchRng

from . import toy_run


class Hands:
    """Seconds that pass when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))


def test_a_run_that_goes_on_counts_the_seconds_before(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    clock = Clock(before=50.0)
    hands.now += 8
    assert (clock.seconds(), clock.session_seconds()) == (58.0, 8.0)


def test_the_rate_counts_from_its_last_start(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = Hands(monkeypatch)
    rate = TokenRate(Clock(before=50.0))
    for _ in range(3):
        hands.now += 2
        rate.add(10)
    assert rate.per_second() == 5.0
    rate.restart()
    hands.now += 2
    rate.add(30)
    assert rate.per_second() == 15.0


def test_validations_and_checkpoints_do_not_count_in_the_rate_that_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = Hands(monkeypatch)

    def step(model: nn.Module, x: Tensor, rng: BatchRng) -> Any:
        hands.now += 2.0 if rng.step < 6 else 4.0
        return toy_run.toy_loss(model, x, rng)

    def validate(model: nn.Module) -> dict[str, Any]:
        hands.now += 1000.0
        return toy_run.validate(model)

    def save(run: loop._Loop) -> None:
        hands.now += 1000.0
        original(run)

    original = loop._Loop._save
    monkeypatch.setattr(loop._Loop, "_save", save)
    config = toy_run.settings(max_steps=12, log_every=2, eval_every=4, save_every=5)
    toy_run.toy_train(config, tmp_path / "out", loss_fn=step, validate=validate)
    lines = [line for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if line["split"] == "train"]
    assert [line["tokens_per_second"] for line in lines] == [8 * 3 / 2] * 3 + [8 * 3 / 4] * 3
    assert lines[-1]["seconds"] == 6 * 2 + 6 * 4 + 2 * 1000 + 2 * 1000  # those at the end come after
