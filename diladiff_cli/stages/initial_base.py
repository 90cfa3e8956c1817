"""The base that ``train-mdlm --init`` begins with: an artifact of this package, or a published checkpoint."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from diladiff_cli.data.tokenizer import same_tokenizer
from diladiff_cli.data.tokens import TokenData
from diladiff_cli.downloads import download
from diladiff_cli.errors import UserError, first_line, meant_instead, reason
from diladiff_cli.hub import hub_parts, names_a_path
from diladiff_cli.integrity import CONFIG_FILE, file_hash, read_config, read_json
from diladiff_cli.networks.public import is_public, public_base
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.folders import restore
from diladiff_cli.runtime.model_paths import name_of
from diladiff_cli.stages.from_artifacts import build, own_arguments
from diladiff_cli.tokenizer_files import PATTERNS

WEIGHTS = "model.safetensors"
REMEDY = "give a base, which train-mdlm writes, or a published checkpoint of MDLM, a folder or its Hub id"
ENCODE = "encode the text with the tokenizer of that base, --tokenizer"


@dataclass(frozen=True)
class InitialBase:
    """A base to begin with.

    Attributes:
        source: What it is called: a folder, ``shipped/parents/mdlm`` or a Hub id.
        network: Keyword arguments of its :class:`~diladiff_cli.networks.denoiser.TokenDenoiser`.
        weights: Its state.
        digest: Hash of its content.
        home: The folder of an artifact, which has its tokenizer.
    """

    source: str
    network: dict[str, Any]
    weights: dict[str, Tensor]
    digest: str
    home: Path | None = None


def initial_base(source: Path | str, tokens: TokenData) -> InitialBase:
    """A base for the texts of a data set.

    Args:
        source: An artifact of ``train-mdlm``, a folder with the ``config.json`` and ``model.safetensors`` of a
            published checkpoint, or the Hub id of either, ``owner/name[@revision]``.
        tokens: The data set; the base must have its vocabulary, and positions for texts of its length.

    Raises:
        UserError: There is no such base, it is of another kind or damaged, or it does not fit the data set.
    """
    base = _read_base(str(source))
    network = base.network
    for name, here in (("vocab_size", tokens.vocab_size), ("mask_id", tokens.mask_id)):
        if network[name] != here:
            what = f"{base.source} has {name} {network[name]}, and {tokens.path} {here}"
            raise UserError(what, ENCODE if base.home is None else f"{ENCODE} {base.source}")
    if base.home is not None and not same_tokenizer(base.home, tokens.path):
        raise UserError(f"{base.source} has another tokenizer than {tokens.path}", f"{ENCODE} {base.source}")
    weights = dict(base.weights)
    if "position" in weights:  # learned ones
        most = len(weights["position"])
        if tokens.length > most:
            what = f"{base.source} has learned positions for {most} tokens, and {tokens.path} texts of {tokens.length}"
            raise UserError(what, f"encode the text with --length {most} or less")
        weights["position"] = weights["position"][: tokens.length].clone()
    if network.get("length", tokens.length) != tokens.length:
        seen = f"{base.source} has seen texts of {network['length']} tokens"
        say(f"{seen}; those of {tokens.path} have {tokens.length}")
    return replace(base, network=network | {"length": tokens.length}, weights=weights)


def _read_base(source: str) -> InitialBase:
    folder = Path(source).expanduser()
    restore(folder)
    called = source
    if folder.is_dir():
        called = name_of(folder)
    else:
        if folder.exists() or names_a_path(source) or "/" not in source:
            raise UserError(f"there is no folder {source}", meant_instead(folder, REMEDY, Path.is_dir))
        name, configuration, revision = hub_parts(source)
        if configuration is not None:
            raise UserError(f"{source} is neither a folder nor the Hub id of a model", REMEDY)
        say(f"asking the Hub for {source}, which is not a folder here")
        files = [CONFIG_FILE, "model*.safetensors*", *PATTERNS]
        folder = download(name, files, REMEDY, revision, needed=(CONFIG_FILE, "model*.safetensors"))
    config = read_config(folder / CONFIG_FILE, REMEDY, read_json) or {}
    if "stage" in config or not config:
        artifact = load_artifact(folder, "mdlm")
        network, state = own_arguments(artifact.network), build(artifact).state_dict()
        return InitialBase(called, network, state, artifact.hash, folder)
    try:
        weights = load_file(folder / WEIGHTS)
        if not is_public(weights):
            raise ValueError("it has not the weights of one")
        network, state = public_base(weights, config)
        digest = file_hash(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({reason(error)})", REMEDY) from error
    except ValueError as error:
        raise UserError(f"{source} is not a checkpoint of MDLM: {first_line(error)}", REMEDY) from error
    return InitialBase(called, network, state, digest)
