"""Whether derivatives are asked for: what computes faster than torch's own functions often has none."""

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

FUNCTORCH: Any = torch._C._functorch  # which has no types, as the next one
JIT: Any = torch.jit


def has_tangent(*tensors: Tensor | None) -> bool:
    """Whether a forward-mode derivative may be asked for by any of them.

    Inside of torch.func it always may: a tensor shows the tangent of the innermost transform alone.
    """
    if torch.compiler.is_compiling():
        return False
    if FUNCTORCH.peek_interpreter_stack() is not None:
        return True
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    return any(x is not None and unpack(x).tangent is not None for x in tensors)


def only_computed(*tensors: Tensor | None) -> bool:
    """Whether what is made of the tensors is computed here and now: neither derived, nor traced or compiled."""
    recorded = torch.compiler.is_compiling() or JIT.is_tracing() or is_in_torch_dispatch_mode()
    return not (recorded or torch.is_grad_enabled() or has_tangent(*tensors))
