"""Comparisons at equal entropy: figures interpolated along a model's temperatures."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

LOGARITHMIC = {"genppl"}  # interpolated in the logarithm


def interpolated(points: Sequence[Mapping[str, float | None]], name: str, entropy: float) -> float | None:
    """A figure at an entropy: monotone cubic (PCHIP; Fritsch and Butland, 1984), in the logarithm for GenPPL.

    Straight lines between temperatures would flatter whatever is compared: log GenPPL is convex in the entropy, and a
    chord lies above it, by 2 to 5 % in the middle of a gap of 0.15 in temperature. Of two points it is a line all the
    same.

    Args:
        points: Figures of one model at several temperatures, with ``entropy`` in nats.
        name: The figure.
        entropy: Where it is wanted.

    Returns:
        None outside of the measured entropies, or where the figure was not measured.
    """
    from scipy.interpolate import PchipInterpolator  # which takes a second to import

    known = ((p.get("entropy"), p.get(name)) for p in points)
    line = sorted((e, value) for e, value in known if e is not None and value is not None)
    line = [next(same) for _, same in groupby(line, key=lambda point: point[0])]
    if len(line) < 2 or not line[0][0] <= entropy <= line[-1][0]:
        return None
    entropies, values = zip(*line, strict=True)
    logarithmic = name in LOGARITHMIC
    figure = float(PchipInterpolator(entropies, [math.log(v) for v in values] if logarithmic else values)(entropy))
    return math.exp(figure) if logarithmic else figure


def mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation over seeds (None of a single one)."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, None
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
