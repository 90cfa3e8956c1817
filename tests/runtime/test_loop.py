import json
import shutil
import signal
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diladiff_cli.config import AeConfig
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, sealed
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.resume import INITIAL, _check_made_from, check_resume, differences
from diladiff_cli.runtime.session import Interrupted
from diladiff_cli.settings import ConfigError

from .runs import StopAt, assert_same_run, lines

MADE_FROM = {"network": {}, "parents": {}, "data": {"fingerprint": "toy"}}  # of the toy


def test_training_lowers_the_loss_and_logs_every_step_once(toy: ModuleType, tmp_path: Path) -> None:
    result = toy.toy_train(toy.settings(max_steps=40, eval_every=15), tmp_path / "run")
    train = lines(tmp_path / "run", "train")
    assert [line["step"] for line in train] == list(range(1, 41))
    assert np.mean([line["loss"] for line in train[-5:]]) < 0.5 * train[0]["loss"]
    assert [line["step"] for line in lines(tmp_path / "run", "valid")] == [15, 30, 40]
    assert result["step"] == 40
    assert result["loss"] == lines(tmp_path / "run", "valid")[-1]["loss"]


def test_utilisation_is_operations_per_second_over_the_peak(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diladiff_cli.runtime.loop.peak_flops", lambda device: 5e7)
    toy.toy_train(toy.settings(), tmp_path / "run", flops_per_row=1e6)
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        if line["split"] == "train":  # rows of three tokens
            assert line["mfu"] == pytest.approx(1e6 * line["tokens_per_second"] / 3 / 5e7)


def test_accumulated_micro_batches_give_the_losses_of_one_batch(toy: ModuleType, tmp_path: Path) -> None:
    for parts in ("1", "2", "8"):
        toy.toy_train(toy.settings(grad_accum=int(parts)), tmp_path / parts)
    for parts in ("2", "8"):
        for ours, whole in zip(lines(tmp_path / parts, "train"), lines(tmp_path / "1", "train"), strict=True):
            assert {k: pytest.approx(v, rel=1e-4) for k, v in whole.items() if k != "split"} | {
                "split": "train"
            } == ours
        moments = [load_file(tmp_path / name / "model.safetensors")["moments.mean"] for name in (parts, "1")]
        torch.testing.assert_close(*moments, rtol=1e-5, atol=1e-6)


def test_a_run_may_continue_with_other_micro_batches(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(), tmp_path / "whole")
    with pytest.raises(Interrupted):
        toy.toy_train(toy.settings(), tmp_path / "parts", loss_fn=StopAt(toy, 6, signal.SIGTERM))
    toy.toy_train(toy.settings(grad_accum=2), tmp_path / "parts")
    losses = [[line["loss"] for line in lines(tmp_path / name, "train")] for name in ("whole", "parts")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_time_limit_stops_cleanly_and_the_same_command_goes_on(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.toy_train(toy.settings(), tmp_path / "whole")
    result = toy.toy_train(toy.settings(max_minutes=1e-6), tmp_path / "parts")
    assert result["step"] == 1
    assert "the same command continues" in capsys.readouterr().err
    toy.toy_train(toy.settings(), tmp_path / "parts")
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_whose_time_is_up_at_its_very_last_step_is_finished(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(max_steps=1, max_minutes=1e-6), tmp_path / "run")
    assert [line["step"] for line in lines(tmp_path / "run", "valid")] == [1]


def test_what_is_validated_is_prepared_as_what_is_saved(toy: ModuleType, tmp_path: Path) -> None:
    prepared: list[int] = []

    def validate(_: Any) -> dict[str, Any]:
        return {"prepared": len(prepared)}

    toy.toy_train(
        toy.settings(max_steps=4, eval_every=2, save_every=0),
        tmp_path / "run",
        before_use=prepared.append,
        validate=validate,
    )
    assert [line["prepared"] for line in lines(tmp_path / "run", "valid")] == [1, 2]
    assert len(prepared) == 2  # the checkpoint of a step that was validated needs no more


@pytest.mark.parametrize("resume", [None, True])
def test_a_finished_run_is_left_as_it_is(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], resume: bool | None
) -> None:
    config = toy.settings(max_steps=2)
    first = toy.toy_train(config, tmp_path / "run")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    assert toy.toy_train(config, tmp_path / "run", resume) | {"seconds": 0} == first | {"seconds": 0}
    assert "is finished, at step 2; --fresh trains it again" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before
    toy.toy_train(config, tmp_path / "run", resume=False)
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [1, 2]


def test_other_settings_are_named_and_refused_unless_they_change_no_numbers(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(max_minutes=1e-6), tmp_path / "run")
    with pytest.raises(UserError, match=r"other settings \(learning_rate 0\.02 -> 0\.03, seed 0 -> 1\)"):
        check_resume(tmp_path / "run", toy.settings(seed=1, learning_rate=0.03), MADE_FROM, True)
    free = toy.settings(log_every=3, grad_accum=2, eval_every=0, save_every=0)
    stored = check_resume(tmp_path / "run", free, MADE_FROM, None)
    assert stored is not None
    assert stored["step"] == 1


def test_fewer_steps_than_were_made_are_refused_and_as_many_end_the_run(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        toy.toy_train(toy.settings(), tmp_path / "run", loss_fn=StopAt(toy, 6, signal.SIGTERM))
    with pytest.raises(UserError, match="run is at step 6, beyond --max-steps 5; give more steps"):
        toy.toy_train(toy.settings(max_steps=5), tmp_path / "run", True)
    assert toy.toy_train(toy.settings(max_steps=6), tmp_path / "run", True)["loss"] > 0
    assert load_artifact(tmp_path / "run", "mdlm").training["max_steps"] == 6


def test_another_parent_or_data_set_is_named_and_refused(toy: ModuleType, tmp_path: Path) -> None:
    toy.toy_train(toy.settings(max_minutes=1e-6), tmp_path / "run")
    data = {"fingerprint": "other", "latents": "../latents"}
    other = {"network": {}, "parents": {"ae": {"hash": "b" * 64}}, "data": data}
    with pytest.raises(UserError, match="made from something else") as caught:
        check_resume(tmp_path / "run", toy.settings(), other, None)
    for part in ("ae artifact None -> bbbbbbbbbbbb", "data set toy -> other", "stored latents False -> True"):
        assert part in str(caught.value)


def test_settings_that_change_no_numbers_may_differ() -> None:
    stored = {"seed": 0, "grad_accum": 1, "learning_rate": 0.1, "gone": 1}
    wanted = {"seed": 0, "grad_accum": 4, "learning_rate": 0.2, "max_minutes": 3, "new": 2}
    changed = differences(stored, wanted)
    assert list(changed.values()) == ["gone 1 -> None", "learning_rate 0.1 -> 0.2", "new None -> 2"]


def test_other_settings_of_the_optimisation_need_an_explicit_resume(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.toy_train(toy.settings(max_steps=3), tmp_path / "run")
    longer = toy.settings(max_steps=5, learning_rate=0.01)
    with pytest.raises(UserError, match=r"other settings \(learning_rate.*, use --resume to go on with the new ones"):
        toy.toy_train(longer, tmp_path / "run")
    assert toy.toy_train(longer, tmp_path / "run", True)["step"] == 5
    assert "going on with other settings: learning_rate 0.02 -> 0.01, max_steps 3 -> 5" in capsys.readouterr().err
    assert [line["step"] for line in lines(tmp_path / "run", "train")] == [1, 2, 3, 4, 5]
    assert load_artifact(tmp_path / "run", "mdlm").training["max_steps"] == 5


def test_a_run_older_than_an_option_goes_on_with_its_default(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.toy_train(toy.settings(max_steps=3), tmp_path / "run")
    file = tmp_path / "run" / "state" / "state.json"
    progress = json.loads(file.read_text())
    del progress["training"]["beta1"], progress[CHECKSUM]
    file.write_text(sealed(progress))
    assert toy.toy_train(toy.settings(max_steps=3), tmp_path / "run")["step"] == 3
    with pytest.raises(UserError, match=r"other settings \(beta1 0.9 -> 0.5\)"):
        toy.toy_train(toy.settings(max_steps=3, beta1=0.5), tmp_path / "run")
    assert toy.toy_train(toy.settings(max_steps=4), tmp_path / "run", True)["step"] == 4
    assert "going on with other settings: max_steps 3 -> 4\n" in capsys.readouterr().err


def test_resuming_where_nothing_was_trained_is_refused(toy: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no training state to resume; leave out --resume to begin a run"):
        check_resume(tmp_path / "run", toy.settings(), MADE_FROM, True)
    assert check_resume(tmp_path / "run", toy.settings(), MADE_FROM, None) is None
    toy.toy_train(toy.settings(max_steps=1), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "state")
    for resume in (True, None):
        with pytest.raises(UserError, match="no training state to resume; use --fresh to start over"):
            check_resume(tmp_path / "run", toy.settings(), MADE_FROM, resume)


@pytest.mark.parametrize("resume", [None, False])
def test_a_folder_of_something_else_is_never_replaced(toy: ModuleType, tmp_path: Path, resume: bool | None) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "novel.txt").write_text("years of work")
    with pytest.raises(UserError, match="holds files that are not of diladiff; move it away"):
        toy.toy_train(toy.settings(), tmp_path / "mine", resume)
    toy.toy_train(toy.settings(max_steps=1), tmp_path / "mdlm")
    with pytest.raises(UserError, match="is a base, which this run would replace"):
        check_resume(tmp_path / "mdlm", AeConfig(), MADE_FROM, resume)
    assert (tmp_path / "mine" / "novel.txt").read_text() == "years of work"


def test_a_tracker_without_its_package_is_refused(
    toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diladiff_cli.runtime.session.is_wandb_available", lambda: False)
    with pytest.raises(ConfigError, match=r"log_with wandb needs its package: pip install 'diladiff\[wandb\]'"):
        toy.toy_train(toy.settings(log_with="wandb"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackers_keep_their_logs_when_checkpoints_replace_the_folder(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    toy.toy_train(toy.settings(log_with="tensorboard"), tmp_path / "run")
    assert (
        f"to see the curves: tensorboard --logdir {tmp_path / 'logs' / 'run'}" in capsys.readouterr().err.splitlines()
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "logs" / "run" / "diladiff")).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == list(range(1, 13))


def test_a_tracker_forgets_the_steps_that_a_kill_has_lost(toy: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is an extra")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def broken(model: torch.nn.Module, x: torch.Tensor, rng: BatchRng) -> Any:
        if rng.step == 7:
            raise RuntimeError("killed")
        return toy.toy_loss(model, x, rng)

    config = toy.settings(log_with="tensorboard", save_every=4, log_every=1)
    with pytest.raises(RuntimeError, match="killed"):
        toy.toy_train(config, tmp_path / "run", loss_fn=broken)
    toy.toy_train(config, tmp_path / "run")
    found = EventAccumulator(str(tmp_path / "logs" / "run" / "diladiff")).Reload()
    assert [event.step for event in found.Scalars("train/loss")] == list(range(1, 13))


def test_a_run_in_a_thread_goes_without_signals(toy: ModuleType, tmp_path: Path) -> None:
    steps: list[int] = []
    thread = Thread(target=lambda: steps.append(toy.toy_train(toy.settings(), tmp_path / "run")["step"]))
    thread.start()
    thread.join()
    assert steps == [12]


def test_a_deterministic_run_is_so_from_its_beginning_and_leaves_nothing_behind(
    toy: ModuleType, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def watched(model: torch.nn.Module, x: torch.Tensor, rng: BatchRng) -> Any:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return toy.toy_loss(model, x, rng)

    def prepare() -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())

    config = toy.settings(max_steps=2, deterministic=True)
    toy.toy_train(config, tmp_path / "run", loss_fn=watched, prepare=prepare)
    assert seen == [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
    toy.toy_train(config, tmp_path / "run")  # finished
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("other", "remedy"),
    [({}, "leave out --init to continue"), ({"data set": "b"}, "give that as it was to continue")],
)
def test_leaving_out_init_is_the_remedy_only_where_nothing_else_differs(
    tmp_path: Path, other: dict[str, str], remedy: str
) -> None:
    with pytest.raises(UserError) as refused:
        _check_made_from(tmp_path, {"data set": "a"}, {"data set": "a", INITIAL: "c"} | other)
    assert refused.value.remedy.startswith(remedy)
