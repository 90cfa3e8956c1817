"""Perceiver encoder: features of a text -> latent vectors (method section 3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.networks.attention import attend
from diladiff_cli.networks.denoiser import latent_positions
from diladiff_cli.networks.layers import (
    FeedForward,
    QKNorm,
    init_weights,
    merge_heads,
    split_heads,
    visible,
)
from diladiff_cli.networks.norms import RMSNorm
from diladiff_cli.networks.products import Linear
from diladiff_cli.networks.rotary import rotary_angles, rotate


class LatentReader(nn.Module):
    """Latents attend to the concatenation of features and latents, with separate projections of the two."""

    def __init__(self, width: int, heads: int, local: bool) -> None:
        super().__init__()
        self.heads, self.local = heads, local
        self.q = Linear(width, width, bias=False)
        self.kv_features = Linear(width, 2 * width, bias=False)
        self.kv_latents = Linear(width, 2 * width, bias=False)
        self.q_norm = QKNorm(width // heads, local)
        self.k_norm = QKNorm(width // heads, local)
        self.out = Linear(width, width, bias=False)

    def forward(
        self, z: Tensor, features: Tensor, mask: Tensor | None, latent_angles: Tensor, feature_angles: Tensor
    ) -> Tensor:
        kv = torch.cat([self.kv_features(features), self.kv_latents(z)], dim=1)  # (B, L + N, 2D)
        k, v = (split_heads(part, self.heads) for part in kv.chunk(2, dim=-1))
        q, k = self.q_norm(split_heads(self.q(z), self.heads)), self.k_norm(k)
        if self.local:
            q = rotate(q, latent_angles)
            k = rotate(k, torch.cat([feature_angles, latent_angles]))
        if mask is not None:
            mask = visible(torch.cat([mask, mask.new_ones(len(mask), z.shape[1])], dim=1))
        return self.out(merge_heads(attend(q, k, v, mask)))


class EncoderBlock(nn.Module):
    """Pre-norm :class:`LatentReader` and feed-forward."""

    def __init__(self, width: int, heads: int, local: bool) -> None:
        super().__init__()
        self.latent_norm = RMSNorm(width)
        self.feature_norm = RMSNorm(width)
        self.reader = LatentReader(width, heads, local)
        self.mlp_norm = RMSNorm(width)
        self.mlp = FeedForward(width, 4 * width, "gelu")

    def forward(
        self, z: Tensor, features: Tensor, mask: Tensor | None, latent_angles: Tensor, feature_angles: Tensor
    ) -> Tensor:
        read = self.reader(self.latent_norm(z), self.feature_norm(features), mask, latent_angles, feature_angles)
        z = z + read
        return z + self.mlp(self.mlp_norm(z))


class LatentEncoder(nn.Module):
    """E_phi: standardised features (B, L, D_feat) -> latents (B, N, C) of unit RMS per vector.

    Args:
        feature_width: Channels of the features.
        length: L, positions of the text.
        width: Width of the latents inside the encoder.
        layers: Perceiver blocks.
        heads: Attention heads.
        latents: N, latent vectors.
        latent_width: C, channels of a latent vector.
        local_attention: Rotary positions and a local start of the attention.
    """

    def __init__(
        self,
        *,
        feature_width: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        latents: int,
        latent_width: int,
        local_attention: bool = True,
    ) -> None:
        super().__init__()
        self.head_width = width // heads
        self.features_in = Linear(feature_width, width)
        self.feature_places = nn.Parameter(torch.zeros(length, width))
        self.queries = nn.Parameter(torch.zeros(latents, width))
        self.blocks = nn.ModuleList(EncoderBlock(width, heads, local_attention) for _ in range(layers))
        self.final_norm = RMSNorm(width)
        self.out = Linear(width, latent_width, bias=False)
        init_weights(self)
        nn.init.normal_(self.queries, std=0.02)
        nn.init.normal_(self.feature_places, std=0.02)

    def forward(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode ``features``; ``mask`` (B, L) is True where attention may look."""
        length, latents = features.shape[1], len(self.queries)
        feature_angles = rotary_angles(torch.arange(length, device=features.device), self.head_width)
        places = latent_positions(latents, length, features.device)
        latent_angles = rotary_angles(places, self.head_width)
        h = self.features_in(features) + self.feature_places[:length]  # (B, L, D)
        # Not normalised: small beside what is read, so that latents differ between texts from the first step.
        z = self.queries.expand(len(features), -1, -1)  # (B, N, D)
        for block in self.blocks:
            z = block(z, h, mask, latent_angles, feature_angles)
        z = self.out(self.final_norm(z)).float()
        return F.rms_norm(z, z.shape[-1:])
