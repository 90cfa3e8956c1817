"""Artifacts made by somebody who can count hashes as well as we can."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import file_hash, sealed
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import content_hash
from diladiff_cli.runtime.state import load_state
from diladiff_cli.tokenizer_files import tokenizer_paths

from ..chain import Chain


def forge(folder: Path, change: Callable[[dict[str, Any]], Any] = lambda config: None) -> None:
    """Change an artifact's files and its config.json, all hashes made to fit: an attacker can count as well."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    config["files"] = {name: file_hash(folder / name) for name in config["files"] if (folder / name).is_file()}
    config["tokenizer"] = {name: file_hash(path) for name, path in tokenizer_paths(folder).items()}
    config["hash"] = content_hash(config["stage"], config["network"], config["files"], config["tokenizer"])
    (folder / "config.json").write_text(sealed(config))


def refused(use: Callable[[], Any], *parts: str, seconds: float = 5.0) -> None:
    """Asserts one line that names the parts, and soon."""
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        use()
    assert time.monotonic() - start < seconds
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def forged_weights(chain: Chain, raw: bytes) -> Callable[[], Any]:
    (chain.mdlm / "model.safetensors").write_bytes(raw)
    forge(chain.mdlm)
    return lambda: load(chain.mdlm, "cpu")


def forged_tokenizer(chain: Chain, raw: bytes) -> Callable[[], Any]:
    (chain.mdlm / "tokenizer.json").write_bytes(raw)
    forge(chain.mdlm)
    return lambda: load_tokenizer(chain.mdlm)


def forged_state(chain: Chain, raw: bytes) -> Callable[[], Any]:
    folder = chain.mdlm / "state"
    (folder / "state.safetensors").write_bytes(raw)
    progress = json.loads((folder / "state.json").read_text())
    progress["files"] = {"state.safetensors": file_hash(folder / "state.safetensors")}
    (folder / "state.json").write_text(sealed(progress))
    return lambda: load_state(folder, torch.nn.Linear(1, 1), torch.nn.Linear(1, 1), [])


def forged_shard(chain: Chain, raw: bytes) -> Callable[[], Any]:
    (chain.data / "train-00000.safetensors").write_bytes(raw)
    return lambda: open_tokens(chain.data).split("train").gather([0])


FORGED = {
    "model.safetensors": forged_weights,
    "tokenizer": forged_tokenizer,
    "state.safetensors": forged_state,
    "train-00000.safetensors": forged_shard,
}
