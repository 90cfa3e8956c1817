"""Where an auto-encoder's features come from: its base, or a Hugging Face encoder; and texts to latents upon them."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diladiff_cli.downloads import download
from diladiff_cli.errors import UserError, first_line, meant_instead
from diladiff_cli.hub import hub_parts, names_a_path
from diladiff_cli.integrity import CONFIG_FILE
from diladiff_cli.metrics.quiet import quiet_transformers
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.features import UNUSED, EncoderFeatures, FeatureSource, SelfFeatures
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import Artifact, linked
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.tokenizer_files import PATTERNS, check_tokenizer

WEIGHTS = "model*.safetensors*"
REMEDY = "give self, a Hub id or a folder with safetensors"


@dataclass(frozen=True)
class TextEncoder:
    """Frozen feature source and auto-encoder: clean tokens -> standardised latents."""

    features: FeatureSource
    autoencoder: AutoEncoder

    def to(self, device: torch.device | str) -> None:
        """Move both networks."""
        self.features.to(device)
        self.autoencoder.to(device)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(B, L) -> z_0 (B, N, C)."""
        return self.autoencoder.encode(self.features(x))


def feature_source(name: str, base: Artifact, device: torch.device | str) -> FeatureSource:
    """``self``, or a Hugging Face encoder by id or folder.

    Raises:
        UserError: The encoder cannot be loaded, or does not fit the base's tokens.
    """
    if name == "self":
        return SelfFeatures(build(base, device)).to(device)
    return encoder_features(name, base.network["vocab_size"], base.network["length"]).to(device)


def encoder_features(name: str, vocab_size: int, length: int) -> EncoderFeatures:
    """The features of a Hugging Face encoder by id or folder.

    Args:
        name: Hub id, ``owner/name[@revision]``, or folder.
        vocab_size: Of the token data set; the encoder must know as many tokens.
        length: Of the token data set; an encoder that reads less gets a text in windows.

    Raises:
        UserError: The encoder cannot be loaded, or does not fit the tokens.
    """
    model = _load_encoder(name)
    config = model.config
    if config.vocab_size < vocab_size:
        raise UserError(
            f"--features {name} has {config.vocab_size} tokens, the data {vocab_size}",
            "encode the text with that model's tokenizer, or use --features self",
        )
    # The RoBERTa kinds count positions from after the padding token.
    offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return EncoderFeatures(model, min(length, getattr(config, "max_position_embeddings", length + offset) - offset))


def encoder_folder(name: str) -> Path:
    """The folder of an encoder: its own, or that in the local cache of the Hub, brought up to date.

    Raises:
        UserError: There is none.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    repo, configuration, revision = hub_parts(name)
    if folder.exists() or names_a_path(name) or configuration is not None:
        raise UserError(f"--features {name} is not a folder", meant_instead(folder, REMEDY, Path.is_dir))
    say(f"asking the Hub for {name}, which is not a folder here")
    return download(repo, [CONFIG_FILE, WEIGHTS, *PATTERNS], REMEDY, revision, needed=(CONFIG_FILE, WEIGHTS))


def _load_encoder(name: str) -> Any:
    """A frozen encoder with all its weights, from safetensors alone."""
    from transformers import AutoModel

    folder = encoder_folder(name)
    try:
        with quiet_transformers():
            model, report = AutoModel.from_pretrained(
                folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:  # missing or damaged: transformers raises many kinds
        raise UserError(f"--features {name} cannot be loaded ({first_line(error)})", REMEDY) from error
    missing = sorted(key for key in report["missing_keys"] if not key.startswith(UNUSED))
    if missing:
        raise UserError(f"--features {name} cannot be loaded (its weights lack {missing[0]})", REMEDY)
    return model.requires_grad_(False).eval()


def recorded_source(name: str, source: FeatureSource, out: Path) -> dict[str, str]:
    """What an auto-encoder at ``out`` records of its feature source: the name, of a folder its path, and a hash."""
    if isinstance(source, SelfFeatures):  # a parent, whose hash is recorded anyway
        return {"features": name}
    folder = Path(name).expanduser()
    place = os.path.join(".", os.path.relpath(folder.resolve(), out.resolve())) if folder.is_dir() else name
    return {"features": place, "features_hash": source.hash()}


def recorded_features(ae: Artifact) -> str:
    """The name of an auto-encoder's feature source: ``self``, a Hub id, or the path of a folder."""
    name = str(ae.network["features"])
    return str(linked(ae.place, name)) if name.startswith(".") else name


def text_encoder(ae: Artifact, autoencoder: AutoEncoder, device: torch.device | str) -> TextEncoder:
    """The encoder of an auto-encoder artifact, with the feature source that it was trained on.

    Raises:
        UserError: The feature source is missing, or has other weights than it had.
    """
    return TextEncoder(recorded_feature_source(ae).to(device), autoencoder)


def recorded_feature_source(ae: Artifact) -> FeatureSource:
    """The feature source that an auto-encoder was trained on.

    Raises:
        UserError: It is missing, or has other weights than it had.
    """
    name = recorded_features(ae)
    source = feature_source(name, ae.parent("mdlm"), "cpu")
    if isinstance(source, EncoderFeatures) and source.hash() != ae.network.get("features_hash"):
        raise UserError(
            f"the encoder {name} has other weights than when {ae.path} was trained on it",
            "restore them, or train the auto-encoder again",
        )
    return source


def check_same_vocabulary(name: str, tokenizer_path: Path) -> None:
    """Refuse an encoder whose own tokenizer differs from the data's.

    Raises:
        UserError: Both have a tokenizer, and the vocabularies differ.
    """
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(encoder_folder(name), trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError):  # the last of versions 4 of transformers
        return  # a folder with weights only: the size check has to do
    known = theirs.get_vocab()
    if not known.keys() - set(theirs.all_special_tokens):
        return  # an empty tokenizer, made up where the folder has none
    check_tokenizer(tokenizer_path)
    ours = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=False)
    added = set(ours.all_special_tokens)  # the data's tokenizer may have got a mask token of its own
    if any(known.get(token, index if token in added else None) != index for token, index in ours.get_vocab().items()):
        raise UserError(
            f"--features {name} has another vocabulary than the data set",
            f"encode the text with --tokenizer {name}, or use --features self",
        )
