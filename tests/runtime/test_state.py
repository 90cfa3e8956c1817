from pathlib import Path

import pytest
import torch
from torch import nn

from diladiff_cli.errors import UserError
from diladiff_cli.integrity import sealed
from diladiff_cli.runtime.state import load_state, read_progress, save_state, whole_state

PROGRESS = {
    "step": 2,
    "rows": 32,
    "seconds": 0.3,
    "validation": {"loss": 0.1 + 0.2},
    "training": {"seed": 0},
    "made_from": {"data set": "abc"},
    "validated_step": 2,
    "skipped_steps": 0,
    "files": {},
}


def trained(width: int = 3, steps: int = 2) -> tuple[nn.Linear, nn.Linear, list[torch.optim.Optimizer]]:
    torch.manual_seed(0)
    model, averaged = nn.Linear(width, width), nn.Linear(width, width)
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([model.bias], lr=0.1),
        torch.optim.Muon([model.weight], lr=0.1),
    ]
    for _ in range(steps):
        step(model, optimizers)
    return model, averaged, optimizers


def step(model: nn.Linear, optimizers: list[torch.optim.Optimizer]) -> None:
    model(torch.ones(1, model.in_features)).square().sum().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_weights_and_optimisers_go_on_bit_for_bit(tmp_path: Path) -> None:
    model, averaged, optimizers = trained()
    save_state(tmp_path / "state", whole_state(model, averaged, optimizers), PROGRESS)
    other, other_averaged, other_optimizers = trained(steps=0)
    load_state(tmp_path / "state", other, other_averaged, other_optimizers)
    assert torch.equal(averaged.weight, other_averaged.weight)
    for _ in range(3):
        step(model, optimizers)
        step(other, other_optimizers)
    assert torch.equal(model.weight, other.weight)
    assert torch.equal(model.bias, other.bias)
    assert read_progress(tmp_path / "state") == {k: v for k, v in PROGRESS.items() if k != "files"}


def test_a_run_that_was_never_saved_has_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "state") is None


@pytest.mark.parametrize("fault", ["missing", "truncated", "another network"])
def test_a_state_that_cannot_be_used_gives_one_line(tmp_path: Path, fault: str) -> None:
    model, averaged, optimizers = trained()
    save_state(tmp_path / "state", whole_state(model, averaged, optimizers), PROGRESS)
    file = tmp_path / "state" / "state.safetensors"
    if fault == "missing":
        file.unlink()
    elif fault == "truncated":
        file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(UserError, match=r"state\.safetensors cannot be used \(.+\); start over with --fresh") as caught:
        load_state(tmp_path / "state", *trained(4 if fault == "another network" else 3))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b'{"step": 2', b"", b"\xff\xfe", b"[]", b"{}"])
def test_damaged_progress_gives_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(UserError, match=r"state\.json is damaged \(.+\); start over with --fresh"):
        read_progress(tmp_path)


@pytest.mark.parametrize("name", [name for name in PROGRESS if name != "files"])
def test_progress_that_lacks_something_is_damaged(tmp_path: Path, name: str) -> None:
    kept = {other: value for other, value in PROGRESS.items() if other != name}
    (tmp_path / "state.json").write_text(sealed(kept))
    with pytest.raises(UserError, match=rf"state\.json is damaged \(no {name}\); "):
        read_progress(tmp_path)


@pytest.mark.parametrize("name", ["step", "rows", "seconds"])
def test_progress_below_zero_is_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "state.json").write_text(sealed(PROGRESS | {name: -1}))
    with pytest.raises(UserError, match=rf"state\.json is damaged \(an odd {name}\); "):
        read_progress(tmp_path)
