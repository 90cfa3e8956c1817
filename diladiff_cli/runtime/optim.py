"""Optimisers, learning-rate schedule and averaged weights."""

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.config import StageConfig
from diladiff_cli.runtime.sharding import local, shared_like, whole


@dataclass(frozen=True)
class LrOverride:
    """How a parameter's learning rate differs from the run's: a factor, and a warm-up of its own."""

    ratio: float = 1.0
    warmup_steps: int | None = None


def lr_multiplier(config: StageConfig, step: int, warmup_steps: int) -> float:
    """Learning rate at ``step`` as a share of the peak: linear warm-up, then decay to ``min_lr_ratio``."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, config.max_steps - warmup_steps))
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * done)), "linear": 1 - done, "constant": 1.0}[config.lr_schedule]
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * shape


def uses_muon(name: str, parameter: Tensor) -> bool:
    """Whether a parameter is a matrix inside a block, which Muon is for."""
    return parameter.ndim == 2 and "blocks." in name and not name.endswith("offset")


class Muon(torch.optim.Muon):
    """Muon (Jordan et al., 2024) on all matrices of one shape at once; torch's own takes them one by one.

    Its updates are scaled to AdamW's size (Liu et al., 2025), and its products are in bf16 or float32.
    """

    def __init__(self, params: Any, *, bf16: bool, **options: Any) -> None:
        super().__init__(params, adjust_lr_fn="match_rms_adamw", **options)
        self.dtype = torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; there is no closure to evaluate."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in alike.items():
                updates = self._directions(parameters, group)
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                updates = updates.to(parameters[0].dtype)
                torch._foreach_add_(parameters, [updates[i] for i in range(len(parameters))], alpha=-rate)

    def _directions(self, parameters: list[Tensor], group: dict[str, Any]) -> Tensor:
        """(n, A, B) orthogonalised momentum of n matrices of one shape, which is brought up to date."""
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        if group["nesterov"]:  # one by one: the operation on lists is not there for sharded tensors of older torch
            pairs = zip(gradients, buffers, strict=True)
            buffers = [torch.lerp(gradient, buffer, group["momentum"]) for gradient, buffer in pairs]
        momentum = torch.stack(buffers).to(self.dtype)
        return orthogonalised(momentum, group["ns_coefficients"], group["ns_steps"], group["eps"])


def orthogonalised(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Roughly U V^T of each matrix U S V^T of x (n, A, B), by Muon's quintic Newton-Schulz iteration."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonalised(x.mT, coefficients, steps, eps).mT
    a, b, c = coefficients
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def build_optimizers(
    model: nn.Module, config: StageConfig, lr_override: Callable[[str], LrOverride]
) -> list[torch.optim.Optimizer]:
    """AdamW, or Muon for the blocks' matrices with AdamW for the rest; frozen parameters are left out.

    Muon's updates are scaled to AdamW's size, so that one learning rate serves both.

    Args:
        model: The network.
        config: Learning rate, decays and choice of optimiser.
        lr_override: How the learning rate of a parameter differs, by its name.
    """
    groups: dict[tuple[bool, bool, LrOverride], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (config.optimizer == "muon" and uses_muon(name, parameter), parameter.ndim >= 2, lr_override(name))
            groups.setdefault(key, []).append(parameter)

    def describe(wants_muon: bool) -> list[dict[str, object]]:
        return [
            {"params": params, "weight_decay": config.weight_decay if decays else 0.0, "lr_override": override}
            for (muon, decays, override), params in groups.items()
            if muon is wants_muon
        ]

    betas = (config.beta1, config.beta2)
    optimizers: list[torch.optim.Optimizer] = []
    if describe(False):
        optimizers.append(torch.optim.AdamW(describe(False), lr=config.learning_rate, betas=betas))
    if describe(True):
        bf16 = config.precision == "bf16"
        optimizers.append(Muon(describe(True), bf16=bf16, lr=config.learning_rate))
    return optimizers


def set_learning_rates(optimizers: Iterable[torch.optim.Optimizer], config: StageConfig, step: int) -> None:
    """Give every parameter group its learning rate for ``step``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            override: LrOverride = group["lr_override"]
            warmup = config.warmup_steps if override.warmup_steps is None else override.warmup_steps
            group["lr"] = config.learning_rate * override.ratio * lr_multiplier(config, step, warmup)


class AveragedModel:
    """Exponential moving average of a network's parameters; buffers are copied.

    The decay starts small, min(decay, (1 + step) / (10 + step)), so that the beginning is soon forgotten.

    Attributes:
        model: The averaged network, whole.
        averages: Its parameters, or where training is sharded what is moved in their place, see :meth:`follow`.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.averages: list[Tensor] = list(self.model.parameters())
        self.decay = decay

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """From now on hold the averages as the parameters of ``model`` are, each process its part.

        The whole network may then rest on the CPU; :meth:`gather` brings it back.
        """
        self.averages = [shared_like(a, p) for a, p in zip(self.averages, model.parameters(), strict=True)]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards ``model`` after optimiser step ``step``."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = [local(p.detach()) for p in model.parameters()]
        torch._foreach_lerp_([local(a) for a in self.averages], values, 1.0 - decay)

    @torch.no_grad()
    def gather(self, model: nn.Module) -> None:
        """Bring :attr:`model` up to date, with the buffers (running statistics) of ``model``, on its device."""
        self.model.to(next(model.parameters()).device)
        for parameter, average in zip(self.model.parameters(), self.averages, strict=True):
            if parameter is not average:
                parameter.copy_(whole(average))
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
