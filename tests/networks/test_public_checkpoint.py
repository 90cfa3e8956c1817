"""The options of the one block express the public MDLM checkpoints, whose constant conditioning folds into weights."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.public import is_public, public_base

WIDTH, CONDITION, VOCAB, LENGTH, BLOCKS, HEADS = 32, 8, 19, 10, 2, 4
Weights = dict[str, Tensor]


def random_weights(vocab: int = VOCAB) -> Weights:
    """Weights under the names of the published checkpoints (without ``backbone.``), nothing left at zero or one."""
    source = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (vocab, WIDTH),
        "sigma_map.mlp.0.weight": (CONDITION, 256),
        "sigma_map.mlp.0.bias": (CONDITION,),
        "sigma_map.mlp.2.weight": (CONDITION, CONDITION),
        "sigma_map.mlp.2.bias": (CONDITION,),
        "output_layer.norm_final.weight": (WIDTH,),
        "output_layer.linear.weight": (vocab, WIDTH),
        "output_layer.linear.bias": (vocab,),
        "output_layer.adaLN_modulation.weight": (2 * WIDTH, CONDITION),
        "output_layer.adaLN_modulation.bias": (2 * WIDTH,),
    }
    for i in range(BLOCKS):
        shapes |= {
            f"blocks.{i}.norm1.weight": (WIDTH,),
            f"blocks.{i}.attn_qkv.weight": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn_out.weight": (WIDTH, WIDTH),
            f"blocks.{i}.norm2.weight": (WIDTH,),
            f"blocks.{i}.mlp.0.weight": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.0.bias": (4 * WIDTH,),
            f"blocks.{i}.mlp.2.weight": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.mlp.2.bias": (WIDTH,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * WIDTH, CONDITION),
            f"blocks.{i}.adaLN_modulation.bias": (6 * WIDTH,),
        }
    return {name: 0.3 * torch.randn(shape, generator=source) for name, shape in shapes.items()}


def condition(w: Weights) -> Tensor:
    """c = SiLU(sigma_map(0)): sinusoids of sigma = 0 are 128 ones and 128 zeros."""
    sinusoids = torch.cat([torch.ones(128), torch.zeros(128)])
    hidden = F.silu(F.linear(sinusoids, w["sigma_map.mlp.0.weight"], w["sigma_map.mlp.0.bias"]))
    return F.silu(F.linear(hidden, w["sigma_map.mlp.2.weight"], w["sigma_map.mlp.2.bias"]))


def modulations(w: Weights, part: str, count: int) -> list[Tensor]:
    name = f"{part}.adaLN_modulation"
    return list(F.linear(condition(w), w[f"{name}.weight"], w[f"{name}.bias"]).chunk(count))


def layer_norm(x: Tensor, weight: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def rotated(x: Tensor) -> Tensor:
    """Rotary embedding with complex numbers: channels j and j + d/2 of (B, L, H, d) are one plane."""
    half = x.shape[-1] // 2
    frequencies = torch.tensor([10_000.0 ** (-j / half) for j in range(half)])
    turn = torch.polar(torch.ones(x.shape[1], half), torch.arange(x.shape[1])[:, None] * frequencies)
    planes = torch.complex(x[..., :half], x[..., half:]) * turn[:, None]
    return torch.cat([planes.real, planes.imag], dim=-1)


def published_logits(w: Weights, x: Tensor) -> Tensor:
    """The published architecture, written out."""
    h = w["vocab_embed.embedding"][x]
    for i in range(BLOCKS):
        b = f"blocks.{i}"
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = modulations(w, b, 6)
        normed = layer_norm(h, w[f"{b}.norm1.weight"]) * (1 + scale_a) + shift_a
        qkv = (normed @ w[f"{b}.attn_qkv.weight"].T).reshape(*x.shape, 3, HEADS, WIDTH // HEADS)
        q, k, v = rotated(qkv[:, :, 0]), rotated(qkv[:, :, 1]), qkv[:, :, 2]
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(WIDTH // HEADS)
        read = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(*x.shape, WIDTH)
        h = h + gate_a * (read @ w[f"{b}.attn_out.weight"].T)
        normed = layer_norm(h, w[f"{b}.norm2.weight"]) * (1 + scale_m) + shift_m
        up = normed @ w[f"{b}.mlp.0.weight"].T + w[f"{b}.mlp.0.bias"]
        gelu = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        h = h + gate_m * (gelu @ w[f"{b}.mlp.2.weight"].T + w[f"{b}.mlp.2.bias"])
    shift, scale = modulations(w, "output_layer", 2)
    h = layer_norm(h, w["output_layer.norm_final.weight"]) * (1 + scale) + shift
    return h @ w["output_layer.linear.weight"].T + w["output_layer.linear.bias"]


CONFIG = {"n_heads": HEADS, "time_conditioning": False}


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_published_checkpoint_folds_into_the_one_block(prefix: str) -> None:
    weights = random_weights()
    stored = {prefix + name: weight for name, weight in weights.items()}
    stored[f"{prefix}rotary_emb.inv_freq"] = torch.ones(4)
    assert is_public(stored)
    network, state = public_base(stored, CONFIG)
    assert (network["vocab_size"], network["mask_id"]) == (VOCAB, VOCAB - 1)
    model = TokenDenoiser(**network, length=LENGTH)
    model.load_state_dict(state)
    x = torch.randint(0, VOCAB, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    wanted = published_logits(weights, x)[..., : VOCAB - 1]
    assert wanted.std() > 0.5
    torch.testing.assert_close(model(x)[..., : VOCAB - 1], wanted, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"time_conditioning": True}, "conditioned on time"),
        ({"n_heads": None}, "has no n_heads"),
        ({"n_heads": 2.0}, "has no n_heads"),
        ({"n_heads": 3}, "not a multiple of twice its 3 heads"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        public_base(random_weights(), CONFIG | config)


NAMES = sorted(random_weights())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fault", ["missing", "scalar", "one entry", "longer", "twice"])
def test_a_checkpoint_with_a_wrong_weight_is_refused(name: str, fault: str) -> None:
    weights = random_weights()
    whole = weights.pop(name)
    if fault == "scalar":
        weights[name] = torch.ones(())
    elif fault == "one entry":
        weights[name] = torch.ones(1)
    elif fault == "longer":
        weights[name] = torch.cat([whole, whole[:1]])
    elif fault == "twice":
        weights |= {name: whole, f"backbone.{name}": whole}
    with pytest.raises(ValueError, match="it has no|its weight|twice"):
        public_base(weights, CONFIG)


def test_weights_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValueError, match="the weight blocks.1.attn_bias, which is not known"):
        public_base(random_weights() | {"blocks.1.attn_bias": torch.ones(3)}, CONFIG)
    without = {name: weight for name, weight in random_weights().items() if not name.startswith("blocks.")}
    with pytest.raises(ValueError, match="it has no matrix blocks.0.mlp.0.weight"):
        public_base(without, CONFIG)
