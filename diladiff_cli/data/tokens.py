"""Token data sets: what ``encode`` writes, packed blocks of L tokens, memory-mapped."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.data.shards import Shards
from diladiff_cli.errors import UserError

FORMAT_VERSION = 1
STAGE = "data"
NEEDED = {"format_version", "fingerprint", "length", "vocab_size", "mask_id", "separator_id", "splits"}


@dataclass(frozen=True)
class TokenSplit:
    """Blocks of one split."""

    shards: Shards

    def __len__(self) -> int:
        return len(self.shards)

    def gather(self, rows: Sequence[int] | np.ndarray) -> Tensor:
        """(B, L) int64 token ids of the blocks of those numbers."""
        return torch.from_numpy(self.shards.gather(rows).astype(np.int64))


@dataclass(frozen=True)
class TokenData:
    """An opened token data set."""

    path: Path
    config: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the blocks and of the tokenizer."""
        return str(self.config["fingerprint"])

    @property
    def length(self) -> int:
        """L, tokens of a block."""
        return int(self.config["length"])

    @property
    def vocab_size(self) -> int:
        """K, the mask token included."""
        return int(self.config["vocab_size"])

    @property
    def mask_id(self) -> int:
        """The mask token, which no block contains."""
        return int(self.config["mask_id"])

    @property
    def separator_id(self) -> int:
        """The token at the end of every document."""
        return int(self.config["separator_id"])

    @property
    def tokenizer_path(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    def split(self, name: str) -> TokenSplit:
        """The blocks of "train" or "valid"."""
        return TokenSplit(Shards(self.path, self.config["splits"][name], "tokens"))


def open_tokens(path: Path) -> TokenData:
    """Open a folder written by ``encode``.

    Raises:
        UserError: No token data set there, a damaged one, or one of a newer format.
    """
    remedy = f"make it with encode TEXT --out {path}"
    try:
        config = json.loads((path / "config.json").read_text())
        found = config.get("stage")
    except FileNotFoundError as error:
        raise UserError(f"{path} is no token data set: no config.json", remedy) from error
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read ({error})", remedy) from error
    if found != STAGE:
        raise UserError(f"{path} is of stage {found}, wanted {STAGE}", remedy)
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    missing = NEEDED - config.keys()
    if missing:
        raise UserError(f"{path / 'config.json'} is damaged: it has no {min(missing)}", remedy)
    return TokenData(path, config)
