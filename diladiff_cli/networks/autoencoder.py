"""The auto-encoder: features -> latents -> token logits, with its statistics (method section 3)."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.encoder import LatentEncoder
from diladiff_cli.networks.moments import RunningMoments

Corruption = Callable[[Tensor], tuple[Tensor, Tensor]]  # z (B, N, C) -> corrupted z, visible vectors (B, N)


class AutoEncoder(nn.Module):
    """Encoder, decoder and the running statistics of features and latents.

    Args:
        encoder: Keyword arguments of :class:`LatentEncoder`.
        decoder: Keyword arguments of :class:`TokenDenoiser`, with cross-attention.
        stats_momentum: Update rate of the latents' statistics.
    """

    def __init__(self, *, encoder: Mapping[str, Any], decoder: Mapping[str, Any], stats_momentum: float = 0.01) -> None:
        super().__init__()
        self.encoder = LatentEncoder(**encoder)
        self.decoder = TokenDenoiser(**decoder)
        self.feature_moments = RunningMoments((encoder["feature_width"],))
        shape = (encoder["latents"], encoder["latent_width"])
        self.latent_moments = RunningMoments(shape, stats_momentum)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(N, C) of a latent."""
        return self.latent_moments.mean.shape[0], self.latent_moments.mean.shape[1]

    def encode(self, features: Tensor) -> Tensor:
        """Standardised latents z_0 (B, N, C) of raw features (B, L, D)."""
        return self.latent_moments.standardise(self.encoder(self.feature_moments.standardise(features)))

    def latents_for_decoder(self, z_0: Tensor) -> Tensor:
        """z = sigma_z z_0 + mu_z, what the decoder attends to."""
        return self.latent_moments.restore(z_0)

    def forward(
        self,
        features: Tensor,
        feature_mask: Tensor | None,
        x_t: Tensor,
        select: Tensor,
        corrupt: Corruption | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits (M, K) of the selected positions, or the targets' NLL (M,), through encoder and decoder in one call.

        Args:
            features: (B, L, D) standardised, perhaps augmented features.
            feature_mask: (B, L), the features that the encoder may see.
            x_t: (B, L) masked tokens.
            select: (B, L) bool, where logits are wanted.
            corrupt: Augmentation of the latents.
            targets: (M,) clean tokens at the selected positions.
        """
        z = self.encoder(features, feature_mask)
        if self.training:
            self.latent_moments.collect(z)
        z, mask = (z, None) if corrupt is None else corrupt(z)
        return self.decoder(x_t, select, z, mask, targets)


def load_base_weights(decoder: TokenDenoiser, base: Mapping[str, Tensor]) -> None:
    """Start a decoder from a base: all weights but the new cross-attention; the embedding table is frozen.

    Raises:
        ValueError: The base is of another shape.
    """
    missing, unexpected = decoder.load_state_dict(dict(base), strict=False)
    if unexpected or any(".cross." not in name for name in missing):
        raise ValueError(f"the base does not fit the decoder: missing {missing}, unexpected {unexpected}")
    decoder.embedding.weight.requires_grad_(False)
