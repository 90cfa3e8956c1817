"""Generative perplexity: how likely a scorer finds the text, as MDLM and Duo define it."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from diladiff_cli.metrics.scorers import Scorer

DEFINITION = (
    "exp(sum of NLL / number of scored tokens) over all texts together; each text alone, re-tokenised by the scorer, "
    "truncated to the context, without BOS, so that its first token is not scored; texts of fewer than two tokens are "
    "skipped and counted"
)


def perplexity(nlls: Sequence[Tensor]) -> dict[str, Any]:
    """exp(sum of NLL / number of tokens) over all texts together.

    Args:
        nlls: Per text, the negative log-likelihoods in nats of its scored tokens; a text without any is skipped.

    Returns:
        ``value`` and ``stderr`` (of the value, over texts; None where undefined), ``n`` texts scored, ``skipped``
        texts, ``tokens`` scored.
    """
    scored = [(float(nll.double().sum()), nll.numel()) for nll in nlls if nll.numel()]
    n, tokens = len(scored), sum(length for _, length in scored)
    result: dict[str, Any] = {"value": None, "stderr": None, "n": n, "skipped": len(nlls) - n, "tokens": tokens}
    if not scored:
        return result
    mean = sum(total for total, _ in scored) / tokens
    result["value"] = math.exp(mean)
    if n > 1:
        # Standard error of a ratio of sums, carried through exp to first order.
        spread = sum((total - mean * length) ** 2 for total, length in scored) * n / (n - 1)
        result["stderr"] = result["value"] * math.sqrt(spread) / tokens
    return result


def definition(scorer: Scorer, context: int | None = None) -> dict[str, Any]:
    """What a GenPPL figure rests on, for reports; the numbers of texts and tokens are :func:`perplexity`'s."""
    return {
        "definition": DEFINITION,
        "scorer": scorer.name,
        "precision": scorer.precision,
        "context": min(context or scorer.context, scorer.context),
        "tokenisation": f"text re-tokenised by {scorer.name}",
    }
