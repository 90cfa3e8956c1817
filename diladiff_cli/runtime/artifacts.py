"""Artifacts: the folders that stages pass to one another.

``config.json`` says what the folder is and names its weights, its tokenizer's files and its parents with their hashes;
the weights are safetensors. Loading never unpickles and never runs code from the folder. Names of files never lead out
of it; the links to parents and data may, on purpose: an artifact is no more than a record of where those lay.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError

from diladiff_cli import __version__
from diladiff_cli.config import MAX_LATENT_SCALE, MIN_LATENT_SCALE
from diladiff_cli.errors import KINDS, UserError, wrong_folder
from diladiff_cli.hub import ON_HUB
from diladiff_cli.integrity import CONFIG_FILE, file_hash, json_hash, log_record, read_config, sealed
from diladiff_cli.runtime.card import model_card
from diladiff_cli.runtime.folders import METRICS_FILE, is_there, replacing, restore
from diladiff_cli.runtime.model_paths import name_of
from diladiff_cli.tokenizer_files import PATTERNS, write_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

FORMAT_VERSION = 2
COMMANDS = {stage: KINDS[stage][1] for stage in ("mdlm", "ae", "prior", "student")}
MAX_SHARD_SIZE = "5GB"
# What a save writes anew, or leaves out on purpose: all else in the folder is somebody else's.
OURS = (
    *(CONFIG_FILE, "README.md", METRICS_FILE, f".{METRICS_FILE}.partial-*", "state", "parents"),
    *("model.safetensors", "model-*.safetensors", "model.safetensors.index.json"),
    *(name.partition("/")[0] for name in PATTERNS),
)
TABLES = ("network", "training", "parents", "data", "files", "progress", "tokenizer")  # that every config.json has


def content_hash(stage: str, network: Mapping[str, Any], files: Mapping[str, str], tokenizer: Mapping[str, str]) -> str:
    """Identity of an artifact: its stage, its network's arguments, its weights and its tokenizer.

    Args:
        stage: The stage.
        network: The network's keyword arguments.
        files: SHA-256 of the weight files by name.
        tokenizer: SHA-256 of the tokenizer's files by name.
    """
    return json_hash([stage, network, dict(files), dict(tokenizer)])


@dataclass(frozen=True)
class Artifact:
    """A loaded and checked artifact folder.

    Attributes:
        path: As it was given.
        config: What config.json holds.
        place: The same folder, wherever the process goes.
    """

    path: Path
    config: dict[str, Any]
    place: Path = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "place", self.path.absolute())

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

    def state_dict(self) -> "dict[str, Tensor]":
        """The (averaged) weights, after a check of their hashes.

        Raises:
            UserError: A weight file is missing, truncated or changed.
        """
        from safetensors.torch import load_file  # imports torch, for which `info` need not wait

        state: dict[str, Tensor] = {}
        for name, wanted in self.config["files"].items():
            path = self.path / name
            remedy = f"restore the file or make the artifact again with {COMMANDS[self.stage]}"
            if not path.is_file():
                raise UserError(f"{path} is missing", remedy)
            try:
                if file_hash(path) != wanted:
                    raise UserError(f"{path} is damaged: its hash is not the one in {CONFIG_FILE}", remedy)
                if path.suffix == ".safetensors":
                    state |= load_file(path)  # checks the sizes in the header before it makes room for them
            except SafetensorError as error:
                raise UserError(f"{path} is not a valid safetensors file ({error})", remedy) from error
            except OSError as error:
                raise UserError(f"{path} cannot be read ({error.strerror})", remedy) from error
        return state

    def parent(self, stage: str) -> "Artifact":
        """The artifact of another stage that this one builds on.

        Raises:
            UserError: It is missing, or not the one that this artifact was made with.
        """
        link = self.config["parents"].get(stage)
        if link is None:
            raise UserError(f"{self.path} has no parent of stage {stage}", f"see what it has with: info {self.path}")
        folder = linked(self.place, link["path"])
        if not is_there(folder):
            name = name_of(folder)
            remedy = f"put it back, or make it again with {COMMANDS[stage]}"
            remedy = f"download it again with: diladiff info {name}" if name.startswith(ON_HUB) else remedy
            raise UserError(f"{self.path} builds on {name}, which is missing", remedy)
        parent = load_artifact(folder, stage)
        if parent.hash != link["hash"]:
            raise UserError(
                f"{self.path} was made with another version of {folder}",
                f"restore that version, or run {COMMANDS[self.stage]} again, with --fresh in the same place",
            )
        return parent


def linked(folder: Path, link: str) -> Path:
    """What a relative path recorded in ``folder`` leads to; where the folder is a link itself, from its real place."""
    return Path(os.path.normpath(folder.resolve() / link))


def relative(path: Path, out: Path) -> str:
    """``path`` as a folder at ``out`` records it; :func:`linked` is the way back."""
    return os.path.relpath(path.resolve(), out.resolve())


def load_artifact(path: Path | str, stage: str | tuple[str, ...] | None = None) -> Artifact:
    """Open an artifact: the only way in.

    Args:
        path: Its folder.
        stage: The stage or stages wanted; None for any.

    Raises:
        UserError: Nothing there, a damaged config.json, another kind of folder or a newer format.
    """
    path = Path(path)
    wanted = (stage,) if isinstance(stage, str) else stage or tuple(COMMANDS)
    remedy = "restore it, or make it again" + (f" with {COMMANDS[wanted[0]]}" if len(wanted) == 1 else "")
    restore(path)
    config = read_config(path / CONFIG_FILE, remedy)
    if config is None:
        raise wrong_folder(path, wanted)
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}", "upgrade diladiff")
    if not config.keys() >= {"stage", "format_version", "hash", *TABLES}:
        if config.get("stage") in COMMANDS:
            raise UserError(f"{path / CONFIG_FILE} is damaged", remedy)
        raise wrong_folder(path, wanted, config.get("stage"))
    if not _is_well_formed(config):
        raise UserError(f"{path / CONFIG_FILE} is damaged", remedy)
    if config["stage"] not in wanted:
        raise wrong_folder(path, wanted, config["stage"])
    if any(Path(name).name != name or name == ".." for name in config["files"]):
        raise UserError(f"{path / CONFIG_FILE} names a file outside its folder", remedy)
    if config["hash"] != content_hash(config["stage"], config["network"], config["files"], config["tokenizer"]):
        raise UserError(f"{path / CONFIG_FILE} was changed: its hash does not fit", remedy)
    return Artifact(path, config)


def _is_well_formed(config: Mapping[str, Any]) -> bool:
    """Whether all parts of a config.json are of the kinds that its readers rely on."""
    tables = [*(config[k] for k in TABLES), *(config.get(k, {}) for k in ("sampling", "init"))]
    if type(config["format_version"]) is not int or not all(isinstance(table, dict) for table in tables):
        return False
    links = config["parents"].values()
    texts = [config["stage"], config["hash"], *config["files"].values(), *config["tokenizer"].values()]
    if not all(isinstance(link, dict) and isinstance(link.get("path"), str) for link in links):
        return False
    scale = config.get("sampling", {}).get("latent_scale", 1.0)
    if type(scale) not in (int, float) or not MIN_LATENT_SCALE <= scale <= MAX_LATENT_SCALE:
        return False
    texts += [config["init"].get(k) for k in ("source", "hash")] if "init" in config else []
    texts += [link.get("hash") for link in links] + [config["data"].get(k, "") for k in ("path", "fingerprint")]
    return all(isinstance(text, str) for text in texts)


def parent_links(out: Path, parents: Mapping[str, Artifact]) -> dict[str, dict[str, str]]:
    """Parents as an artifact at ``out`` records them: relative path and content hash."""
    return {stage: {"path": relative(parent.path, out), "hash": parent.hash} for stage, parent in parents.items()}


def write_artifact(
    folder: Path,
    *,
    stage: str,
    network: Mapping[str, Any],
    training: Mapping[str, Any],
    state_dict: "Mapping[str, Tensor]",
    parents: Mapping[str, Mapping[str, str]],
    data: Mapping[str, Any],
    tokenizer: Mapping[str, bytes],
    progress: Mapping[str, Any],
    extra: Callable[[Path], None] | None = None,
    also: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write all files of an artifact into an empty folder; returns its config.

    Args:
        folder: Where.
        stage: The stage.
        network: The network's keyword arguments.
        training: The resolved training configuration.
        state_dict: The weights.
        parents: As :func:`parent_links` gives them.
        data: The data set's record.
        tokenizer: Files of the tokenizer, by name.
        progress: How far training came.
        extra: Adds files (training state, metrics) before ``config.json``, the last file, is written.
        also: Further fields of config.json, or other values for those.
    """
    save_torch_state_dict(
        {k: v.detach().cpu().contiguous() for k, v in state_dict.items()}, folder, max_shard_size=MAX_SHARD_SIZE
    )
    if extra is not None:
        extra(folder)
    files = {p.name: file_hash(p) for p in sorted(folder.glob("model*.safetensors*"))}
    tokenizer_hashes, log = write_tokenizer(folder, tokenizer), folder / METRICS_FILE
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
        "tokenizer": tokenizer_hashes,
        "log": log_record(log) if log.exists() else None,  # to which a run that goes on appends
        "hash": content_hash(stage, network, files, tokenizer_hashes),
    } | dict(also or {})
    (folder / CONFIG_FILE).write_text(sealed(config), encoding="utf-8")
    (folder / "README.md").write_text(model_card(config), encoding="utf-8")
    return config


def save_artifact(out: Path, extra: Callable[[Path], None] | None = None, **content: Any) -> dict[str, Any]:
    """Write an artifact atomically; ``extra`` as in :func:`write_artifact`. Files of the user's in the folder stay."""
    with replacing(out, content["stage"], OURS) as folder:
        return write_artifact(folder, extra=extra, **content)
