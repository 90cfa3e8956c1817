"""What a run needs to go on: weights, optimiser and progress, as safetensors and JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diladiff_cli.errors import UserError, first_line
from diladiff_cli.integrity import CHECKSUM, file_hash, read_sealed, sealed
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.sharding import shared_like, whole

TENSORS = "state.safetensors"
PROGRESS: dict[str, tuple[type, ...]] = {  # what every state.json has
    "step": (int,),
    "rows": (int,),
    "seconds": (int, float),
    "validation": (dict,),
    "training": (dict,),
    "made_from": (dict,),
    "validated_step": (int,),
    "skipped_steps": (int,),
    "files": (dict,),
}


def whole_state(
    model: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer], keep: bool = True
) -> dict[str, Tensor]:
    """All tensors of a run by name, on the CPU; where they are sharded, every process has to ask.

    Args:
        model: The network that is trained.
        averaged: Its average.
        optimizers: Of the network.
        keep: False for a process that only gives its part; it gets nothing.
    """
    tensors: dict[str, Tensor] = {f"model/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in averaged.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{number}/{index}/{k}": torch.as_tensor(v) for k, v in values.items()}
    gathered = ((name, whole(value.detach())) for name, value in tensors.items())  # one after the other: memory
    return {name: value.cpu().contiguous() for name, value in gathered if keep}


def save_state(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Write ``state.safetensors``, as :func:`whole_state` has it, and ``state.json``, which has its hash, anew."""
    folder.mkdir()
    save_file(dict(tensors), folder / TENSORS)
    files = {TENSORS: file_hash(folder / TENSORS)}
    (folder / "state.json").write_text(sealed(dict(progress) | {"files": files}), encoding="utf-8")


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The progress of a stored run, or None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    try:
        progress = _read(folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'state.json'} is damaged ({error})", _remedy(folder)) from error
    return {k: v for k, v in progress.items() if k not in (CHECKSUM, "files")}


def _read(folder: Path) -> dict[str, Any]:
    progress = read_sealed(folder / "state.json")
    missing = PROGRESS.keys() - progress.keys()
    if missing:
        raise ValueError(f"no {min(missing)}")
    odd = [k for k, kinds in PROGRESS.items() if not isinstance(progress[k], kinds) or isinstance(progress[k], bool)]
    odd = odd or [k for k in ("step", "rows", "seconds") if progress[k] < 0]
    if odd:
        raise ValueError(f"an odd {min(odd)}")
    return progress


def load_state(
    folder: Path, model: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> None:
    """Put stored tensors back into a run built with the same configuration.

    Raises:
        UserError: The file is missing, damaged, or of another network.
    """
    path = folder / TENSORS
    try:
        if file_hash(path) != _read(folder)["files"].get(TENSORS):
            raise ValueError("its hash is not the one in state.json")
        tensors = load_file(path)
        _put(model, tensors, "model/")
        _put(averaged, tensors, "average/")
        for number, optimizer in enumerate(optimizers):
            state = optimizer.state_dict()
            state["state"] = _shared(optimizer, _nested(tensors, f"optimizer/{number}/"))
            optimizer.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be used ({first_line(error)})", _remedy(folder)) from error


def _remedy(folder: Path) -> str:
    """What is left to do without a state: the artifact that it lies in may be whole."""
    try:
        artifact = load_artifact(folder.parent)
        artifact.state_dict()
    except UserError:
        return "start over with --fresh"
    step = artifact.config["progress"].get("step")
    return f"the model of step {step} in {artifact.path} is whole: use it as it is, or train it again with --fresh"


def _put(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    own = module.state_dict()
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    module.load_state_dict({k: shared_like(v, own[k]) if k in own else v for k, v in state.items()})


def _shared(optimizer: torch.optim.Optimizer, nested: dict[int, dict[str, Tensor]]) -> dict[int, dict[str, Tensor]]:
    """The state of each parameter shared out as the parameter is, before the rest of it reaches the device."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        index: {
            k: shared_like(v, parameters[index]) if v.shape == parameters[index].shape else v for k, v in own.items()
        }
        for index, own in nested.items()
    }


def _nested(tensors: Mapping[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            nested.setdefault(int(index), {})[key] = value
    return nested
