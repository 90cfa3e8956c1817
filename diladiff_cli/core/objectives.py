"""Training objectives as functions of tensors."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from diladiff_cli.core.gaussian import expand


def token_nll(head: Callable[[Tensor], Tensor], hidden: Tensor, targets: Tensor, chunk: int) -> Tensor:
    """(M,) negative log-likelihoods of tokens, with the logits of at most ``chunk`` positions in memory at a time.

    Several chunks compute their logits again in the backward pass instead of keeping them.

    Args:
        head: Hidden states (m, D) -> logits (m, K).
        hidden: (M, D) states at the positions.
        targets: (M,) the clean tokens there.
        chunk: Positions at once.
    """

    def nll(some: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(head(some).float(), wanted, reduction="none")

    if len(hidden) <= chunk:
        return nll(hidden, targets)
    parts = zip(torch.split(hidden, chunk), torch.split(targets, chunk), strict=True)
    return torch.cat([checkpoint(nll, some, wanted, use_reentrant=False) for some, wanted in parts])


def masked_nll(nll: Tensor, weights: Tensor, tokens: int) -> Tensor:
    """Weighted cross-entropy of the masked tokens, per token of the batch (method section 2).

    Args:
        nll: (M,) negative log-likelihoods, one per masked position.
        weights: (M,) weight of each position.
        tokens: B * L, so that micro-batches of equal size average to the whole batch.
    """
    return (nll * weights).sum() / tokens


def per_example_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """(B,) mean squared error of each example."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def along_ode(
    average_velocity: Callable[[Tensor, Tensor, Tensor], Tensor], z_t: Tensor, t: Tensor, r: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """The average velocity u(z_t, t, r), and its derivative along the ODE: du/dt = v . d_z u + d_t u.

    Both come from one jvp of u at (z_t, t, r) along (v, 1, 0) (method section 5).

    Args:
        average_velocity: u(z_t, t, r).
        z_t: (B, ...) noisy latents.
        t: (B,) end times.
        r: (B,) start times, r <= t.
        v: (B, ...) velocity at (z_t, t).

    Returns:
        u with gradient, and its derivative without, (B, ...) each.
    """
    tangents = (v, torch.ones_like(t), torch.zeros_like(r))
    u, du_dt = torch.func.jvp(average_velocity, (z_t, t, r), tangents)[:2]
    return u, du_dt.detach()


def meanflow_target(v: Tensor, t: Tensor, r: Tensor, du_dt: Tensor, tangent_scale: float = 1.0) -> Tensor:
    """The MeanFlow identity as a regression target for u (method section 5): u_tgt = v - (t - r) du/dt.

    Args:
        v: (B, ...) velocity at (z_t, t).
        t: (B,) end times.
        r: (B,) start times, r <= t.
        du_dt: (B, ...) derivative of u, see :func:`along_ode`.
        tangent_scale: Factor of its term, rising from 0 to 1 during training.
    """
    return v - tangent_scale * expand(t - r, v) * du_dt


def adaptive_loss(u: Tensor, target: Tensor, constant: float) -> tuple[Tensor, Tensor]:
    """Squared error, each example divided by (its own value without gradient + constant).

    Returns:
        (B,) normalised losses, and (B,) the squared norms before normalisation.
    """
    squared = (u.float() - target.float()).square().flatten(1).sum(1)
    return squared / (squared.detach() + constant), squared


@torch.no_grad()
def estimates_of_some(estimate: Callable[..., Tensor], rows: Tensor, *inputs: Tensor) -> Tensor:
    """Self-conditioning in training (method sections 4 and 5): a network's own estimates for some examples, else zeros.

    Args:
        estimate: Clean latents from the inputs of some examples; called once, whatever ``rows`` are.
        rows: (n,) examples that get estimates.
        inputs: (B, ...) each, the first of them shaped like the estimates.

    Returns:
        Zeros like the first input, with the estimates at ``rows``.
    """
    # Never none: processes that share the weights must make the same calls.
    asked = rows if len(rows) else torch.zeros(1, dtype=torch.int64, device=rows.device)
    made = estimate(*(values[asked] for values in inputs))
    whole = torch.zeros_like(inputs[0])
    return whole.index_copy(0, rows, made[: len(rows)].to(whole.dtype))
