"""Numbers gone bad: steps that are skipped, runs that stop, and what is told of them."""

import json
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.gradients import clip_gradients, diagnose_gradients, gradient_norm
from diladiff_cli.runtime.session import Interrupted

from .test_loop import StopAt, lines, tensors


class Poison:
    """The toy's loss, with gradients that are not finite at some steps."""

    def __init__(self, toy: ModuleType, steps: set[int], value: float = float("nan")) -> None:
        self.toy, self.steps, self.value = toy, steps, value

    def __call__(self, model: torch.nn.Module, x: Tensor, noise: Any) -> Any:
        loss, metrics = self.toy.toy_loss(model, x, noise)
        return (loss * self.value if noise.step in self.steps else loss), metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_whose_gradients_are_not_finite_is_skipped(toy: ModuleType, tmp_path: Path, value: float) -> None:
    config = toy.settings(weight_decay=0.0, ema_decay=0.0, lr_schedule="constant", save_every=3)
    toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, {3, 4, 7}, value))
    assert [line["step"] for line in lines(tmp_path / "run", "train") if line["grad_norm"] is None] == [4, 5, 8]
    assert all(value.isfinite().all() for value in tensors(tmp_path / "run").values())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_skipped_steps_leave_weights_and_optimiser_alone_and_are_counted(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings(ema_decay=0.0, save_every=3)
    for name, steps, last in (("good", set(), 3), ("bad", {3, 4}, 5)):
        fetch = StopAt(toy, last, signal.SIGTERM)
        with pytest.raises(Interrupted):
            toy.toy_train(config, tmp_path / name, loss_fn=Poison(toy, steps), fetch=fetch)
    ours, theirs = tensors(tmp_path / "bad"), tensors(tmp_path / "good")
    kept = [name for name in ours if name.startswith(("model/", "optimizer/")) and "moments" not in name]
    assert len(kept) > 10
    assert [name for name in kept if not torch.equal(ours[name], theirs[name])] == []
    assert json.loads((tmp_path / "bad/state/state.json").read_text())["bad_steps"] == 2


def test_five_bad_steps_in_a_row_stop_the_run_and_leave_the_last_checkpoint(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings(save_every=3, max_steps=20)
    with pytest.raises(UserError) as caught:
        toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, set(range(3, 6)) | set(range(7, 12))))
    for part in (
        "mdlm training stopped at step 12, learning rate 0.0",
        "loss or gradient not finite 5 steps in a row (loss nan, largest finite gradient 0 in none, not finite in 5 ",
        "parameters from inputs.weight on); step 9 is saved; go on from there with --resume and a lower --learn",
    ):
        assert part in str(caught.value)
    found = load_artifact(tmp_path / "run", "mdlm")
    assert found.config["progress"]["step"] == 9
    assert all(value.isfinite().all() for value in found.state_dict().values())
    assert toy.toy_train(config, tmp_path / "run")["step"] == 20
    assert lines(tmp_path / "run", "train")[-1]["skipped_steps"] == 5  # 4 to 6, and 8 and 9 before the checkpoint


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(toy: ModuleType, tmp_path: Path) -> None:
    def poisoned(model: torch.nn.Module, x: Tensor, noise: Any) -> Any:
        loss, metrics = toy.toy_loss(model, x, noise)
        return (loss + float("inf") if noise.step == 3 else loss), metrics

    toy.toy_train(toy.settings(), tmp_path / "run", loss_fn=poisoned)
    last = lines(tmp_path / "run", "train")[-1]
    assert last["skipped_steps"] == 1


def test_weights_that_went_bad_never_replace_a_good_checkpoint(toy: ModuleType, tmp_path: Path) -> None:
    def ruin(model: Any) -> None:
        model.moments.commit()
        if len(lines(tmp_path / "run", "train")) == 5:  # before the line of step 6, which is saved
            torch.nn.init.constant_(model.out.bias, float("inf"))

    with pytest.raises(UserError, match=r"stopped at step 7, .*weights are not finite any more; step 3 is saved"):
        toy.toy_train(toy.settings(save_every=3, eval_every=0), tmp_path / "run", after_step=ruin)
    found = load_artifact(tmp_path / "run", "mdlm")
    assert found.config["progress"]["step"] == 3
    assert all(value.isfinite().all() for value in found.state_dict().values())


def test_the_largest_gradient_and_those_that_are_not_finite_are_named() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model[1].bias.grad = torch.tensor([-3.0])
    assert diagnose_gradients(model) == "largest finite gradient 3 in 1.bias"
    model[0].weight.grad = torch.tensor([[float("nan"), 5.0]])
    model[2].bias.grad = torch.tensor([float("inf")])
    assert diagnose_gradients(model) == (
        "largest finite gradient 5 in 0.weight, not finite in 2 parameters from 0.weight on"
    )


@pytest.mark.parametrize(("limit", "wanted"), [(1.0, [0.6, 0.8]), (0.0, [3.0, 4.0]), (10.0, [3.0, 4.0])])
def test_gradients_are_clipped_to_their_norm(limit: float, wanted: list[float]) -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 4.0]])
    norm = gradient_norm(model)
    assert float(norm) == pytest.approx(5.0)
    clip_gradients(model, norm, limit)
    assert model.weight.grad[0].tolist() == pytest.approx(wanted, rel=1e-5)
