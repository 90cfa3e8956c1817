"""Normalisation over the last dimension, in float32 whatever the precision."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), 1e-6).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation in float32, with an optional bias."""

    def __init__(self, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.weight.shape, self.weight.float(), bias, 1e-5).to(x.dtype)


def make_norm(kind: str, width: int, bias: bool = False) -> nn.Module:
    """An "rmsnorm" or "layernorm" over ``width`` channels."""
    return RMSNorm(width) if kind == "rmsnorm" else LayerNorm(width, bias)
