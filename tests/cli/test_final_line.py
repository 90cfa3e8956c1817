"""The line that a training ends with."""

from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.cli.train import _finish


@pytest.mark.parametrize(
    ("validated_step", "figures", "when"),
    [
        (9, {"nll": 4.5}, ""),
        (5, {"nll": 4.5}, ", by the validation after step 5"),
        (0, {"nll": 4.5}, ", by the validation before the first step"),
        (0, {}, ""),
        (-1, {}, ""),
    ],
)
def test_figures_of_an_earlier_step_are_told_as_such(
    validated_step: int, figures: dict[str, Any], when: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _finish({"step": 9, "seconds": 2.0, "validated_step": validated_step} | figures, Path("out"), dry_run=False)
    told = "".join(f", {name} {value:g}" for name, value in figures.items())
    assert capsys.readouterr().err == f"out: step 9, seconds 2{told}{when} (explained in out/README.md)\n"
