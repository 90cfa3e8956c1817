"""Token denoiser: the masked diffusion base, and with latents the decoder (method sections 2 and 3)."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.core.objectives import token_nll
from diladiff_cli.networks.layers import Block, LatentCache, init_weights
from diladiff_cli.networks.norms import make_norm
from diladiff_cli.networks.products import Linear, linear
from diladiff_cli.networks.rotary import has_rotary, rotary_angles

LOGITS_AT_ONCE = 1 << 25  # of a training step: 128 MB in float32
MAX_GATHERED_SHARE = 0.75  # share of positions beyond which gathering them saves next to nothing


def latent_positions(latents: int, length: int, device: torch.device | str = "cpu") -> Tensor:
    """(N,) the place in the text of each latent: (j + 0.5) L / N - 0.5 (method section 3)."""
    return (torch.arange(latents, dtype=torch.float32, device=device) + 0.5) * (length / latents) - 0.5


def places_of(select: Tensor) -> tuple[Tensor | None, Tensor]:
    """The places where a mask (B, L) is True, row by row.

    Returns:
        (B, M) indices of each row's selected places, ascending, shorter rows padded with unselected ones, and (B, M)
        bool, which of them are selected. Where a row has more than :data:`MAX_GATHERED_SHARE` of its places selected:
        None and the mask itself.
    """
    counts = select.sum(1)
    most = int(counts.max()) if len(counts) else 0
    if most > MAX_GATHERED_SHARE * select.shape[1]:
        return None, select
    places = select.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most].contiguous()
    return places, torch.arange(most, device=select.device) < counts[:, None]


class TokenDenoiser(nn.Module):
    """x_theta(x_t) or x_theta(x_t, z): logits of the clean tokens, without time input.

    Args:
        vocab_size: K, the mask token included.
        mask_id: The mask token; its logit is always -inf.
        length: Longest text L.
        width: Width of the residual stream.
        layers: Transformer blocks.
        heads: Attention heads.
        mlp_width: Hidden width of the feed-forward (0: four times ``width``).
        activation: "gelu", "gelu_tanh" or "swiglu".
        norm: "rmsnorm" or "layernorm".
        bias: Biases in norms, feed-forward and head.
        qk_norm: Normalise queries and keys.
        positions: "learned" (absolute), "rotary", or "local": rotary, with attention that starts local.
        tie_embeddings: Share the embedding table with the vocabulary head.
        cross_layers: Blocks with cross-attention to latents; none for the base.
        latents: N, vectors of the latent.
        latent_width: C, channels of a latent vector.
        local_attention: Rotary positions and a local start in the cross-attention.

    Raises:
        ValueError: Positions that :func:`~diladiff_cli.networks.rotary.has_rotary` refuses.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        mask_id: int,
        length: int,
        width: int,
        layers: int,
        heads: int,
        mlp_width: int = 0,
        activation: str = "gelu_tanh",
        norm: str = "rmsnorm",
        bias: bool = False,
        qk_norm: bool = True,
        positions: str = "learned",
        tie_embeddings: bool = False,
        cross_layers: Sequence[int] = (),
        latents: int = 0,
        latent_width: int = 0,
        local_attention: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size, self.mask_id, self.length = vocab_size, mask_id, length
        self.width, self.heads, self.rotary = width, heads, has_rotary(positions, qk_norm)
        self.latents, self.latent_width = latents, latent_width
        self.embedding = nn.Embedding(vocab_size, width)
        self.position = None if self.rotary else nn.Parameter(torch.zeros(length, width))
        block: dict[str, Any] = {"activation": activation, "norm": norm, "bias": bias, "qk_norm": qk_norm}
        block |= {"mlp_width": mlp_width or 4 * width, "local": positions == "local", "local_cross": local_attention}
        self.blocks = nn.ModuleList(
            Block(width, heads, latent_width=latent_width * (i in cross_layers), **block) for i in range(layers)
        )
        self.final_norm = make_norm(norm, width, bias)
        self.head = None if tie_embeddings else Linear(width, vocab_size, bias=bias)
        init_weights(self)
        if self.position is not None:
            nn.init.normal_(self.position, std=0.02)

    def latent_caches(self, z: Tensor, mask: Tensor | None = None) -> list[LatentCache | None]:
        """Keys and values of every cross-attention, computed once per latent.

        Args:
            z: (B, N, C) latents.
            mask: (B, N) bool, True where attention may look; None for everywhere.
        """
        places = latent_positions(z.shape[1], self.length, z.device)
        angles = rotary_angles(places, self.width // self.heads)
        return [None if b.cross is None else b.cross.cache(z, mask, angles) for b in self._typed_blocks()]

    def body(
        self, x_t: Tensor, caches: Sequence[LatentCache | None] | None = None, select: Tensor | None = None
    ) -> Tensor:
        """Hidden states after the final norm.

        Args:
            x_t: (B, L) tokens.
            caches: See :meth:`latent_caches`.
            select: (B, L) bool; None for everywhere.

        Returns:
            (B, L, D), or (M, D) at the M selected positions in row-major order: of the last block only what these need
            is computed.
        """
        at, is_selected = (None, None) if select is None else places_of(select)
        h = self.states(x_t, caches, at)
        return self.final_norm(h if is_selected is None else h[is_selected])

    def states(
        self, x_t: Tensor, caches: Sequence[LatentCache | None] | None = None, at: Tensor | None = None
    ) -> Tensor:
        """States (B, L, D) after the blocks, of tokens x_t (B, L); at places (B, M) alone those after the last."""
        h = self.embedding(x_t)  # (B, L, D)
        places = torch.arange(x_t.shape[1], device=x_t.device)
        if self.position is not None:
            h = h + self.position[: x_t.shape[1]]
        rotation = rotary_angles(places, self.width // self.heads)
        angles = rotation if self.rotary else None
        for i, block in enumerate(self._typed_blocks()):
            last = at if i + 1 == len(self.blocks) else None
            h = block(h, angles, cache=caches[i] if caches else None, cross_angles=rotation, at=last)
        return h

    @property
    def head_table(self) -> Tensor:
        """(K, D) the matrix of the vocabulary head."""
        return self.embedding.weight if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., K) of hidden states (..., D), with -inf at the mask token."""
        logits = linear(hidden, self.head_table, None if self.head is None else self.head.bias)
        logits[..., self.mask_id] = -torch.inf
        return logits

    def float32_logits(self, hidden: Tensor) -> Tensor:
        """:meth:`logits` in float32, under autocast as well: what the sampler draws from."""
        with torch.autocast(hidden.device.type, enabled=False):
            return self.logits(hidden.float())

    def forward(
        self,
        x_t: Tensor,
        select: Tensor | None = None,
        z: Tensor | None = None,
        z_mask: Tensor | None = None,
        targets: Tensor | None = None,
    ) -> Tensor:
        """Logits where ``select`` is True, or how unlikely the ``targets`` are there.

        Args:
            x_t: (B, L) tokens, some of them the mask token.
            select: (B, L) bool; None for everywhere.
            z: (B, N, C) latents, for a decoder.
            z_mask: (B, N) bool, the latents that attention may see.
            targets: (M,) clean tokens at the M selected positions in row-major order.

        Returns:
            (M, K) for the M selected positions in row-major order, or (B, L, K) without ``select``; with ``targets``,
            their (M,) negative log-likelihoods, for which not all logits exist at once.
        """
        caches = None if z is None else self.latent_caches(z, z_mask)
        hidden = self.body(x_t, caches)
        hidden = hidden if select is None else hidden[select]
        if targets is None:
            return self.logits(hidden)
        return token_nll(self.logits, hidden, targets, max(1, LOGITS_AT_ONCE // self.vocab_size))

    def _typed_blocks(self) -> list[Block]:
        return [b for b in self.blocks if isinstance(b, Block)]


def with_bf16_matrices(decoder: TokenDenoiser) -> TokenDenoiser:
    """A copy whose blocks hold bf16 matrices, which autocast then need not cast in every call.

    The rest, in float32, is the original's own: embeddings, positions, final norm and head.
    """
    shared = {id(value): value for name, value in decoder.named_parameters() if not name.startswith("blocks.")}
    decoder = copy.deepcopy(decoder, shared)
    for part in decoder.blocks.modules():
        if isinstance(part, nn.Linear):
            part.bfloat16()
    return decoder
