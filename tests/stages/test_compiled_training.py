"""``--compile`` of the training stages."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.stages.distill import distill
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm
from diladiff_cli.stages.train_prior import train_prior

from ..chain import Chain, ae_config, distill_config, mdlm_config, prior_config
from ..command_line import environment

STAGES: dict[str, tuple[Callable[..., Any], Callable[..., Any], str | None]] = {
    "data": (train_mdlm, mdlm_config, None),
    "base": (train_ae, ae_config, "mdlm"),
    "ae": (train_prior, prior_config, "ae"),
    "prior": (distill, distill_config, "prior"),
}


def losses(chain: Chain, source: str, out: Path, compiled: bool) -> list[float]:
    stage, config, parent = STAGES[source]
    inputs = {source: chain.data if parent is None else getattr(chain, parent)}
    stage(replace(config(max_steps=3), compile=compiled), **inputs, out=out)
    return [line["loss"] for line in read_metrics(out / "metrics.jsonl") if line["split"] == "train"]


@pytest.mark.parametrize("source", STAGES)
def test_what_every_step_runs_is_compiled(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    calls = list[str]()

    def compiler(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        def noted(*inputs: Any, **named: Any) -> Any:
            calls.append(function.__name__)
            return function(*inputs, **named)

        return noted

    monkeypatch.setattr(torch, "compile", compiler)
    # Validation alone would call the teacher often enough.
    monkeypatch.setattr("diladiff_cli.stages.distill.student_figures", lambda *_: {"student_1_steps": 0.0})
    monkeypatch.setattr("diladiff_cli.stages.distill.teacher_samples", lambda *_: None)
    plain = losses(tiny_chain, source, tmp_path / "plain", compiled=False)
    assert calls == []
    assert losses(tiny_chain, source, tmp_path / "compiled", compiled=True) == plain
    assert len(calls) >= len(plain) == 3


def test_without_a_compiler_its_line_says_what_goes_without(tiny_chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text(json.dumps(mdlm_config(max_steps=1).to_dict()))
    command = ["train-mdlm", "--data", tiny_chain.data, "--out", tmp_path / "out", "--compile"]
    done = subprocess.run(
        [sys.executable, "-m", "diladiff_cli", *command, "--config", tmp_path / "settings.json"],
        capture_output=True,
        text=True,
        env=environment() | {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: torch.compile failed (")
    assert last.endswith("); use --no-compile, or for the traceback add --debug")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("source", ["data", "prior"])
def test_compiled_losses_are_the_same_up_to_rounding(tiny_chain: Chain, tmp_path: Path, source: str) -> None:
    plain, compiled = (losses(tiny_chain, source, tmp_path / str(choice), choice) for choice in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-3)
