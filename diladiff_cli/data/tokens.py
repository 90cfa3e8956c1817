"""Token data sets: what ``encode`` writes, packed blocks of L tokens, memory-mapped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diladiff_cli.data.shards import Shards, well_formed
from diladiff_cli.errors import UserError, wrong_folder
from diladiff_cli.integrity import CONFIG_FILE, read_config
from diladiff_cli.tokenizer_files import tokenizer_paths

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
STAGE = "data"
NEEDED = {"format_version", "fingerprint", "length", "vocab_size", "mask_id", "separator_id", "splits"}


@dataclass(frozen=True)
class TokenSplit:
    """Blocks of one split.

    Attributes:
        shards: The blocks as they are stored.
        vocab_size: K, above every token.
    """

    shards: Shards
    vocab_size: int

    def __len__(self) -> int:
        return len(self.shards)

    def gather(self, rows: Sequence[int] | np.ndarray) -> "Tensor":
        """(B, L) int64 token ids of the blocks of those numbers.

        Raises:
            IndexError: There is no such block.
            UserError: A block is damaged, or has a token beyond the vocabulary.
        """
        import torch  # takes seconds, for which `info` need not wait

        blocks = self.shards.gather(rows)
        if blocks.size and blocks.max() >= self.vocab_size:
            raise UserError(
                f"the data set has token {blocks.max()}, but a vocabulary of {self.vocab_size}", "run encode again"
            )
        return torch.from_numpy(blocks.astype(np.int64))


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

    def split(self, name: str) -> TokenSplit:
        """The blocks of "train" or "valid"."""
        record = self.config["splits"][name]
        return TokenSplit(Shards(self.path, record, "tokens", (self.length,), ("U16", "U32")), self.vocab_size)


def open_tokens(path: Path) -> TokenData:
    """Open a folder written by ``encode``.

    Raises:
        UserError: No token data set there, a damaged one, or one of a newer format.
    """
    remedy = f"restore it, or make it again with encode TEXT --fresh --out {path}"
    config_file = path / CONFIG_FILE
    config = read_config(config_file, remedy)
    if config is None:
        raise wrong_folder(path, (STAGE,))
    stage, version = config.get("stage"), config.get("format_version")
    if stage != STAGE:
        raise wrong_folder(path, (STAGE,), stage)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    missing = NEEDED - config.keys()
    if missing:
        raise UserError(f"{config_file} is damaged: it has no {min(missing)}", remedy)
    try:
        _check_values(path, config)
    except ValueError as error:
        raise UserError(f"{config_file} is damaged ({error})", remedy) from error
    return TokenData(path, config)


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse sizes that the files cannot have, before anything of those sizes is made."""
    limits = {"length": 1 << 40, "vocab_size": 1 << 32, "mask_id": config["vocab_size"]}
    for name, limit in (limits | {"separator_id": config["vocab_size"]}).items():
        if type(config[name]) is not int or type(limit) is not int or not 0 <= config[name] < limit:
            raise ValueError(f"{name} is {str(config[name])[:40]}")
    size = sum(file.stat().st_size for file in tokenizer_paths(path).values())
    if size and config["vocab_size"] > size:  # each token takes some bytes there
        raise ValueError(f"vocab_size is {config['vocab_size']}, more than its tokenizer can hold")
    if type(config["format_version"]) is not int or not isinstance(config["fingerprint"], str):
        raise ValueError("an odd format_version or fingerprint")
    if not well_formed(config["splits"]):
        raise ValueError("odd splits")
