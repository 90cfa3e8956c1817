"""Whether derivatives are asked for: what computes faster than torch's own functions often has none."""

from typing import Any

import torch
from torch import Tensor


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether a forward-mode derivative is asked for by any of them."""
    if torch.compiler.is_compiling():
        return False
    unpack: Any = torch.autograd.forward_ad.unpack_dual  # which has no types
    return any(x is not None and unpack(x).tangent is not None for x in tensors)


def only_computed(*tensors: Tensor | None) -> bool:
    """Whether what is made of the tensors is neither derived by them nor compiled."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or has_tangent(*tensors))
