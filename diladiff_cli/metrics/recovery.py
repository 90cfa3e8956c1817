"""Recovery: the share of masked tokens that the network's first guess gets right, by masking ratio."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diladiff_cli.core.masking import apply_mask

MaskedLogits = Callable[[Tensor, Tensor], Tensor]
"""x_t (B, L) and is_masked (B, L) -> logits (M, K) of the masked positions in row-major order."""
LogitsFor = Callable[[Tensor], MaskedLogits]
"""Clean tokens (B, L) -> their :data:`MaskedLogits`: a decoder encodes them here, once for all masks."""

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@torch.no_grad()
def recovery_curve(
    logits_for: LogitsFor,
    batches: Iterable[Tensor],
    mask_id: int,
    ratios: Sequence[float] = RATIOS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Recovery and NLL at each masking ratio.

    In every sequence exactly round(ratio * L) random positions are masked, at least one. The masks depend on the seed
    and the sequence's place alone, not on the model or the batch size, and a larger ratio's contain a smaller's.

    Args:
        logits_for: The network, see :data:`LogitsFor`.
        batches: Clean tokens, (B, L) each.
        mask_id: The mask token.
        ratios: Masking ratios in (0, 1].
        seed: Of the masks.

    Returns:
        For each ratio ``ratio``, ``recovery`` in [0, 1], ``nll`` in nats per masked token (both None without data) and
        ``tokens``, the masked tokens counted.
    """
    generator = torch.Generator().manual_seed(seed)
    right, nll, tokens = ([0.0] * len(ratios) for _ in range(3))
    for x in batches:
        length = x.shape[1]
        masked_logits = logits_for(x)
        # Row by row, so that the draws do not depend on how sequences fall into batches.
        rank = torch.stack([torch.randperm(length, generator=generator, device="cpu") for _ in x]).to(x.device)
        for i, ratio in enumerate(ratios):
            is_masked = rank < max(1, round(ratio * length))
            logits = masked_logits(apply_mask(x, is_masked, mask_id), is_masked)  # (M, K)
            target = x[is_masked]
            right[i] += float((logits.argmax(-1) == target).sum())
            nll[i] += float(F.cross_entropy(logits.float(), target, reduction="sum"))
            tokens[i] += len(target)
    return [
        {"ratio": ratio, "recovery": hits / n if n else None, "nll": total / n if n else None, "tokens": int(n)}
        for ratio, hits, total, n in zip(ratios, right, nll, tokens, strict=True)
    ]
