"""Numbers gone bad: steps that are skipped, runs that stop, and what is told of them."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.gradients import clip_gradients, diagnose_gradients, gradient_norm

from .runs import lines, tensors


class Poison:
    """The toy's loss, with gradients that are not finite at some steps."""

    def __init__(self, toy: ModuleType, steps: set[int], value: float = float("nan")) -> None:
        self.toy, self.steps, self.value = toy, steps, value

    def __call__(self, model: torch.nn.Module, x: Tensor, rng: Any) -> Any:
        loss, metrics = self.toy.toy_loss(model, x, rng)
        return (loss * self.value if rng.step in self.steps else loss), metrics


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_whose_gradients_are_not_finite_is_skipped(toy: ModuleType, tmp_path: Path, value: float) -> None:
    config = toy.settings(weight_decay=0.0, ema_decay=0.0, lr_schedule="constant", save_every=3)
    toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, {3, 4, 7}, value))
    assert [line["step"] for line in lines(tmp_path / "run", "train") if line["grad_norm"] is None] == [4, 5, 8]
    assert all(value.isfinite().all() for value in tensors(tmp_path / "run").values())
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_skipped_steps_leave_weights_and_optimiser_alone_and_are_counted(toy: ModuleType, tmp_path: Path) -> None:
    """After steps 4 and 5, whose gradients are bad, the weights are those of step 3; step 6 moves them."""
    seen: dict[str, list[dict[str, Tensor]]] = {"good": [], "bad": []}
    for name, steps in (("good", set()), ("bad", {3, 4})):

        def note(model: Any, kept: list[dict[str, Tensor]] = seen[name]) -> None:
            model.moments.commit()
            kept.append({k: v.clone() for k, v in model.named_parameters()})

        toy.toy_train(toy.settings(ema_decay=0.0), tmp_path / name, loss_fn=Poison(toy, steps), after_step=note)
    for after in (3, 4):
        assert [k for k, v in seen["bad"][after].items() if not torch.equal(v, seen["good"][2][k])] == []
    assert any(not torch.equal(v, seen["good"][2][k]) for k, v in seen["bad"][5].items())
    assert json.loads((tmp_path / "bad/state/state.json").read_text())["skipped_steps"] == 2


def test_nothing_is_saved_in_a_row_of_bad_steps(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights may be finite and ruined: every loss is infinite from step 5 on, and step 6 would be a checkpoint."""

    def ruin(model: Any) -> None:
        model.moments.commit()
        if len(lines(tmp_path / "run", "train")) == 4:
            torch.nn.init.constant_(model.out.bias, 1e30)

    config = toy.settings(save_every=2, eval_every=0, max_steps=20)
    with pytest.raises(UserError, match=r"not finite 5 steps in a row .*; step 4 is saved; go on from there"):
        toy.toy_train(config, tmp_path / "run", after_step=ruin)
    assert "step 6 is not saved: the numbers of the last 1 steps are not finite" in capsys.readouterr().err
    assert float(tensors(tmp_path / "run")["model/out.bias"].abs().max()) < 1e3
    lower = toy.settings(save_every=2, eval_every=0, max_steps=20, learning_rate=0.001)
    assert toy.toy_train(lower, tmp_path / "run", True)["step"] == 20


def test_a_run_that_ends_in_bad_steps_is_judged_by_its_validation(toy: ModuleType, tmp_path: Path) -> None:
    poison = Poison(toy, {10, 11})
    assert toy.toy_train(toy.settings(), tmp_path / "sound", loss_fn=poison)["step"] == 12
    assert load_artifact(tmp_path / "sound", "mdlm").config["progress"]["step"] == 12
    with pytest.raises(UserError, match="the last steps and the validation gave numbers that are not finite"):
        toy.toy_train(
            toy.settings(save_every=4),
            tmp_path / "ruined",
            loss_fn=poison,
            validate=lambda model: {"loss": float("nan")},
        )
    assert load_artifact(tmp_path / "ruined", "mdlm").config["progress"]["step"] == 8


def test_a_run_whose_time_is_up_in_bad_steps_says_what_is_saved(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time is up at once: each call takes one step, the first of them a bad one."""
    config = toy.settings(max_minutes=1e-6)
    with pytest.raises(UserError, match=r"stopped at step 1, .*the time was up, .*; nothing was saved yet"):
        toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, {0}))
    toy.toy_train(config, tmp_path / "run")
    assert "stopped after 1e-06 minutes at step 1; the same" in capsys.readouterr().err
    toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, {1}))
    assert "stopped after 1e-06 minutes at step 2; step 1 is saved; the same" in capsys.readouterr().err
    assert load_artifact(tmp_path / "run", "mdlm").config["progress"]["step"] == 1


def test_five_bad_steps_in_a_row_stop_the_run_and_leave_the_last_checkpoint(toy: ModuleType, tmp_path: Path) -> None:
    config = toy.settings(save_every=3, max_steps=20)
    with pytest.raises(UserError) as caught:
        toy.toy_train(config, tmp_path / "run", loss_fn=Poison(toy, {3, 4, *range(7, 12)}))
    for part in (
        "mdlm training stopped at step 12, learning rate 0.0",
        "loss or gradient not finite 5 steps in a row (loss nan, largest finite gradient 0 in none, not finite in 5 ",
        "parameters from inputs.weight on); step 6 is saved; go on from there with --resume and a lower --learn",
    ):
        assert part in str(caught.value)
    found = load_artifact(tmp_path / "run", "mdlm")
    assert found.config["progress"]["step"] == 6
    assert all(value.isfinite().all() for value in found.state_dict().values())
    assert toy.toy_train(config, tmp_path / "run")["step"] == 20
    assert lines(tmp_path / "run", "train")[-1]["skipped_steps"] == 2  # before the checkpoint


def test_a_loss_that_is_not_finite_is_skipped_though_its_gradient_is(toy: ModuleType, tmp_path: Path) -> None:
    def poisoned(model: torch.nn.Module, x: Tensor, rng: Any) -> Any:
        loss, metrics = toy.toy_loss(model, x, rng)
        return (loss + float("inf") if rng.step == 3 else loss), metrics

    toy.toy_train(toy.settings(), tmp_path / "run", loss_fn=poisoned)
    last = lines(tmp_path / "run", "train")[-1]
    assert last["skipped_steps"] == 1


def test_weights_that_went_bad_never_replace_a_good_checkpoint(toy: ModuleType, tmp_path: Path) -> None:
    def ruin(model: Any) -> None:
        model.moments.commit()
        if len(lines(tmp_path / "run", "train")) == 5:  # before the line of step 6, which is saved
            torch.nn.init.constant_(model.out.bias, float("inf"))

    with pytest.raises(UserError, match=r"stopped at step 6, .*weights are not finite any more; step 3 is saved"):
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
