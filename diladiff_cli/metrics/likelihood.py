"""Likelihoods: the decoder's masked bound on text, and the prior's density of a latent (method section 7)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diladiff_cli.core.masking import apply_mask
from diladiff_cli.core.times import GOLDEN_SECTION
from diladiff_cli.metrics.recovery import LogitsFor

Velocity = Callable[[Tensor, Tensor], Tensor]
MaskedNll = Callable[[Tensor, Tensor], Tensor]


def ode_log_density(
    velocity: Velocity,
    z_0: Tensor,
    *,
    t_min: float = 1e-4,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Log density in nats of latents under the probability-flow ODE dz/dt = v(z, t) with N(0, I) at t = 1.

    log p(z_{t_min}) = log N(z_1; 0, I) + integral over [t_min, 1] of div v dt along the trajectory. The divergence is
    Hutchinson's estimate probe . (dv/dz) probe with one Rademacher probe per latent, drawn once; unbiased.
    The solver (RK45) chooses its steps for the whole batch at once.

    Args:
        velocity: Maps z (B, N, C) and t (B,) to dz/dt (B, N, C), differentiably in z.
        z_0: (B, N, C) standardised latents, taken as points at ``t_min``.
        t_min: Where the integration starts, in (0, 1): the velocity is undefined at 0.
        rtol: The solver's relative tolerance.
        atol: Its absolute tolerance.
        generator: Of the probe, on the CPU.

    Returns:
        (B,) float64 on the CPU.

    Raises:
        RuntimeError: The solver gave up.

    Source: Grathwohl et al. (2019); Song et al. (2021), appendix D.2.
    """
    from scipy.integrate import solve_ivp  # whose import would take 0.4 s of every training command

    shape, count = z_0.shape, z_0.numel()
    probe = (torch.randint(0, 2, shape, generator=generator, device="cpu") * 2 - 1).to(z_0)

    def slope(time: float, state: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        z = torch.from_numpy(state[:count]).reshape(shape).to(z_0)
        t = torch.full((shape[0],), time, dtype=z_0.dtype, device=z_0.device)
        with torch.enable_grad():
            z.requires_grad_()
            v = velocity(z, t)
            (product,) = torch.autograd.grad(v, z, probe)  # probe^T dv/dz
        divergence = (product * probe).double().flatten(1).sum(1)  # (B,)
        return torch.cat([v.detach().double().flatten(), divergence]).cpu().numpy()

    start = np.concatenate([z_0.detach().double().flatten().cpu().numpy(), np.zeros(shape[0])])
    outcome = solve_ivp(slope, (t_min, 1.0), start, method="RK45", rtol=rtol, atol=atol, t_eval=[1.0])
    if not outcome.success:
        raise RuntimeError(f"the density's ODE solver stopped: {outcome.message}")
    end = torch.from_numpy(outcome.y[:, -1].copy())
    z_1, integral = end[:count].reshape(shape[0], -1), end[count:]  # (B, N * C), (B,)
    return integral - 0.5 * (z_1**2 + math.log(2 * math.pi)).sum(1)


def bound_nats(
    masked_nll: MaskedNll, x: Tensor, mask_id: int, draws: int = 128, generator: torch.Generator | None = None
) -> Tensor:
    """Monte Carlo estimate of an upper bound on -log p(x), per sequence (method section 7).

    The mean over draws of L/k * (sum of NLL over k random positions, all masked together), k ~ U{1..L}. The k of one
    sequence are spread evenly over its draws, and those of a batch over its sequences, which keeps the mean and
    lowers the variance.

    Args:
        masked_nll: Maps x_t (B, L) and is_masked (B, L) bool to the (B,) summed NLL in nats of the masked positions.
        x: (B, L) clean tokens.
        mask_id: The mask token.
        draws: Draws per sequence.
        generator: On the CPU.

    Returns:
        (B,) float64 nats per sequence, on the CPU.
    """
    batch, length = x.shape
    start = torch.rand((), generator=generator, dtype=torch.float64, device="cpu")
    offset = (start + GOLDEN_SECTION * torch.arange(batch, dtype=torch.float64, device="cpu")) % 1.0
    total = torch.zeros(batch, dtype=torch.float64, device="cpu")
    for draw in range(draws):
        # The shift within a stratum of 1 / draws is the sequence's own.
        k = ((offset + draw / draws) % 1.0 * length).long().clamp(max=length - 1) + 1  # (B,)
        uniform = torch.rand(batch, length, generator=generator, dtype=torch.float32, device="cpu")
        rank = uniform.argsort(1).argsort(1)
        is_masked = (rank < k[:, None]).to(x.device)  # (B, L), k of them
        nll = masked_nll(apply_mask(x, is_masked, mask_id), is_masked)
        total += nll.detach().cpu().double() * length / k
    return total / draws


def bound_report(nats: Tensor, length: int, draws: int) -> dict[str, Any]:
    """Sum up per-sequence bounds, of however many batches.

    Args:
        nats: (S,) nats per sequence, as :func:`bound_nats` gives. Subtracting the log density of each latent
            (:func:`ode_log_density`) beforehand makes it the published figure of the whole latent model.
        length: Tokens per sequence.
        draws: Monte Carlo draws per sequence, for the record.

    Returns:
        ``nats_per_token`` and its ``stderr`` over sequences (None for one), ``perplexity``, and the numbers behind it.
    """
    per_token = nats.double() / length
    mean = float(per_token.mean())
    return {
        "nats_per_token": mean,
        "stderr": float(per_token.std()) / math.sqrt(len(nats)) if len(nats) > 1 else None,
        "perplexity": math.exp(min(mean, 700.0)),
        "sequences": len(nats),
        "length": length,
        "draws": draws,
    }


@dataclass(frozen=True)
class MaskedStatistics:
    """What a network says of randomly masked text.

    Attributes:
        nats: (S,) bound on -log p of each sequence, in nats.
        nll: Nats per masked token.
        recovery: Share of masked tokens whose argmax is right.
        length: Tokens per sequence.
        draws: Masks per sequence.
    """

    nats: Tensor
    nll: float
    recovery: float
    length: int
    draws: int

    def bound(self) -> dict[str, Any]:
        """The bound, as :func:`bound_report` sums it up."""
        return bound_report(self.nats, self.length, self.draws)


@torch.no_grad()
def masked_statistics(
    logits_for: LogitsFor, batches: Iterable[Tensor], mask_id: int, draws: int = 128, seed: int = 0
) -> MaskedStatistics:
    """Likelihood bound, NLL and recovery with k ~ U{1..L} masked positions (method section 7).

    Args:
        logits_for: The network, see :data:`diladiff_cli.metrics.recovery.LogitsFor`.
        batches: Clean tokens, (B, L) each; at least one.
        mask_id: The mask token.
        draws: Masks per sequence.
        seed: Of the masks.
    """
    generator = torch.Generator().manual_seed(seed)
    nll = hits = masked = 0.0
    nats, length = [], 0
    for x in batches:
        length = x.shape[1]
        masked_logits = logits_for(x)

        def masked_nll(x_t: Tensor, is_masked: Tensor, x: Tensor = x, logits_fn: Any = masked_logits) -> Tensor:
            nonlocal nll, hits, masked
            logits, target = logits_fn(x_t, is_masked).float(), x[is_masked]  # (M, K), (M,)
            losses = F.cross_entropy(logits, target, reduction="none")
            nll += float(losses.sum())
            hits += float((logits.argmax(-1) == target).sum())
            masked += len(target)
            return losses.new_zeros(len(x)).index_add(0, is_masked.nonzero()[:, 0], losses)

        nats.append(bound_nats(masked_nll, x, mask_id, draws, generator))
    return MaskedStatistics(torch.cat(nats), nll / masked, hits / masked, length, draws)


def masked_figures(
    logits_for: LogitsFor, batches: Iterable[Tensor], mask_id: int, draws: int = 1, seed: int = 0
) -> dict[str, float]:
    """:func:`masked_statistics` as the validations of training log it.

    Returns:
        ``nll`` and ``bound`` in nats per token, ``perplexity_bound``, ``recovery`` in [0, 1].
    """
    statistics = masked_statistics(logits_for, batches, mask_id, draws, seed)
    bound = statistics.bound()
    return {
        "nll": statistics.nll,
        "bound": bound["nats_per_token"],
        "perplexity_bound": bound["perplexity"],
        "recovery": statistics.recovery,
    }
