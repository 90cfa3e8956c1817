"""The gradient of a step: its norm, its clipping, and what is wrong when numbers go bad."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.sharding import local, whole


def gradient_norm(model: nn.Module) -> Tensor:
    """Euclidean norm of the whole gradient, a scalar tensor."""
    return whole(get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))


def clip_gradients(model: nn.Module, norm: Tensor, limit: float) -> None:
    """Scale the gradient of norm ``norm``, which must be finite, down to ``limit``; 0 leaves it alone."""
    if limit:
        gradients = [local(p.grad) for p in model.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))


def diagnose_gradients(model: nn.Module) -> str:
    """Which parameters have gradients that are not finite, and the largest finite entry of all, in words.

    Where training is sharded, of this process's part.
    """
    bad: list[str] = []
    largest, where = 0.0, "none"
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            continue
        gradient = local(parameter.grad)
        finite = gradient.isfinite()
        if not bool(finite.all()):
            bad.append(name)
        entry = float(gradient.where(finite, 0.0).abs().max()) if gradient.numel() else 0.0
        if entry > largest:
            largest, where = entry, name
    text = f"largest finite gradient {largest:.2g} in {where}"
    return f"{text}, not finite in {len(bad)} parameters from {bad[0]} on" if bad else text


@torch.no_grad()
def weights_are_finite(model: nn.Module) -> bool:
    """Whether no weight of this process is NaN or infinite."""
    return all(bool(local(parameter).isfinite().all()) for parameter in model.parameters())


def diverged(stage: str, step: int, learning_rate: float, what: str, saved_step: int | None) -> UserError:
    """Why training stopped, and how to go on from the last checkpoint, where there is one."""
    last, start = "nothing was saved yet", "start again with"
    if saved_step is not None:
        last, start = f"step {saved_step} is saved", "go on from there with --resume and"
    return UserError(
        f"{stage} training stopped at step {step}, learning rate {learning_rate:.2g}: {what}; {last}",
        f"{start} a lower --learning-rate or --grad-clip, or --precision fp32",
    )
