"""Products with weight matrices, by whatever computes them fastest on a device."""

import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.networks.derivatives import only_computed

LEAST_WORK = 1 << 20  # multiplications below which the call itself is what takes time


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: str = "") -> Tensor:
    """x W^T + b (..., K) of vectors x (..., D), a weight W (K, D) and a bias b (K,).

    On a CPU torch makes float32 products by MKL, which does not use AMD's AVX-512. Where nothing is derived they are
    oneDNN's here: 2 to 2.4 times as fast on Zen 5, 1.1 to 1.2 times with AVX2 alone, and with gelu in the same pass.

    Args:
        x: Vectors.
        weight: W.
        bias: b; None for none.
        gelu: Make it gelu of that, "none" for its exact and "tanh" for its approximate form. In bf16 on a CPU "tanh" is
            "none", which it approximates within 5e-4: torch takes 6 times as long for the former.
    """
    if _by_onednn(x, weight, bias):
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], gelu)
        return found
    x = F.linear(x, weight, bias)
    if not gelu:
        return x
    slow_tanh = x.dtype == torch.bfloat16 and x.device.type == "cpu"
    return F.gelu(x, approximate="none" if slow_tanh else gelu)


class Linear(nn.Linear):
    """A linear layer that computes :func:`linear`."""

    def forward(self, x: Tensor, gelu: str = "") -> Tensor:
        return linear(x, self.weight, self.bias, gelu)


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
        and not torch.is_autocast_enabled("cpu")
        and only_computed(x, weight, bias)
    )
