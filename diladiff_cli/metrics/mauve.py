"""MAUVE: how close two sets of texts are, by the clustered features of a scorer (Pillutla et al., 2021)."""

import importlib.util
from typing import Any

from torch import Tensor

from diladiff_cli.metrics.quiet import silenced

SCALE = 5  # of the divergence curve; figures of different scales do not compare
SEEDS = (25, 26, 27)  # of the clustering
NOT_INSTALLED = "the package mauve-text is not installed"
DEFINITION = (
    "area under the divergence curve (25 mixtures) of two sets of texts, quantised together by k-means into the given "
    "number of buckets; features: the scorer's last-layer hidden state at a text's last token, L2-normalised, reduced "
    "by PCA to 90 % of the variance; the first n of either set, as many as the smaller has; noisy below thousands of "
    "texts"
)


def mauve_score(p_features: Tensor | None, q_features: Tensor | None) -> dict[str, Any]:
    """MAUVE of two sets of features, 1 for equal distributions and near 0 for disjoint ones.

    Equally many of both count: of a set that is much smaller than the other, MAUVE would be far too high.

    Args:
        p_features: (N, D) features of one set, or None where there is no scorer.
        q_features: (M, D) features of the other.

    Returns:
        ``value`` (None if it cannot be had, then ``reason`` says why), that of the first of ``values``, one for each
        of the ``seeds``; ``n`` (how many of each set), ``buckets`` (max(2, n / 10)) and ``scale``.
    """
    if p_features is None or q_features is None:
        return {"value": None, "reason": "no scorer or no reference to take features from"}
    n = min(len(p_features), len(q_features))
    if n < 2:
        return {"value": None, "n": n, "reason": "needs at least two texts in each set"}
    if importlib.util.find_spec("mauve") is None:
        return {"value": None, "n": n, "reason": NOT_INSTALLED}
    buckets = max(2, round(n / 10))
    values = []
    # Silenced: the clustering library writes warnings about small sets straight to the terminal.
    with silenced():
        from mauve.compute_mauve import compute_mauve

        for seed in SEEDS:
            outcome = compute_mauve(
                p_features=p_features[:n].float().cpu().numpy(),
                q_features=q_features[:n].float().cpu().numpy(),
                num_buckets=buckets,
                mauve_scaling_factor=SCALE,
                seed=seed,
                verbose=False,
            )
            values.append(float(outcome.mauve))
    return {"value": values[0], "values": values, "n": n, "buckets": buckets, "scale": SCALE, "seeds": list(SEEDS)}
