"""Labels of the points of a picture, placed so that they can be read."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS, GAP, BETWEEN = 7, 3, 2  # the size of a label, and its distance from its point, and from other labels
WIDTH, HEIGHT = 0.64 * POINTS, 0.75 * POINTS  # of a digit, about


class Label(NamedTuple):
    """What to write beside the point (x, y)."""

    x: float
    y: float
    text: str
    color: str


def label_points(axes: "Axes", labels: Sequence[Label]) -> None:
    """Write each label beside its point where it hides the least of lines, if it can without hiding points or labels.

    Call it last: it finds places in the figure as that is by then.
    """
    from matplotlib.transforms import Bbox

    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # gives axes their place
    dots = figure.dpi / 72
    labels = [label for label in labels if np.isfinite(label[:2]).all()]
    points = axes.transData.transform([(label.x, label.y) for label in labels]) / dots
    lines = [line.get_transform().transform(np.asarray(line.get_xydata())) / dots for line in axes.lines]
    box = axes.bbox
    frame = np.array([(box.x0, box.y1), (box.x0, box.y0), (box.x1, box.y0)]) / dots
    ink = np.concatenate([_along(line) for line in (*lines, frame)])
    taken: list[Bbox] = []  # by labels
    for label, (x, y) in zip(labels, points, strict=True):
        boxes = [Bbox.from_bounds(x + dx, y + dy, *_size(label.text)) for dx, dy in _offsets(label.text)]
        free = [box for box in boxes if not box.count_contains(points) and not box.count_overlaps(taken)]
        if free:
            place = min(free, key=lambda box: box.count_contains(ink))
            taken.append(Bbox.from_extents(place.x0 - BETWEEN, place.y0, place.x1 + BETWEEN, place.y1))
            offset = (place.x0 - x, place.y0 - y)
            written = axes.annotate(label.text, label[:2], offset, textcoords="offset points", color=label.color)
            written.set(fontsize=POINTS, in_layout=False)


def _size(text: str) -> tuple[float, float]:
    return WIDTH * len(text), HEIGHT


def _offsets(text: str) -> list[tuple[float, float]]:
    """Where a label may begin, from its point: at the corners, above and below, the best first."""
    width, height = _size(text)
    corners = [(dx, dy) for dx in (GAP, -GAP - width) for dy in (GAP, -GAP - height)]
    return [*corners, (-width / 2, GAP + 1), (-width / 2, -GAP - 1 - height)]


def _along(line: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Places along a line through points (N, 2), some two apart."""
    line = line[np.isfinite(line).all(axis=1)]
    steps = [max(1, int(np.hypot(*(b - a)) / 2)) for a, b in pairwise(line)]
    parts = [np.linspace(a, b, n, endpoint=False) for (a, b), n in zip(pairwise(line), steps, strict=True)]
    return np.concatenate([*parts, line[-1:]])
