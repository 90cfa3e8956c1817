"""Networks from artifacts, with their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.errors import UserError
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import EncoderFeatures, FeatureSource, SelfFeatures
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.artifacts import Artifact

CLASSES: dict[str, type[nn.Module]] = {
    "mdlm": TokenDenoiser,
    "ae": AutoEncoder,
    "prior": LatentPrior,
    "student": LatentStudent,
}


def build(artifact: Artifact, device: torch.device | str = "cpu") -> Any:
    """The artifact's network with its weights in float32, frozen, in evaluation mode.

    Raises:
        UserError: Weights are damaged or of another shape.
    """
    network = artifact.network
    network.pop("features", None)
    model = CLASSES[artifact.stage](**network)
    state: Mapping[str, Tensor] = artifact.state_dict()
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(
            f"the weights of {artifact.path} do not fit its config.json ({reason})", "make it again"
        ) from error
    return model.requires_grad_(False).eval().to(device)


@dataclass(frozen=True)
class TextEncoder:
    """Frozen feature source and auto-encoder: clean tokens -> standardised latents."""

    features: FeatureSource
    autoencoder: AutoEncoder

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """(B, L) -> z_0 (B, N, C)."""
        return self.autoencoder.encode(self.features(x))


def feature_source(name: str, base: Artifact, device: torch.device | str) -> FeatureSource:
    """``self``, or a Hugging Face encoder by id or folder."""
    if name == "self":
        return SelfFeatures(build(base, device)).to(device)
    return EncoderFeatures(name, base.network["vocab_size"], base.network["length"]).to(device)


def text_encoder(ae: Artifact, autoencoder: AutoEncoder, device: torch.device | str) -> TextEncoder:
    """The encoder of an auto-encoder artifact, with the feature source that it was trained on."""
    return TextEncoder(feature_source(ae.network["features"], ae.parent("mdlm"), device), autoencoder)
