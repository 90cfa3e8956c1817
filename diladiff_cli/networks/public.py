"""Published checkpoints of masked diffusion as weights of the one denoiser.

The checkpoints of MDLM (Sahoo et al., 2024; ``kuleshov-group/mdlm-owt``) and of those who keep its names: a transformer
whose norms are modulated by a small network of the noise level. Trained without time conditioning it sees the level 0
always, so that all modulations are constants, which fold into the norms and the outputs of each block.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PREFIX = "backbone."
EMBEDDING = "vocab_embed.embedding"
FREE = {"rotary_emb.inv_freq"}  # follow from the width of a head


def is_public(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of such a checkpoint."""
    return EMBEDDING in weights or PREFIX + EMBEDDING in weights


def public_network(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments of the :class:`~diladiff_cli.networks.denoiser.TokenDenoiser` that a checkpoint is.

    The mask is its last token. Sizes are those of the weights; ``config``, its config.json, has to tell the number of
    heads, as ``n_heads``, and the longest text, as ``model_length``.

    Raises:
        ValueError: It is of another kind, and how.
    """
    if config.get("time_conditioning"):
        raise ValueError("it is conditioned on time")
    table = weights.get(EMBEDDING, weights.get(PREFIX + EMBEDDING))
    if table is None or table.dim() != 2:
        raise ValueError(f"it has no table {EMBEDDING}")
    heads, length = config.get("n_heads"), config.get("model_length")
    if type(heads) is not int or type(length) is not int or heads < 1 or length < 1:
        raise ValueError("its config.json tells no n_heads and model_length")
    vocab_size, width = table.shape
    if width % (2 * heads):
        raise ValueError(f"its width {width} is no multiple of twice its {heads} heads")
    layers = sum(name.endswith(".attn_qkv.weight") for name in weights)
    up = weights.get("blocks.0.mlp.0.weight", weights.get(PREFIX + "blocks.0.mlp.0.weight"))
    return {
        "vocab_size": vocab_size,
        "mask_id": vocab_size - 1,
        "length": length,
        "width": width,
        "layers": layers,
        "heads": heads,
        "mlp_width": 4 * width if up is None else len(up),
        "activation": "gelu_tanh",
        "norm": "layernorm",
        "bias": True,
        "qk_norm": False,
        "positions": "rotary",
        "tie_embeddings": False,
    }


def folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's weights as those of the denoiser that :func:`public_network` describes, in float32.

    Raises:
        ValueError: Some are missing, or not known; names one.
    """
    unread = {name.removeprefix(PREFIX): weight.float() for name, weight in weights.items()}
    for name in FREE & unread.keys():
        unread.pop(name)

    def take(name: str) -> Tensor:
        if name not in unread:
            raise ValueError(f"it has no weight {name}")
        return unread.pop(name)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, take(f"{name}.weight"), take(f"{name}.bias"))

    layers = sum(name.endswith(".attn_qkv.weight") for name in unread)
    level = _sinusoids_of_zero(unread.get("sigma_map.mlp.0.weight"))
    condition = F.silu(linear(F.silu(linear(level, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    found = {"embedding.weight": take(EMBEDDING)}
    for i in range(layers):
        block = f"blocks.{i}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(condition, f"{block}.adaLN_modulation").chunk(6)
        found |= {
            f"{block}.attention_norm.weight": take(f"{block}.norm1.weight") * (1 + scale_a),
            f"{block}.attention_norm.bias": shift_a,
            f"{block}.attention.qkv.weight": take(f"{block}.attn_qkv.weight"),
            f"{block}.attention.out.weight": gate_a[:, None] * take(f"{block}.attn_out.weight"),
            f"{block}.mlp_norm.weight": take(f"{block}.norm2.weight") * (1 + scale_m),
            f"{block}.mlp_norm.bias": shift_m,
            f"{block}.mlp.up.weight": take(f"{block}.mlp.0.weight"),
            f"{block}.mlp.up.bias": take(f"{block}.mlp.0.bias"),
            f"{block}.mlp.down.weight": gate_m[:, None] * take(f"{block}.mlp.2.weight"),
            f"{block}.mlp.down.bias": gate_m * take(f"{block}.mlp.2.bias"),
        }
    shift, scale = linear(condition, "output_layer.adaLN_modulation").chunk(2)
    found |= {
        "final_norm.weight": take("output_layer.norm_final.weight") * (1 + scale),
        "final_norm.bias": shift,
        "head.weight": take("output_layer.linear.weight"),
        "head.bias": take("output_layer.linear.bias"),
    }
    if unread:
        raise ValueError(f"it has the weight {min(unread)}, which is not known")
    return {name: weight.contiguous() for name, weight in found.items()}


def _sinusoids_of_zero(weight: Tensor | None) -> Tensor:
    """Cosines and then sines of the noise level 0 at all frequencies, as many as the matrix that takes them has."""
    size = 0 if weight is None else weight.shape[-1]
    half = math.ceil(size / 2)
    return torch.cat([torch.ones(half), torch.zeros(size - half)])
