"""Which rows a run draws, also where the size of its batches changes."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from diladiff_cli.runtime.state import read_progress


def drawn(toy: ModuleType, out: Path, batch_size: int, steps: int, **more: Any) -> list[int]:
    """The rows of a run, in order."""
    rows: list[int] = []

    def fetch(numbers: np.ndarray) -> Tensor:
        rows.extend(numbers.tolist())
        found: Tensor = toy.DATA[numbers]
        return found

    toy.toy_train(toy.settings(batch_size=batch_size, max_steps=steps), out, fetch=fetch, **more)
    return rows


def test_a_run_that_goes_on_with_other_batches_misses_no_row(toy: ModuleType, tmp_path: Path) -> None:
    rows = drawn(toy, tmp_path / "run", batch_size=8, steps=3)
    assert read_progress(tmp_path / "run" / "state")["rows"] == 24  # type: ignore[index]
    rows += drawn(toy, tmp_path / "run", batch_size=2, steps=8, resume=True)
    rows += drawn(toy, tmp_path / "run", batch_size=4, steps=11, resume=True)
    assert read_progress(tmp_path / "run" / "state")["rows"] == 46  # type: ignore[index]
    assert rows == drawn(toy, tmp_path / "whole", batch_size=2, steps=23)
