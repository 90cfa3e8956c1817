import json
import os
import signal
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.session import Interrupted

from .runs import StopAt, assert_same_run, lines


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_continues_to_the_bits_of_an_uninterrupted_one(
    toy: ModuleType, tmp_path: Path, optimizer: str, number: int
) -> None:
    config = toy.settings(optimizer=optimizer)
    toy.toy_train(config, tmp_path / "whole")
    for step in (2, 7):
        with pytest.raises(Interrupted, match=f"step {step} is saved") as caught:
            toy.toy_train(config, tmp_path / "parts", loss_fn=StopAt(toy, step, number))
        assert caught.value.signal_number == number
    assert json.loads((tmp_path / "parts/state/state.json").read_text())["step"] == 7
    assert toy.toy_train(config, tmp_path / "parts")["step"] == 12
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_second_signal_is_answered_and_loses_nothing(
    toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = StopAt(toy, 2, signal.SIGINT)

    def twice(model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        if rng.step + 1 == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return first(model, x, rng)

    toy.toy_train(toy.settings(), tmp_path / "whole")
    capfd.readouterr()
    with pytest.raises(Interrupted, match="step 2 is saved") as caught:
        toy.toy_train(toy.settings(), tmp_path / "parts", loss_fn=twice)
    assert caught.value.signal_number == signal.SIGTERM
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("SIG")]
    assert told == ["SIGTERM came: saving and stopping", "SIGINT came too: still saving"]
    toy.toy_train(toy.settings(), tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


class CutIn:
    """The toy's validation, the given one of which, from 1 on, sends SIGTERM and hangs."""

    def __init__(self, toy: ModuleType, number: int) -> None:
        self.toy, self.number, self.calls = toy, number, 0

    def __call__(self, model: torch.nn.Module) -> dict[str, Any]:
        self.calls += 1
        if self.calls == self.number:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
            raise AssertionError("the signal should have ended this")
        found: dict[str, Any] = self.toy.validate(model)
        return found


@pytest.mark.parametrize(("number", "step"), [(1, 4), (2, 8), (3, 12)], ids=["first", "second", "last"])
def test_a_signal_ends_a_validation_at_once_and_the_run_that_goes_on_begins_with_it(
    toy: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str], number: int, step: int
) -> None:
    config = toy.settings(eval_every=4, save_every=0)
    toy.toy_train(config, tmp_path / "whole")
    with pytest.raises(Interrupted, match=f"step {step} is saved"):
        toy.toy_train(config, tmp_path / "parts", validate=CutIn(toy, number))
    assert "SIGTERM came: saving and stopping" in capfd.readouterr().err
    assert lines(tmp_path / "parts", "valid") == lines(tmp_path / "whole", "valid")[: number - 1]
    assert toy.toy_train(config, tmp_path / "parts")["step"] == 12
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    validation = [load_artifact(tmp_path / name).config["progress"]["validation"] for name in ("whole", "parts")]
    assert validation[0] == validation[1]


def test_a_signal_in_the_last_step_leaves_the_last_validation_to_the_run_that_goes_on(
    toy: ModuleType, tmp_path: Path
) -> None:
    toy.toy_train(toy.settings(), tmp_path / "whole")
    with pytest.raises(Interrupted, match="step 12 is saved"):
        toy.toy_train(toy.settings(), tmp_path / "parts", loss_fn=StopAt(toy, 12, signal.SIGINT))
    toy.toy_train(toy.settings(), tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_an_owed_validation_is_logged_once_though_the_run_dies_after_it(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings(eval_every=4, save_every=0)
    toy.toy_train(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        toy.toy_train(config, tmp_path / "parts", validate=CutIn(toy, 1))

    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        toy.toy_train(config, tmp_path / "parts", loss_fn=killed)
    assert [line["step"] for line in lines(tmp_path / "parts", "valid")] == [4]
    toy.toy_train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_that_owes_its_last_validation_is_not_finished(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="step 12 is saved"):
        toy.toy_train(toy.settings(eval_every=0), tmp_path / "run", validate=CutIn(toy, 1))
    progress = load_artifact(tmp_path / "run").config["progress"]
    assert (progress["step"], progress["validated_step"], progress["validation"]) == (12, 0, {})
    with pytest.raises(UserError, match="is at step 12, beyond --max-steps 8"):
        toy.toy_train(toy.settings(max_steps=8), tmp_path / "run", resume=True)
    assert "loss" in toy.toy_train(toy.settings(eval_every=0), tmp_path / "run")
    assert load_artifact(tmp_path / "run").config["progress"]["validated_step"] == 12


def test_the_rate_of_a_run_that_begins_with_a_validation_leaves_its_time_out(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings(eval_every=4, save_every=0, log_every=1)
    with pytest.raises(Interrupted):
        toy.toy_train(config, tmp_path / "run", validate=CutIn(toy, 1))

    def slow(model: torch.nn.Module) -> Any:
        time.sleep(1.0)
        return toy.validate(model)

    toy.toy_train(config, tmp_path / "run", validate=slow)
    line = next(x for x in read_metrics(tmp_path / "run" / "metrics.jsonl") if (x["step"], x["split"]) == (5, "train"))
    assert line["tokens_per_second"] > 24 / 0.9


def test_a_run_killed_between_checkpoints_repeats_its_steps_exactly(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings()
    toy.toy_train(config, tmp_path / "whole")

    def killed(model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        if rng.step == 8:  # in the ninth step
            raise KeyboardInterrupt  # nothing is saved, as after SIGKILL
        return toy.toy_loss(model, x, rng)

    with pytest.raises(KeyboardInterrupt):
        toy.toy_train(config, tmp_path / "parts", loss_fn=killed)
    assert [line["step"] for line in lines(tmp_path / "parts", "train")] == list(range(1, 9))
    assert load_artifact(tmp_path / "parts", "mdlm").config["progress"]["step"] == 5
    toy.toy_train(config, tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
