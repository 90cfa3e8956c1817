"""Latent data sets: what ``encode --ae`` writes, memory-mapped."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diladiff_cli.data.shards import Shards, well_formed
from diladiff_cli.errors import UserError, wrong_folder
from diladiff_cli.integrity import CONFIG_FILE, read_config

FORMAT_VERSION = 1
STAGE = "latents"


@dataclass(frozen=True)
class LatentData:
    """An opened latent folder."""

    path: Path
    config: dict[str, Any]

    def split(self, name: str) -> Shards:
        """Rows (N, C) in float16 of "train" or "valid", in the order of the token blocks."""
        shape = tuple(self.config["shape"])
        return Shards(self.path, self.config["splits"][name], "latents", shape, ("F16",))


def open_latents(path: Path) -> LatentData:
    """Open a folder written by ``encode --ae``.

    Raises:
        UserError: No latents there, not complete, or of a newer format.
    """
    remedy = f"make it again with encode --ae --fresh --out {path}"
    config = read_config(path / CONFIG_FILE, remedy)
    if config is None:
        raise wrong_folder(path, (STAGE,))
    stage = config.get("stage")
    if stage != STAGE:
        raise wrong_folder(path, (STAGE,), stage)
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    shape = config.get("shape")
    if (
        version != FORMAT_VERSION
        or not well_formed(config.get("splits"))
        or not (isinstance(shape, list) and all(type(size) is int for size in shape))
        or not all(isinstance(config.get(key), str) for key in ("ae_hash", "fingerprint", "data"))
    ):
        raise UserError(f"{path / CONFIG_FILE} is damaged", remedy)
    return LatentData(path, config)
