"""Softmax attention, by whatever computes it fastest on a device."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diladiff_cli.networks.derivatives import has_tangent

SHORT = 256  # tokens, see attend
SCORES_AT_ONCE = 1 << 21  # 4 MB in bf16


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, plain: bool = False) -> Tensor:
    """softmax(q k^T / sqrt(d)) v (B, H, N, d) of queries q (B, H, N, d), and keys k and values v (B, H, M, d).

    ``mask``, broadcast to (B, H, N, M), is True where attention may look: somewhere for each query. ``plain`` asks for
    plain products, which have a forward-mode derivative.

    On a CPU in bf16 products replace torch's fused kernel, which takes 1.3 to 2.7 times as long, and its backward pass
    2 to 5 times: plain ones up to :data:`SHORT` positions, those of :func:`attend_in_parts` beyond. Their scores are
    rounded to bf16, so the error is 0.4 to 0.8 % of the values instead of 0.2 %.

    Raises:
        NotImplementedError: A forward-mode derivative is asked for without ``plain``, and what is computed has none.
    """
    in_bf16 = q.dtype == torch.bfloat16 and q.device.type == "cpu"
    is_short = max(q.shape[-2], k.shape[-2]) <= SHORT
    if plain or (in_bf16 and is_short):
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (B, H, N, M)
        return _weights(scores, mask) @ v
    if not in_bf16 or has_tangent(q, k, v):  # the operation below would drop it without a word
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    batch, heads = q.shape[:2]
    if mask is not None:
        mask = mask[(None,) * (4 - mask.dim())]
        mask = mask.expand(batch, heads, *mask.shape[2:]).flatten(0, 1)
    q = q * q.shape[-1] ** -0.5
    return attend_in_parts(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask).unflatten(0, (batch, heads))


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    return (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)


@torch.library.custom_op("diladiff::attend_in_parts", mutates_args=())
def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T) v (A, N, d) of q (A, N, d) and k and v (A, M, d), some of the A at a time.

    Scores stay in the caches of the processor, and none are kept for the backward pass, which makes them again, as in
    FlashAttention (Dao et al., 2022). One operation to ``torch.compile``.

    Args:
        q: Queries, already divided by sqrt(d).
        k: Keys.
        v: Values.
        mask: (A, N or 1, M or 1) bool, True where attention may look; None for everywhere.
    """
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    for q_part, k_part, v_part, out_part, mask_part in _parts(mask, q, k, v, out):
        torch.bmm(_weights(torch.bmm(q_part, k_part.transpose(1, 2)), mask_part), v_part, out=out_part)
    return out


@torch.library.custom_op("diladiff::attend_in_parts_backward", mutates_args=())
def _backward_in_parts(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Derivatives by q, k and v for that by the result."""
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    for q_part, k_part, v_part, grad_part, by_q, by_k, by_v, mask_part in _parts(mask, q, k, v, grad, *grads):
        weights = _weights(torch.bmm(q_part, k_part.transpose(1, 2)), mask_part)
        torch.bmm(weights.transpose(1, 2), grad_part, out=by_v)
        by_weights = torch.bmm(grad_part, v_part.transpose(1, 2))
        by_scores = torch._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        torch.bmm(by_scores, k_part, out=by_q)
        torch.bmm(by_scores.transpose(1, 2), q_part, out=by_k)
    return grads


def _parts(mask: Tensor | None, q: Tensor, k: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """All of them in parts of :data:`SCORES_AT_ONCE`, with the mask, or None for it, as the last."""
    size = max(1, SCORES_AT_ONCE // max(1, q.shape[1] * k.shape[1]))
    parts = [torch.split(x, size) for x in (q, k, *others)]
    masks = [None] * len(parts[0]) if mask is None else torch.split(mask, size)
    yield from zip(*parts, masks, strict=True)


@attend_in_parts.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return q.new_empty(*q.shape[:2], v.shape[-1])


@_backward_in_parts.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _derive(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_backward_in_parts(grad, *ctx.saved_tensors), None


attend_in_parts.register_autograd(_derive, setup_context=_keep)
