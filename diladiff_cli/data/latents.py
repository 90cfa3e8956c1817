"""Latent data sets: what ``encode --ae`` writes, memory-mapped."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diladiff_cli.data.shards import Shards
from diladiff_cli.errors import UserError

FORMAT_VERSION = 1


@dataclass(frozen=True)
class LatentData:
    """An opened latent folder."""

    path: Path
    config: dict[str, Any]

    def split(self, name: str) -> Shards:
        """Rows (N, C) in float16 of "train" or "valid", in the order of the token blocks."""
        return Shards(self.path, self.config["splits"][name], "latents")


def open_latents(path: Path) -> LatentData:
    """Open a folder written by ``encode --ae``.

    Raises:
        UserError: No latents there, or not complete.
    """
    remedy = f"make it with encode --ae ckpt/ae --out {path}"
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no complete latents ({error})", remedy) from error
    if config.get("stage") != "latents" or config.get("format_version") != FORMAT_VERSION:
        raise UserError(f"{path} is of stage {config.get('stage')}, wanted latents", remedy)
    return LatentData(path, config)
