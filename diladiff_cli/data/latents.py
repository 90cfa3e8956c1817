"""Latent data sets: what ``encode --ae`` writes, memory-mapped."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diladiff_cli.data.shards import Shards
from diladiff_cli.errors import UserError

FORMAT_VERSION = 1
STAGE = "latents"


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
        UserError: No latents there, not complete, or of a newer format.
    """
    remedy = f"make it with encode --ae ckpt/ae --out {path}"
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} holds no complete latents ({error})", remedy) from error
    stage = config.get("stage") if isinstance(config, dict) else None
    if stage != STAGE:
        raise UserError(f"{path} is of stage {stage}, wanted {STAGE}", remedy)
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    if version != FORMAT_VERSION or not isinstance(config.get("splits"), dict):
        raise UserError(f"{path} holds no complete latents (its config.json is damaged)", remedy)
    return LatentData(path, config)
