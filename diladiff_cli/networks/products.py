"""Products with weight matrices, by whatever computes them fastest on a device."""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAST_WORK = 1 << 20  # multiplications below which the call itself is what takes time


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether a forward-mode derivative is asked for by any of them."""
    if torch.compiler.is_compiling():
        return False
    unpack: Any = torch.autograd.forward_ad.unpack_dual  # which has no types
    return any(x is not None and unpack(x).tangent is not None for x in tensors)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b (..., K) of vectors x (..., D), a weight W (K, D) and a bias b (K,).

    On a CPU torch makes float32 products by MKL, which does not use AMD's AVX-512. Where no derivative is asked for
    they are oneDNN's here: 2 to 2.4 times as fast on Zen 5, 1.1 to 1.2 times with AVX2 alone.
    """
    if _by_onednn(x, weight, bias):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return found
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer that computes :func:`linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def _has_onednn() -> bool:
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    onednn: Any = torch.backends.mkldnn  # which has no types
    return is_x86 and bool(onednn.is_available()) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


HAS_ONEDNN = _has_onednn()


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether oneDNN's operation, which has no derivatives and drops tangents without a word, does the same sooner."""
    return (
        HAS_ONEDNN
        and type(x) is Tensor
        and x.device.type == weight.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= LEAST_WORK
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not has_tangent(x, weight, bias)
    )
