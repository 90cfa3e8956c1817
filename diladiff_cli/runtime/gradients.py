"""The gradient of a step: its norm, its clipping, and what is wrong when numbers go bad."""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of the whole gradient, a scalar tensor."""
    return get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def clip_gradients(model: nn.Module, norm: Tensor, limit: float) -> None:
    """Scale the gradient of norm ``norm``, which must be finite, down to ``limit``; 0 leaves it alone."""
    if limit:
        clip_grads_with_norm_(model.parameters(), limit, norm)


def diagnose_gradients(model: nn.Module) -> str:
    """Which parameters have gradients that are not finite, and the largest finite entry of all, in words."""
    bad: list[str] = []
    largest, where = 0.0, "none"
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        finite = parameter.grad.isfinite()
        if not bool(finite.all()):
            bad.append(name)
        entry = float(parameter.grad.where(finite, 0.0).abs().amax())
        if entry > largest:
            largest, where = entry, name
    text = f"largest finite gradient {largest:.2g} in {where}"
    return f"{text}, not finite in {len(bad)} parameters from {bad[0]} on" if bad else text


@torch.no_grad()
def weights_are_finite(model: nn.Module) -> bool:
    """Whether no weight is NaN or infinite."""
    return all(bool(parameter.isfinite().all()) for parameter in model.parameters())
