"""Figures of a token denoiser on held-out blocks, the same masks for every model."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.core.masking import apply_mask
from diladiff_cli.runtime.randomness import generator

MaskedLogits = Callable[[Tensor, Tensor, Tensor], Tensor]  # (x, x_t, is_masked) -> (M, K)


def exact_masks(x: Tensor, counts: Tensor, source: torch.Generator) -> Tensor:
    """(B, L) bool with ``counts[i]`` masked places in row i, uniformly chosen."""
    ranks = torch.rand(x.shape, generator=source, device=x.device).argsort(1).argsort(1)
    return ranks < counts[:, None]


@torch.no_grad()
def masked_figures(logits_fn: MaskedLogits, batches: Sequence[Tensor], mask_id: int, seed: int = 0) -> dict[str, float]:
    """Cross-entropy per masked token and the likelihood bound, with k ~ U{1..L} masked positions.

    The bound is L/k times the summed NLL over the k masked positions, averaged (method section 7); the k of all
    sequences are stratified.

    Returns:
        ``nll`` and ``bound`` in nats per token, ``perplexity_bound``, ``recovery`` (argmax right) in [0, 1].
    """
    rows = sum(len(x) for x in batches)
    nll = bound = hits = masked = 0.0
    done = 0
    for number, x in enumerate(batches):
        source = generator(x.device, seed, number)
        length = x.shape[1]
        # Golden-ratio steps spread the k of consecutive sequences evenly.
        places = torch.arange(done, done + len(x), device=x.device, dtype=torch.float64)
        counts = 1 + (torch.remainder(0.5 + places * 0.6180339887498949, 1.0) * length).long()
        is_masked = exact_masks(x, counts, source)
        logits = logits_fn(x, apply_mask(x, is_masked, mask_id), is_masked).float()
        losses = F.cross_entropy(logits, x[is_masked], reduction="none")
        per_row = torch.zeros(len(x), device=x.device).index_add(0, is_masked.nonzero()[:, 0], losses)
        nll += float(per_row.sum())
        bound += float((per_row / counts).sum())
        hits += float((logits.argmax(-1) == x[is_masked]).sum())
        masked += float(counts.sum())
        done += len(x)
    return {
        "nll": nll / masked,
        "bound": bound / rows,
        "perplexity_bound": math.exp(min(bound / rows, 700.0)),
        "recovery": hits / masked,
    }


def denoiser_figures(model: nn.Module, batches: Sequence[Tensor], mask_id: int) -> dict[str, float]:
    """:func:`masked_figures` of a base without latents."""
    return masked_figures(lambda _, x_t, is_masked: model(x_t, select=is_masked), batches, mask_id)


RATIOS = tuple(i / 10 for i in range(1, 11))


@torch.no_grad()
def ratio_curve(
    logits_fn: MaskedLogits, batches: Sequence[Tensor], mask_id: int, ratios: Sequence[float] = RATIOS, seed: int = 0
) -> list[dict[str, float]]:
    """Recovery and NLL per masked token with exactly round(ratio * L) positions masked in every sequence."""
    curve = []
    for ratio in ratios:
        nll = hits = masked = 0.0
        for number, x in enumerate(batches):
            count = max(1, round(ratio * x.shape[1]))
            counts = torch.full((len(x),), count, device=x.device)
            is_masked = exact_masks(x, counts, generator(x.device, seed, number))
            logits = logits_fn(x, apply_mask(x, is_masked, mask_id), is_masked).float()
            nll += float(F.cross_entropy(logits, x[is_masked], reduction="sum"))
            hits += float((logits.argmax(-1) == x[is_masked]).sum())
            masked += float(counts.sum())
        curve.append({"ratio": ratio, "recovery": hits / masked, "nll": nll / masked})
    return curve
