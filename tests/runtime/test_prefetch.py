"""Batches that are read ahead, by themselves and in a training."""

import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.prefetch import Prefetch
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.session import Interrupted

from .runs import StopAt, assert_same_run, lines

PATIENCE = 60.0  # seconds after which what is waited for never comes


class Source:
    """Batches of two parts that name their step; notes what was read, and fails at some steps."""

    def __init__(self, errors: dict[int, BaseException] | None = None) -> None:
        self.errors = errors or {}
        self.read: list[int] = []
        self.failed = threading.Event()

    def __call__(self, step: int) -> list[Tensor]:
        self.read.append(step)
        if step in self.errors:
            self.failed.set()
            raise self.errors[step]
        return [torch.tensor([step, part]) for part in (0, 1)]


def asked(batches: Prefetch, steps: Sequence[int]) -> list[list[list[int]]]:
    return [[part.tolist() for part in batches(step)] for step in steps]


def wanted(steps: Sequence[int]) -> list[list[list[int]]]:
    return [[[step, 0], [step, 1]] for step in steps]


def test_each_step_gets_the_batch_that_was_fetched_for_it_and_each_is_fetched_once_in_order() -> None:
    source = Source()
    assert asked(Prefetch(source, 50), range(50)) == wanted(range(50))
    assert source.read == list(range(50))


@pytest.mark.parametrize("start", [1, 7, 9])
def test_a_run_that_goes_on_fetches_nothing_of_the_steps_before(start: int) -> None:
    source = Source()
    assert asked(Prefetch(source, 10), range(start, 10)) == wanted(range(start, 10))
    assert source.read == list(range(start, 10))


@pytest.mark.parametrize("steps", [[0, 1, 5, 6, 7], [3, 2, 1, 0], [4, 4, 4], [0, 9, 0, 1, 9, 2, 8, 9]])
def test_steps_asked_for_out_of_order_get_their_own_batches(steps: list[int]) -> None:
    assert asked(Prefetch(Source(), 10), steps) == wanted(steps)


def test_nothing_is_read_any_more_after_the_end() -> None:
    source = Source()
    batches = Prefetch(source, 10)
    batches(0)
    batches.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        batches(5)
    assert set(source.read) <= {0, 1}


@pytest.mark.parametrize("last", [1, 2, 5])
def test_nothing_is_fetched_from_the_last_step_on(last: int) -> None:
    source = Source()
    batches = Prefetch(source, last)
    asked(batches, range(last))
    asked(batches, [0])  # what was to be read before it has been read
    assert source.read[: last + 1] == [*range(last), 0]


@pytest.mark.parametrize("error", [UserError("a row has changed", "run encode again"), OSError("gone"), IndexError(7)])
def test_an_error_of_reading_ahead_is_raised_as_it_is_by_the_step_that_needs_the_batch(error: Exception) -> None:
    source = Source({2: error})
    batches = Prefetch(source, 10)
    assert asked(batches, [0, 1]) == wanted([0, 1])
    assert source.failed.wait(PATIENCE)  # step 1 is at hand, and goes on
    with pytest.raises(type(error)) as caught:
        batches(2)
    assert caught.value is error
    del source.errors[2]
    assert asked(batches, [2, 3]) == wanted([2, 3])  # it is read again where it is asked for again


def test_an_error_of_a_batch_that_nobody_asks_for_is_never_raised() -> None:
    source = Source({1: OSError("gone")})
    batches = Prefetch(source, 10)
    assert asked(batches, [0]) == wanted([0])
    assert source.failed.wait(PATIENCE)
    assert asked(batches, [5, 6, 0, 2]) == wanted([5, 6, 0, 2])


def test_the_next_batch_is_being_read_while_the_one_at_hand_is_used() -> None:
    started = [threading.Event() for _ in range(4)]
    used = [threading.Event() for _ in range(4)]

    def fetch(step: int) -> list[Tensor]:
        started[step].set()
        if step:
            assert used[step - 1].wait(PATIENCE)  # it does not end before the batch before it was used
        return [torch.tensor(step)]

    batches = Prefetch(fetch, 4)
    for step in range(4):
        (batch,) = batches(step)
        assert int(batch) == step
        if step < 3:
            assert started[step + 1].wait(PATIENCE)
        used[step].set()


class Rows:
    """The toy's rows; notes what is read, and fails at the reading of that number."""

    def __init__(self, toy: ModuleType, bad: int | None = None) -> None:
        self.toy, self.bad = toy, bad
        self.read: list[list[int]] = []
        self.failed = threading.Event()

    def __call__(self, rows: np.ndarray) -> Tensor:
        self.read.append(rows.tolist())
        if len(self.read) == self.bad:
            self.failed.set()
            raise UserError("a row has changed", "run encode again")
        found: Tensor = self.toy.fetch(rows)
        return found


@pytest.mark.parametrize("parts", [1, 2])
def test_a_training_reads_the_rows_of_its_steps_once_and_in_order(toy: ModuleType, tmp_path: Path, parts: int) -> None:
    config, rows, computed = toy.settings(grad_accum=parts), Rows(toy), []

    def noted(model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        computed.append(x)
        return toy.toy_loss(model, x, rng)

    toy.toy_train(config, tmp_path / "run", fetch=rows, loss_fn=noted)
    order = [toy.order(config, step * config.batch_size).reshape(parts, -1) for step in range(12)]
    assert rows.read == [part.tolist() for step in order for part in step]
    assert torch.equal(torch.stack(computed), torch.stack([toy.DATA[part] for step in order for part in step]))


def test_a_step_is_computed_while_the_rows_of_the_next_are_read(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings()
    reading = [threading.Event() for _ in range(12)]
    computed = [threading.Event() for _ in range(12)]

    def row_order(drawn: int) -> np.ndarray:
        step = drawn // config.batch_size
        reading[step].set()
        if step:
            assert computed[step - 1].wait(PATIENCE)
        found: np.ndarray = toy.order(config, drawn)
        return found

    def loss(model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        if rng.step < 11:
            assert reading[rng.step + 1].wait(PATIENCE)
        found = toy.toy_loss(model, x, rng)
        computed[rng.step].set()
        return found

    toy.toy_train(config, tmp_path / "ahead", row_order=row_order, loss_fn=loss)
    toy.toy_train(config, tmp_path / "plain")
    assert_same_run(tmp_path / "ahead", tmp_path / "plain")


def test_rows_that_cannot_be_read_stop_a_training_at_their_step_and_not_before(toy: ModuleType, tmp_path: Path) -> None:
    config, rows = toy.settings(), Rows(toy, bad=6)

    def loss(model: torch.nn.Module, x: Tensor, rng: BatchRng) -> Any:
        if rng.step == 4:
            assert rows.failed.wait(PATIENCE)  # the fifth step is computed and saved though the sixth has no rows
        return toy.toy_loss(model, x, rng)

    with pytest.raises(UserError, match="a row has changed"):
        toy.toy_train(config, tmp_path / "parts", fetch=rows, loss_fn=loss)
    assert [line["step"] for line in lines(tmp_path / "parts", "train")] == [1, 2, 3, 4, 5]
    assert load_artifact(tmp_path / "parts", "mdlm").config["progress"]["step"] == 5
    toy.toy_train(config, tmp_path / "parts")
    toy.toy_train(config, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_an_interrupted_training_does_not_ask_for_the_rows_that_it_read_ahead(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="step 3 is saved"):
        toy.toy_train(toy.settings(), tmp_path / "run", fetch=Rows(toy, bad=4), loss_fn=StopAt(toy, 3, signal.SIGTERM))
