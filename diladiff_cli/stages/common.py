"""What the training stages share: data, order, provenance."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diladiff_cli.config import StageConfig
from diladiff_cli.data.order import batch_rows
from diladiff_cli.data.tokens import TokenData, TokenSplit, open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import Artifact, linked


def relative(path: Path, out: Path) -> str:
    """``path`` as an artifact at ``out`` records it."""
    return os.path.relpath(path.resolve(), out.resolve())


def data_record(data: TokenData, path: Path, out: Path) -> dict[str, Any]:
    """The data set as an artifact records it."""
    return {
        "path": relative(path, out),
        "fingerprint": data.fingerprint,
        "length": data.length,
        "vocab_size": data.vocab_size,
        "mask_id": data.mask_id,
        "separator_id": data.separator_id,
    }


def open_recorded_data(artifact: Artifact, given: Path | None) -> tuple[TokenData, Path]:
    """The data set given, else the one that the artifact was trained on.

    Raises:
        UserError: It is missing, or has another tokenizer or length.
    """
    path = given or linked(artifact.path, artifact.data["path"])
    if given is None and not (path / "config.json").exists():
        raise UserError(f"the data set of {artifact.path}, {path}, is missing", "name one with --data")
    data = open_tokens(path)
    for name in ("length", "vocab_size", "mask_id"):
        found, wanted = getattr(data, name), artifact.data[name]
        if found != wanted:
            raise UserError(
                f"{path} has {name} {found}, but {artifact.path} was trained with {wanted}",
                "encode the text with that artifact's tokenizer and length",
            )
    return data, path


def row_order(config: StageConfig, rows: int) -> Any:
    """Step -> row numbers of its global batch."""
    return partial(_rows, config, rows)


def _rows(config: StageConfig, rows: int, step: int) -> np.ndarray:
    return batch_rows(config.seed, step, config.batch_size, rows)


def validation_batches(split: TokenSplit, config: StageConfig, device: torch.device) -> list[torch.Tensor]:
    """The first ``eval_batches`` batches of the validation split, the last one perhaps smaller."""
    size = min(config.batch_size, 64)
    count = min(len(split), config.eval_batches * size)
    return [split.gather(np.arange(i, min(i + size, count))).to(device) for i in range(0, count, size)]


def compile_method(name: str, model: nn.Module) -> None:
    """Replace a method by its compiled form, in place."""
    setattr(model, name, torch.compile(getattr(model, name)))


def seeded(seed: int) -> None:
    """Seed the initialisation of networks, the only use of the global generator."""
    torch.manual_seed(seed)
