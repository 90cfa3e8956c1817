"""Networks from artifacts, with their weights."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diladiff_cli.errors import UserError, first_line
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import EncoderFeatures, FeatureSource, SelfFeatures
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.artifacts import Artifact, linked

CLASSES: dict[str, type[nn.Module]] = {
    "mdlm": TokenDenoiser,
    "ae": AutoEncoder,
    "prior": LatentPrior,
    "student": LatentStudent,
}
MOST_LENGTH = 1 << 24  # rotary positions leave no trace of it in the weights


class _NoStartingValues(TorchFunctionMode):
    """Leaves out the functions of ``nn.init``, of which some load torch's compiler for a tensor without memory."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return kwargs["out"] if "out" in kwargs else func(*args, **kwargs)


def own_arguments(network: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a network's class, without those of the feature source beside it."""
    return {name: value for name, value in network.items() if name not in ("features", "features_hash")}


def outline(stage: str, network: Mapping[str, Any]) -> nn.Module:
    """A stage's network without values, which takes no memory; ``network`` as in its config.json."""
    with torch.device("meta"), _NoStartingValues():
        return CLASSES[stage](**own_arguments(network))


def build(artifact: Artifact, device: torch.device | str = "cpu") -> Any:
    """The artifact's network with its weights in float32, frozen, in evaluation mode.

    Nothing is made in the sizes that config.json states before they were compared with the weights.

    Raises:
        UserError: Weights are damaged, of another shape, or of more or less than the network.
    """
    network = own_arguments(artifact.network)
    state: Mapping[str, Tensor] = artifact.state_dict()
    make = CLASSES[artifact.stage]
    try:
        _check_sizes(network, state)
        wanted = {name: value.shape for name, value in outline(artifact.stage, network).state_dict().items()}
    except Exception as error:  # of whatever a constructor makes of values that no network has
        what = f"{artifact.path / 'config.json'} describes no network ({first_line(error)})"
        raise UserError(what, "make it again") from error
    odd = sorted(n for n in wanted.keys() | state.keys() if n not in state or wanted.get(n) != state[n].shape)
    if odd:
        found, needed = (
            tuple(shapes[odd[0]]) if odd[0] in shapes else "nothing" for shapes in (_shapes(state), wanted)
        )
        raise UserError(
            f"the weights of {artifact.path} do not fit its config.json ({odd[0]} is {found}, wanted {needed})",
            "make it again",
        )
    model = make(**network)
    model.load_state_dict(state)
    return model.requires_grad_(False).eval().to(device)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def _check_sizes(network: Mapping[str, Any], state: Mapping[str, Tensor]) -> None:
    """Refuse numbers that not even the outline of a network with these weights can have."""
    entries = sum(value.numel() for value in state.values())
    for name, value in network.items():
        if isinstance(value, Mapping):
            _check_sizes(value, state)
        most = len(state) if name == "layers" else max(MOST_LENGTH, entries) if name == "length" else entries
        if type(value) is int and not 0 <= value <= most:
            raise ValueError(f"{name} is {value}, more than the weights can have")


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
    return EncoderFeatures(name, base.network["vocab_size"], base.network["length"]).to(device)


def recorded_source(name: str, source: FeatureSource, out: Path) -> dict[str, str]:
    """What an auto-encoder at ``out`` records of its feature source: the name, of a folder its path, and a hash."""
    if isinstance(source, SelfFeatures):  # a parent, whose hash is recorded anyway
        return {"features": name}
    folder = Path(name)
    place = os.path.join(".", os.path.relpath(folder.resolve(), out.resolve())) if folder.is_dir() else name
    return {"features": place, "features_hash": source.hash()}


def recorded_features(ae: Artifact) -> str:
    """The name of an auto-encoder's feature source: ``self``, a Hub id, or the path of a folder."""
    name = str(ae.network["features"])
    return str(linked(ae.path, name)) if name.startswith(".") else name


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
    name, wanted = recorded_features(ae), ae.network.get("features_hash")  # none in artifacts older than it
    source = feature_source(name, ae.parent("mdlm"), "cpu")
    if wanted is not None and isinstance(source, EncoderFeatures) and source.hash() != wanted:
        raise UserError(
            f"the encoder {name} has other weights than when {ae.path} was trained on it",
            "restore them, or train the auto-encoder again",
        )
    return source
