"""Products with weight matrices, by whatever computes them fastest on a device."""

import platform
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.networks.derivatives import only_computed

ONEDNN: Any = torch.backends.mkldnn  # which has no types
MIN_WORK = 1 << 20  # multiplications below which the call itself is what takes time


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str = "") -> Tensor:
    """x W^T + b (..., K) of vectors x (..., D), a weight W (K, D) and a bias b (K,).

    On a CPU torch makes float32 products by MKL, which does not use AMD's AVX-512. Where nothing is derived they are
    oneDNN's here, with gelu in the same pass: 1.9 to 4 times as fast on Zen 5, and about as fast with AVX2 alone.

    Args:
        x: Vectors.
        weight: W.
        bias: b; None for none.
        gelu: Make it gelu of that, "none" for its exact and "tanh" for its approximate form. In bf16 on a CPU "tanh" is
            "none", which it approximates within 5e-4: torch takes 6 times as long for the former.
    """
    if _by_onednn(x, weight, bias):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], gelu)
        return product
    x = F.linear(x, weight, bias)
    return _gelu(x, gelu) if gelu else x


class Linear(nn.Linear):
    """A linear layer that computes :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def is_plain(layer: nn.Module) -> TypeGuard[Linear]:
    """Whether a layer is nothing but its weights: no adapter took its place, and no hook hangs on it."""
    return type(layer) is Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


def gelu_of(layer: nn.Module, x: Tensor, gelu: str) -> Tensor:
    """Gelu of what a layer makes of x, by :func:`linear` where the layer is plain."""
    return linear(x, layer.weight, layer.bias, gelu) if is_plain(layer) else _gelu(layer(x), gelu)


def _gelu(x: Tensor, approximate: str) -> Tensor:
    slow_tanh = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return F.gelu(x, approximate="none" if slow_tanh else approximate)


def _has_onednn() -> bool:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return is_x86 and bool(ONEDNN.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS_ONEDNN = _has_onednn()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's operation, which has no derivatives and drops tangents without a word, does the same sooner."""
    return (
        HAS_ONEDNN
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and (bias is None or (bias.dtype == torch.float32 and bias.shape == weight.shape[:1] and bias.is_contiguous()))
        and not torch.is_autocast_enabled("cpu")
        and only_computed(x, weight, bias)
        and all(type(tensor) in (Tensor, nn.Parameter) for tensor in (x, weight, bias) if tensor is not None)
        and x.numel() * len(weight) >= MIN_WORK  # not before: a compiler would make a variant for either case
        and bool(ONEDNN.enabled)
    )
