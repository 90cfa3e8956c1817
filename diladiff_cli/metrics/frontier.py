"""Comparisons at equal entropy: figures interpolated along a model's temperatures."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

LOGARITHMIC = {"genppl"}  # interpolated in the logarithm


def interpolated(points: Sequence[Mapping[str, float | None]], name: str, entropy: float) -> float | None:
    """A figure at an entropy, linear between neighbouring temperatures (in the logarithm for GenPPL).

    Args:
        points: Figures of one model at several temperatures, with ``entropy`` in nats.
        name: The figure.
        entropy: Where it is wanted.

    Returns:
        None outside of the measured entropies, or where the figure was not measured.
    """
    known = ((p.get("entropy"), p.get(name)) for p in points)
    line = sorted((e, value) for e, value in known if e is not None and value is not None)
    for (low, first), (high, second) in pairwise(line):
        if low <= entropy <= high and high > low:
            share = (entropy - low) / (high - low)
            if name in LOGARITHMIC:
                return math.exp((1 - share) * math.log(first) + share * math.log(second))
            return (1 - share) * first + share * second
    return None


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (None of a single one)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
