"""Published checkpoints of masked diffusion as weights of the one denoiser.

The checkpoints of MDLM (Sahoo et al., 2024; ``kuleshov-group/mdlm-owt``) and of those who keep its names: a transformer
whose norms are modulated by a small network of the noise level. Trained without time conditioning it sees the level 0
always, so that all modulations are constants, which fold into the norms and the outputs of each block.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PREFIX = "backbone."
EMBEDDING, LEVEL, UP = "vocab_embed.embedding", "sigma_map.mlp.0.weight", "blocks.0.mlp.0.weight"
FOLLOWS = "rotary_emb.inv_freq"  # from the width of a head
Shapes = dict[str, tuple[int, ...]]


def is_public(weights: Mapping[str, Tensor]) -> bool:
    """Whether weights have the names of such a checkpoint."""
    return EMBEDDING in weights or PREFIX + EMBEDDING in weights


def public_base(weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint as a :class:`~diladiff_cli.networks.denoiser.TokenDenoiser`.

    The mask is its last token. Sizes are those of the weights, but for the number of heads, ``n_heads`` of ``config``,
    its config.json. Positions are rotary, so that its longest text is anybody's choice.

    Returns:
        The network's keyword arguments but for ``length``, and its state in float32.

    Raises:
        ValueError: It is of another kind, and how.
    """
    if config.get("time_conditioning"):
        raise ValueError("it is conditioned on time")
    own = _named_plainly(weights)
    _check_shapes(own)
    vocab_size, width = own[EMBEDDING].shape
    heads = config.get("n_heads")
    if type(heads) is not int or heads < 1:
        raise ValueError("its config.json has no n_heads")
    if width % (2 * heads):
        raise ValueError(f"its width {width} is not a multiple of twice its {heads} heads")
    network = {
        "vocab_size": vocab_size,
        "mask_id": vocab_size - 1,
        "width": width,
        "layers": _layers(own),
        "heads": heads,
        "mlp_width": len(own[UP]),
        "activation": "gelu_tanh",
        "norm": "layernorm",
        "bias": True,
        "qk_norm": False,
        "positions": "rotary",
        "tie_embeddings": False,
    }
    return network, _folded(own)


def _named_plainly(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    by_plain_name: dict[str, Tensor] = {}
    for name, weight in weights.items():
        plain = name.removeprefix(PREFIX)
        if plain in by_plain_name:
            raise ValueError(f"it has the weight {plain} twice")
        if plain != FOLLOWS:
            by_plain_name[plain] = weight.float()
    return by_plain_name


def _layers(weights: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _check_shapes(weights: Mapping[str, Tensor]) -> None:
    for name in (EMBEDDING, LEVEL, UP):
        if name not in weights or weights[name].dim() != 2:
            raise ValueError(f"it has no matrix {name}")
    wanted = _shapes(weights[EMBEDDING].shape, weights[LEVEL].shape, len(weights[UP]), _layers(weights))
    for name in sorted(wanted.keys() | weights.keys()):
        if name not in weights:
            raise ValueError(f"it has no weight {name}")
        if name not in wanted:
            raise ValueError(f"it has the weight {name}, which is not known")
        if weights[name].shape != wanted[name]:
            raise ValueError(f"its weight {name} is {tuple(weights[name].shape)}, wanted {wanted[name]}")


def _shapes(table: torch.Size, level: torch.Size, hidden: int, layers: int) -> Shapes:
    """The shapes that all weights have where those of the table and of the level's first matrix are known."""
    (vocab_size, width), (condition, frequencies) = table, level

    def linear(name: str, out: int, into: int) -> Shapes:
        return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}

    shapes: Shapes = {EMBEDDING: (vocab_size, width), "output_layer.norm_final.weight": (width,)}
    shapes |= linear("sigma_map.mlp.0", condition, frequencies) | linear("sigma_map.mlp.2", condition, condition)
    shapes |= linear("output_layer.linear", vocab_size, width)
    shapes |= linear("output_layer.adaLN_modulation", 2 * width, condition)
    for i in range(layers):
        block = f"blocks.{i}"
        shapes |= {f"{block}.norm1.weight": (width,), f"{block}.norm2.weight": (width,)}
        shapes |= {f"{block}.attn_qkv.weight": (3 * width, width), f"{block}.attn_out.weight": (width, width)}
        shapes |= linear(f"{block}.mlp.0", hidden, width) | linear(f"{block}.mlp.2", width, hidden)
        shapes |= linear(f"{block}.adaLN_modulation", 6 * width, condition)
    return shapes


def _folded(w: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scales and shifts of the modulations in the norms, gates in what a block adds.

    w n(x) (1 + s) + b, of a norm n and its modulation, is a norm of weight w (1 + s) and bias b; g (A h + c), of a gate
    g, is a linear layer of rows g A and bias g c.
    """

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    level = torch.zeros(w[LEVEL].shape[1])
    level[: len(level) // 2] = 1.0  # cosines of the noise level 0, before its sines
    condition = F.silu(linear(F.silu(linear(level, "sigma_map.mlp.0")), "sigma_map.mlp.2"))
    shift, scale = linear(condition, "output_layer.adaLN_modulation").chunk(2)
    state = {
        "embedding.weight": w[EMBEDDING],
        "final_norm.weight": w["output_layer.norm_final.weight"] * (1 + scale),
        "final_norm.bias": shift,
        "head.weight": w["output_layer.linear.weight"],
        "head.bias": w["output_layer.linear.bias"],
    }
    for i in range(_layers(w)):
        block = f"blocks.{i}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = linear(condition, f"{block}.adaLN_modulation").chunk(6)
        state |= {
            f"{block}.attention_norm.weight": w[f"{block}.norm1.weight"] * (1 + scale_a),
            f"{block}.attention_norm.bias": shift_a,
            f"{block}.attention.qkv.weight": w[f"{block}.attn_qkv.weight"],
            f"{block}.attention.out.weight": gate_a[:, None] * w[f"{block}.attn_out.weight"],
            f"{block}.mlp_norm.weight": w[f"{block}.norm2.weight"] * (1 + scale_m),
            f"{block}.mlp_norm.bias": shift_m,
            f"{block}.mlp.up.weight": w[f"{block}.mlp.0.weight"],
            f"{block}.mlp.up.bias": w[f"{block}.mlp.0.bias"],
            f"{block}.mlp.down.weight": gate_m[:, None] * w[f"{block}.mlp.2.weight"],
            f"{block}.mlp.down.bias": gate_m * w[f"{block}.mlp.2.bias"],
        }
    return {name: weight.contiguous() for name, weight in state.items()}
