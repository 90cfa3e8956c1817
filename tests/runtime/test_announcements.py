"""What a training says on stderr where that is no terminal."""

import re
import signal
from pathlib import Path
from types import ModuleType

import pytest

from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.session import Interrupted

from .runs import StopAt


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines since the last call, without the validations."""
    return [line for line in capsys.readouterr().err.splitlines() if not line.startswith("  step")]


def test_a_run_tells_what_it_is_about_to_do_and_its_first_step(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.toy_train(toy.settings(log_every=5, max_steps=1200, max_minutes=1e-9), tmp_path / "run")
    plan, first, _ = told(capsys)
    trained = sum(p.numel() for p in toy.Toy().parameters())
    assert plan == f"mdlm: 1,200 steps, batches of 8 x 3 tokens, {trained} parameters to train, fp32 on cpu"
    assert first.startswith("mdlm 1/1200 loss ")
    assert re.search(r", [0-9,]+ tokens/s, lr [0-9.e-]+$", first)


def test_the_first_line_is_for_the_user_and_the_log_keeps_its_rhythm(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.toy_train(toy.settings(log_every=5), tmp_path / "whole")
    logged = [line["step"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl") if line["split"] == "train"]
    assert logged == [5, 10, 12]  # the last one as well
    with pytest.raises(Interrupted):
        toy.toy_train(toy.settings(log_every=5), tmp_path / "parts", loss_fn=StopAt(toy, 7, signal.SIGTERM))
    told(capsys)
    toy.toy_train(toy.settings(log_every=5), tmp_path / "parts")
    plan, first, *validations = told(capsys)
    assert plan.startswith("mdlm: 12 steps, 7 of them done, batches of ")
    assert first.startswith("mdlm 8/12 loss ")
    assert validations.pop(1).startswith("mdlm 12/12 loss ")
    assert validations == ["mdlm 8/12 validating", "mdlm 12/12 validating"]
    again = [line["step"] for line in read_metrics(tmp_path / "parts" / "metrics.jsonl") if line["split"] == "train"]
    assert again == logged
