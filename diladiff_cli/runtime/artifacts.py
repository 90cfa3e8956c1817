"""Artifacts: the folders that stages pass to one another.

``config.json`` says what the folder is and names its weights and parents with their hashes; the weights are
safetensors. Loading never unpickles and never runs code from the folder.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diladiff_cli import __version__
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.card import model_card
from diladiff_cli.runtime.folders import replacing, restore

FORMAT_VERSION = 1
COMMANDS = {"mdlm": "train-mdlm", "ae": "train-ae", "prior": "train-prior", "student": "distill"}
MAX_SHARD_SIZE = "5GB"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_hash(stage: str, network: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """Identity of an artifact: its stage, its network's arguments and its weights."""
    text = json.dumps([stage, network, dict(files)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A loaded and checked artifact folder."""

    path: Path
    config: dict[str, Any]

    @property
    def stage(self) -> str:
        """One of "mdlm", "ae", "prior", "student"."""
        return str(self.config["stage"])

    @property
    def network(self) -> dict[str, Any]:
        """The network's keyword arguments."""
        return dict(self.config["network"])

    @property
    def training(self) -> dict[str, Any]:
        """The resolved training configuration."""
        return dict(self.config["training"])

    @property
    def hash(self) -> str:
        """Content hash, as children record it."""
        return str(self.config["hash"])

    @property
    def data(self) -> dict[str, Any]:
        """The token data set that it was trained on: path, fingerprint, length."""
        return dict(self.config["data"])

    @property
    def tokenizer_path(self) -> Path:
        """Folder of the tokenizer."""
        return self.path / "tokenizer"

    def state_dict(self) -> dict[str, Tensor]:
        """The (averaged) weights, after a check of their hashes.

        Raises:
            UserError: A weight file is missing, truncated or changed.
        """
        state: dict[str, Tensor] = {}
        for name, wanted in self.config["files"].items():
            path = self.path / name
            remedy = f"restore the file or make the artifact again with {COMMANDS[self.stage]}"
            if not path.is_file():
                raise UserError(f"{path} is missing", remedy)
            if file_hash(path) != wanted:
                raise UserError(f"{path} is damaged: its hash is not the one in config.json", remedy)
            if path.suffix == ".safetensors":
                try:
                    state |= load_file(path)
                except SafetensorError as error:
                    raise UserError(f"{path} is no valid safetensors file ({error})", remedy) from error
        return state

    def parent(self, stage: str) -> "Artifact":
        """The artifact of another stage that this one builds on.

        Raises:
            UserError: It is missing, or not the one that this artifact was made with.
        """
        link = self.config["parents"].get(stage)
        if link is None:
            raise UserError(f"{self.path} has no parent of stage {stage}", f"see what it has with: info {self.path}")
        folder = linked(self.path, link["path"])
        if not (folder / "config.json").exists():
            raise UserError(
                f"{self.path} builds on {folder}, which is missing",
                f"put it back, or make it again with {COMMANDS[stage]}",
            )
        found = load_artifact(folder, stage)
        if found.hash != link["hash"]:
            raise UserError(
                f"{self.path} was made with another version of {folder}",
                f"restore that version, or run {COMMANDS[self.stage]} again",
            )
        return found


def linked(folder: Path, link: str) -> Path:
    """What a relative path recorded in ``folder`` leads to; where the folder is a link itself, from its real place."""
    return Path(os.path.normpath(folder.resolve() / link))


def load_artifact(path: Path | str, stage: str | tuple[str, ...] | None = None) -> Artifact:
    """Open an artifact: the only way in.

    Args:
        path: Its folder.
        stage: The stage or stages wanted; None for any.

    Raises:
        UserError: Nothing there, a damaged config.json, another stage or a newer format.
    """
    path = Path(path)
    wanted = (stage,) if isinstance(stage, str) else stage or tuple(COMMANDS)
    remedy = " or ".join(f"{COMMANDS[s]} makes one" for s in wanted)
    restore(path)
    try:
        config = json.loads((path / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{path} is no artifact of stage {'/'.join(wanted)}: no config.json", remedy) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'config.json'} cannot be read ({error})", remedy) from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    needed = {"stage", "format_version", "network", "training", "parents", "data", "files", "hash"}
    if not isinstance(config, dict) or not needed <= config.keys():
        found = config.get("stage") if isinstance(config, dict) else None
        what = "a token data set or latents" if found in ("data", "latents") else "not an artifact"
        raise UserError(f"{path} is {what}, wanted stage {'/'.join(wanted)}", remedy)
    if not isinstance(version, int) or not all(
        isinstance(config[key], dict) for key in ("network", "training", "parents", "data", "files")
    ):
        raise UserError(f"{path / 'config.json'} is damaged", remedy)
    if config["stage"] not in wanted:
        raise UserError(f"{path} is of stage {config['stage']}, wanted {'/'.join(wanted)}", remedy)
    if any(Path(name).name != name or name == ".." for name in config["files"]):
        raise UserError(f"{path / 'config.json'} names a file outside its folder", remedy)
    if config["hash"] != content_hash(config["stage"], config["network"], config["files"]):
        raise UserError(f"{path / 'config.json'} was changed: its hash does not fit", remedy)
    return Artifact(path, config)


def parent_links(out: Path, parents: Mapping[str, Artifact]) -> dict[str, dict[str, str]]:
    """Parents as an artifact at ``out`` records them: relative path and content hash."""
    return {
        stage: {"path": os.path.relpath(parent.path.resolve(), out.resolve()), "hash": parent.hash}
        for stage, parent in parents.items()
    }


def write_artifact(
    folder: Path,
    *,
    stage: str,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    state_dict: Mapping[str, Tensor],
    parents: Mapping[str, Mapping[str, str]],
    data: Mapping[str, Any],
    tokenizer_path: Path,
    progress: Mapping[str, Any],
) -> dict[str, Any]:
    """Write all files of an artifact into an empty folder; returns its config."""
    save_torch_state_dict(
        {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}, folder, max_shard_size=MAX_SHARD_SIZE
    )
    files = {p.name: file_hash(p) for p in sorted(folder.glob("model*.safetensors*"))}
    config = {
        "stage": stage,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "network": dict(network),
        "training": dict(training),
        "progress": dict(progress),
        "parents": {k: dict(v) for k, v in parents.items()},
        "data": dict(data),
        "files": files,
        "hash": content_hash(stage, network, files),
    }
    shutil.copytree(tokenizer_path, folder / "tokenizer")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "README.md").write_text(model_card(config))
    return config


def save_artifact(out: Path, extra: Callable[[Path], None] | None = None, **content: Any) -> dict[str, Any]:
    """Write an artifact atomically; ``extra`` may add files (training state, metrics) before it appears."""
    with replacing(out, content["stage"]) as folder:
        config = write_artifact(folder, **content)
        if extra is not None:
            extra(folder)
    return config
