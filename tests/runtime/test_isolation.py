"""What a caller's process has set does not reach a training run, and is there afterwards."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from safetensors.torch import load_file

from diladiff_cli.runtime.isolation import isolated_run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "around",
    [lambda: torch.autocast("cpu", torch.bfloat16), torch.no_grad, torch.inference_mode],
    ids=["autocast", "no_grad", "inference_mode"],
)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_is_the_same_within_a_callers_context(
    toy: ModuleType, tmp_path: Path, around: Callable[[], AbstractContextManager[Any]], precision: str
) -> None:
    config = toy.settings(max_steps=4, precision=precision)
    toy.toy_train(config, tmp_path / "alone")
    with around():
        toy.toy_train(config, tmp_path / "within")
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "within"))


def test_an_interrupt_as_torch_is_still_importing_stays_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def half_imported(*_: object, **__: object) -> None:
        raise AttributeError("module 'sympy' has no attribute 'core'")

    @isolated_run
    def interrupted() -> None:
        monkeypatch.setattr(torch, "use_deterministic_algorithms", half_imported)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_another_default_dtype_is_set_aside(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(max_steps=2), tmp_path / "alone")
    torch.set_default_dtype(torch.float64)
    try:
        toy.toy_train(toy.settings(max_steps=2), tmp_path / "within")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "within"))


def test_another_default_device_is_set_aside(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(max_steps=2), tmp_path / "alone")
    torch.set_default_device("meta")
    try:
        toy.toy_train(toy.settings(max_steps=2), tmp_path / "within")
        assert torch.get_default_device().type == "meta"
    finally:
        torch.set_default_device(None)
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "within"))


def test_a_dry_run_waits_for_nobody() -> None:
    inside, leave, done = threading.Event(), threading.Event(), threading.Event()

    @isolated_run
    def run(dry_run: bool = False) -> None:
        if dry_run:
            done.set()
        else:
            inside.set()
            leave.wait(20)

    training = Thread(target=run)
    training.start()
    inside.wait(20)
    planning = Thread(target=run, kwargs={"dry_run": True})
    planning.start()
    planning.join(10)
    waited = not done.is_set()
    leave.set()
    training.join()
    planning.join()
    assert not waited


@pytest.mark.parametrize("first", ["training", "plan"])
def test_a_training_and_a_dry_run_may_overlap_in_any_way(toy: ModuleType, tmp_path: Path, first: str) -> None:
    toy.toy_train(toy.settings(max_steps=4), tmp_path / "alone")
    planning, trained, planned = threading.Event(), threading.Event(), threading.Event()

    @isolated_run
    def plan(dry_run: bool = True) -> None:
        planning.set()
        (trained if first == "training" else step).wait(20)
        planned.set()

    step = threading.Event()

    def loss(*inputs: Any) -> Any:
        step.set()
        (planning if first == "training" else planned).wait(20)
        return toy.toy_loss(*inputs)

    torch.set_default_dtype(torch.float64)
    state = dict(AcceleratorState._shared_state)
    try:
        thread = Thread(target=plan, kwargs={"dry_run": True})
        training = Thread(
            target=toy.toy_train, args=(toy.settings(max_steps=4), tmp_path / "beside"), kwargs={"loss_fn": loss}
        )
        for each in (training, thread) if first == "training" else (thread, training):
            each.start()
        training.join()
        trained.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
        assert dict(AcceleratorState._shared_state) == state
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "beside"))


def optimizer_steps(accelerator: Accelerator) -> int:
    """How many of four micro-batches end with a step."""
    model = torch.nn.Linear(2, 2)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    steps = 0
    for _ in range(4):
        with accelerator.accumulate(model):
            accelerator.backward(model(torch.ones(1, 2)).sum())
            optimizer.step()
            steps += not optimizer.step_was_skipped and accelerator.sync_gradients
            optimizer.zero_grad()
    return steps


def test_a_callers_accelerator_is_as_before(toy: ModuleType, tmp_path: Path) -> None:
    AcceleratorState._reset_state()
    GradientState._reset_state()
    try:
        accelerator = Accelerator(gradient_accumulation_steps=2, mixed_precision="bf16", cpu=True)
        assert optimizer_steps(accelerator) == 2
        toy.toy_train(toy.settings(max_steps=2, grad_accum=1, precision="fp32"), tmp_path / "run")
        assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 2)
        assert optimizer_steps(accelerator) == 2
        Accelerator(mixed_precision="bf16", cpu=True)
    finally:
        AcceleratorState._reset_state()
        GradientState._reset_state()


@pytest.mark.parametrize("before", [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("fails", [False, True])
def test_the_choice_of_algorithms_is_as_before(
    toy: ModuleType, tmp_path: Path, before: tuple[bool, bool], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    config = toy.settings(max_steps=1, deterministic=True)

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    try:
        if fails:
            with pytest.raises(ZeroDivisionError):
                toy.toy_train(config, tmp_path / "run", loss_fn=broken)
        else:
            toy.toy_train(config, tmp_path / "run")
        after = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert after == before
    assert "CUBLAS_WORKSPACE_CONFIG" in os.environ


def test_runs_of_two_threads_follow_one_another(toy: ModuleType, tmp_path: Path) -> None:
    settings = [
        toy.settings(max_steps=6, precision=precision, grad_accum=n) for precision, n in (("bf16", 1), ("fp32", 2))
    ]
    for i, config in enumerate(settings):
        toy.toy_train(config, tmp_path / f"alone-{i}")
    threads = [Thread(target=toy.toy_train, args=(c, tmp_path / f"thread-{i}")) for i, c in enumerate(settings)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert same(weights(tmp_path / f"alone-{i}"), weights(tmp_path / f"thread-{i}"))


def test_one_run_at_a_time() -> None:
    inside: list[int] = []

    @isolated_run
    def run(number: int) -> None:
        inside.append(number)
        for _ in range(2000):
            assert inside == [number]
        inside.remove(number)

    failed: list[BaseException] = []

    def watched(number: int) -> None:
        try:
            for _ in range(20):
                run(number)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=watched, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
