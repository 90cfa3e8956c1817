"""The one transformer block that every network here is made of, small parts first."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.networks.attention import attend
from diladiff_cli.networks.norms import RMSNorm, make_norm
from diladiff_cli.networks.products import Linear, gelu_of, is_plain, linear
from diladiff_cli.networks.rotary import rotate

LOCAL_START = 0.7  # of the learned constant after QK-norm: rotary attention then starts local


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, H * d) -> (B, H, N, d)."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """(B, H, N, d) -> (B, N, H * d)."""
    return x.transpose(1, 2).flatten(-2)


class QKNorm(nn.Module):
    """RMS normalisation of the queries or keys of each head, with an optional learned constant added.

    The constant, rotated by position, gives every query-key pair a score that falls with distance.
    """

    def __init__(self, head_width: int, local: bool = False) -> None:
        super().__init__()
        self.norm = RMSNorm(head_width)
        self.constant = nn.Parameter(torch.full((head_width,), LOCAL_START)) if local else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return x if self.constant is None else x + self.constant.to(x.dtype)


def taken(x: Tensor, at: Tensor | None) -> Tensor:
    """(B, M, D) the vectors of x (B, N, D) at places (B, M); all of them without."""
    return x if at is None else x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


def angles_at(angles: Tensor, at: Tensor | None) -> Tensor:
    """Angles (N, d / 2) for queries at places (B, M), as :func:`rotate` takes them; those of all places without."""
    return angles if at is None else angles[at][:, None]


class SelfAttention(nn.Module):
    """Bidirectional self-attention with fused projections, optional QK-norm, rotary positions and local start."""

    def __init__(self, width: int, heads: int, qk_norm: bool, local: bool = False) -> None:
        super().__init__()
        self.heads, self.plain = heads, False
        self.qkv = Linear(width, 3 * width, bias=False)
        self.out = Linear(width, width, bias=False)
        self.q_norm = QKNorm(width // heads, local) if qk_norm else nn.Identity()
        self.k_norm = QKNorm(width // heads, local) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, angles: Tensor | None = None, at: Tensor | None = None) -> Tensor:
        """(B, N, D) -> (B, N, D), or (B, M, D) at places (B, M)."""
        q, k, v = (split_heads(part, self.heads) for part in self._projected(x, at))  # (B, H, N, d)
        q, k = self.q_norm(q), self.k_norm(k)
        if angles is not None:
            q, k = rotate(q, angles_at(angles, at)), rotate(k, angles)
        return self.out(merge_heads(attend(q, k, v, plain=self.plain)))

    def _projected(self, x: Tensor, at: Tensor | None) -> tuple[Tensor, ...]:
        if at is None or not is_plain(self.qkv):
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            return taken(q, at), k, v
        # Queries are needed there alone, keys and values everywhere.
        q, kv = torch.split(self.qkv.weight, [x.shape[-1], 2 * x.shape[-1]])
        return linear(taken(x, at), q), *linear(x, kv).chunk(2, dim=-1)


class FeedForward(nn.Module):
    """Position-wise feed-forward: gelu, gelu_tanh or swiglu."""

    def __init__(self, width: int, hidden: int, activation: str = "gelu_tanh", bias: bool = False) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(width, 2 * hidden if activation == "swiglu" else hidden, bias=bias)
        self.down = Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.activation == "swiglu":
            gate, x = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * x)
        return self.down(gelu_of(self.up, x, "tanh" if self.activation == "gelu_tanh" else "none"))


class LatentCache(NamedTuple):
    """Keys and values (B, H, N, d) of one cross-attention layer, constant while a latent is decoded.

    Attributes:
        k: Keys.
        v: Values.
        mask: (B, 1, 1, N) bool, True where attention may look; None for everywhere.
    """

    k: Tensor
    v: Tensor
    mask: Tensor | None

    def select(self, rows: Tensor) -> "LatentCache":
        """The cache of some examples, by index (B',)."""
        return LatentCache(self.k[rows], self.v[rows], None if self.mask is None else self.mask[rows])


class LatentCrossAttention(nn.Module):
    """Zero-initialised cross-attention from tokens to latents (method section 3).

    h <- h + ZeroProj(CrossAttention(Proj(h); z)): the outer projection starts at zero, so the decoder starts
    as exactly the base; the inner one starts at the identity, because a zero query after QK-norm has a huge gain.
    """

    def __init__(self, width: int, latent_width: int, heads: int, local: bool) -> None:
        super().__init__()
        self.heads, self.local = heads, local
        self.inner = Linear(width, width)
        self.q = Linear(width, width, bias=False)
        self.kv = Linear(latent_width, 2 * width, bias=False)
        self.q_norm = QKNorm(width // heads, local)
        self.k_norm = QKNorm(width // heads, local)
        self.outer = Linear(width, width)

    def reset(self) -> None:
        """The special starting values: identity inside, zero outside, values of the latents' own scale."""
        nn.init.normal_(self.kv.weight, std=self.kv.in_features**-0.5)
        nn.init.eye_(self.inner.weight)
        nn.init.zeros_(self.inner.bias)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def cache(self, z: Tensor, mask: Tensor | None, angles: Tensor) -> LatentCache:
        """Keys and values of latents z (B, N, C); ``mask`` (B, N) is True where attention may look."""
        k, v = (split_heads(part, self.heads) for part in self.kv(z).chunk(2, dim=-1))
        k = self.k_norm(k)
        k = rotate(k, angles) if self.local else k
        return LatentCache(k.contiguous(), v.contiguous(), visible(mask))

    def forward(self, h: Tensor, cache: LatentCache, angles: Tensor) -> Tensor:
        q = self.q_norm(split_heads(self.q(self.inner(h)), self.heads))
        q = rotate(q, angles) if self.local else q
        dtype = torch.promote_types(q.dtype, cache.v.dtype)
        return self.outer(merge_heads(attend(q.to(dtype), cache.k.to(dtype), cache.v.to(dtype), cache.mask)))


def visible(mask: Tensor | None) -> Tensor | None:
    """(B, N) mask -> (B, 1, 1, N) for attention; an example with nothing visible sees all (its vectors are zero)."""
    if mask is None:
        return None
    return (mask | ~mask.any(-1, keepdim=True))[:, None, None]


class Modulation(nn.Module):
    """adaLN: shift, scale and gate for attention and feed-forward from a shared projection of the condition.

    The projection is computed once per call of the network; a block adds its own learned offsets to it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        offset = torch.zeros(6, width)
        offset[[2, 5]] = 1.0  # gates open: a plain transformer at first
        self.offset = nn.Parameter(offset)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """(B, 6, D) -> six tensors (B, 1, D)."""
        return (condition + self.offset.to(condition.dtype)).unsqueeze(2).unbind(1)


class Block(nn.Module):
    """Pre-norm transformer block: self-attention, optional latent cross-attention, feed-forward.

    Args:
        width: Width of the residual stream.
        heads: Attention heads.
        mlp_width: Hidden width of the feed-forward.
        activation: "gelu", "gelu_tanh" or "swiglu".
        norm: "rmsnorm" or "layernorm".
        bias: Biases in norms and feed-forward.
        qk_norm: Normalise queries and keys.
        modulated: Take a condition (adaLN).
        local: Self-attention that rotary angles make local at first; takes QK-norm.
        latent_width: Channels of the latents to attend to (0: no cross-attention).
        local_cross: Rotary, initially local cross-attention.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_width: int,
        *,
        activation: str = "gelu_tanh",
        norm: str = "rmsnorm",
        bias: bool = False,
        qk_norm: bool = True,
        modulated: bool = False,
        local: bool = False,
        latent_width: int = 0,
        local_cross: bool = True,
    ) -> None:
        super().__init__()
        self.attention_norm = make_norm(norm, width, bias)
        self.attention = SelfAttention(width, heads, qk_norm, local)
        self.cross = LatentCrossAttention(width, latent_width, heads, local_cross) if latent_width else None
        self.mlp_norm = make_norm(norm, width, bias)
        self.mlp = FeedForward(width, mlp_width, activation, bias)
        self.modulation = Modulation(width) if modulated else None

    def forward(
        self,
        h: Tensor,
        angles: Tensor | None = None,
        condition: Tensor | None = None,
        cache: LatentCache | None = None,
        cross_angles: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """States h (B, N, D) -> (B, N, D), or without condition those at places (B, M) alone: (B, M, D).

        Raises:
            ValueError: Both a condition and places.
        """
        if self.modulation is not None and condition is not None:
            if at is not None:
                raise ValueError("a block with a condition gives the states of all places")
            shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)
            h = h + gate_a * self.attention(self.attention_norm(h) * (1 + scale_a) + shift_a, angles)
            return h + gate_m * self.mlp(self.mlp_norm(h) * (1 + scale_m) + shift_m)
        h = taken(h, at) + self.attention(self.attention_norm(h), angles, at)
        if self.cross is not None and cache is not None and cross_angles is not None:
            h = h + self.cross(h, cache, angles_at(cross_angles, at))
        return h + self.mlp(self.mlp_norm(h))


def use_plain_attention(network: nn.Module) -> None:
    """Make a network's self-attention of plain products from now on, as a jvp needs: fused kernels have none.

    Torch's own plain path cannot be differentiated under autocast on a GPU.
    """
    for part in network.modules():
        if isinstance(part, SelfAttention):
            part.plain = True


def init_weights(module: nn.Module) -> None:
    """Normal(0, 0.02) matrices and embeddings, zero biases, then the parts' own starting values."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, LatentCrossAttention):
            part.reset()
