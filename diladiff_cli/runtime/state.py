"""What a run needs to go on: weights, optimiser and progress, as safetensors and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diladiff_cli.errors import UserError


def save_state(
    folder: Path,
    model: nn.Module,
    averaged: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    progress: Mapping[str, Any],
) -> None:
    """Write ``state.safetensors`` and ``state.json`` into a new folder."""
    folder.mkdir()
    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in averaged.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{k}": torch.as_tensor(v) for k, v in values.items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, folder / "state.safetensors")
    (folder / "state.json").write_text(json.dumps(dict(progress)) + "\n")


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The progress of a stored run, or None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        progress: dict[str, Any] = json.loads((folder / "state.json").read_text())
        missing = {"step", "seconds", "bad_steps", "validation", "training", "made_from"} - set(progress)
        if missing:
            raise ValueError(f"no {min(missing)}")
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / 'state.json'} is damaged ({error})", "start over with --fresh") from error
    return progress


def load_state(
    folder: Path, model: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put stored tensors back into a run built with the same configuration.

    Raises:
        UserError: The file is missing, damaged, or of another network.
    """
    path = folder / "state.safetensors"
    try:
        tensors = load_file(path)
        _put(model, tensors, "model/")
        _put(averaged, tensors, "average/")
        for number, optimizer in enumerate(optimizers):
            state = optimizer.state_dict()
            state["state"] = _nested(tensors, f"optimizer/{number}/")
            optimizer.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be used ({str(error).splitlines()[0]})", "start over with --fresh") from error


def _put(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})


def _nested(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            nested.setdefault(int(index), {})[key] = value
    return nested
