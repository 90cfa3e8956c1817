"""Labels of points, as they lie in a picture."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from diladiff_cli.stages.plotting.point_labels import Label, label_points

PANEL = (4.0, 3.0)  # inches


def panel_with(points: list[tuple[float, float]], labels: list[str]) -> Axes:
    """A panel with a line through points, labelled."""
    figure = Figure(figsize=PANEL, dpi=360, layout="constrained")  # sizes of text are whole pixels
    panel = figure.subplots()
    panel.plot(*zip(*points, strict=True), marker="o")
    label_points(panel, [Label(x, y, text, "red") for (x, y), text in zip(points, labels, strict=True)])
    return panel


def boxes_of(panel: Axes) -> list[Bbox]:
    """Where its labels lie, in pixels."""
    return [text.get_window_extent() for text in panel.texts]


def distances(panel: Axes, points: list[tuple[float, float]]) -> list[float]:
    """Of each label from its point, in points of print."""
    places = panel.transData.transform(points)
    boxes = boxes_of(panel)
    corners = [np.clip(place, box.min, box.max) for place, box in zip(places, boxes, strict=True)]
    dots = panel.figure.dpi / 72
    return [float(np.hypot(*(place - corner))) / dots for place, corner in zip(places, corners, strict=True)]


def test_points_that_lie_apart_all_have_their_labels_near() -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, 2.0), (4.0, 4.0)]
    panel = panel_with(points, ["4", "8", "16", "128"])
    assert [text.get_text() for text in panel.texts] == ["4", "8", "16", "128"]
    assert {text.get_color() for text in panel.texts} == {"red"}
    assert max(distances(panel, points)) < 7


@pytest.mark.parametrize("seed", range(4))
def test_labels_hide_neither_points_nor_one_another(seed: int) -> None:
    points = [(float(x), float(y)) for x, y in np.random.default_rng(seed).random((200, 2))]
    panel = panel_with(points, [str(2 ** (i % 8)) for i in range(200)])
    boxes = boxes_of(panel)
    assert 50 < len(boxes) < 200  # there is no room for all of them
    # An extent has room for letters that reach lower or higher than digits.
    digits = [Bbox.from_extents(box.x0 + 1, box.y0 + 9, box.x1 - 1, box.y1 - 2) for box in boxes]
    for i, box in enumerate(digits):
        assert not box.count_contains(panel.transData.transform(points))
        assert not box.count_overlaps(digits[:i] + digits[i + 1 :])


def test_a_label_lies_where_it_hides_no_line() -> None:
    up, down = [(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)], [(0.0, 2.0), (1.0, 1.0), (2.0, 0.0)]
    place = {}
    for name, points in (("up", up), ("down", down)):
        panel = panel_with(points, ["4", "8", "16"])
        middle, box = panel.transData.transform(points[1]), boxes_of(panel)[1]
        place[name] = (np.array(box.min + box.max) / 2 - middle > 0).tolist()
    assert place["up"] in ([True, False], [False, True])  # right and below, or left and above
    assert place["down"] in ([True, True], [False, False])


def test_the_place_does_not_depend_on_the_resolution() -> None:
    points = [(1.0, 1.0), (1.1, 1.02), (1.2, 1.04), (4.0, 4.0)]
    offsets = []
    for dots in (72, 200):
        figure = Figure(figsize=PANEL, dpi=dots)
        panel = figure.subplots()
        panel.plot(*zip(*points, strict=True))
        panel.axhline(1.0)
        label_points(panel, [Label(x, y, "16", "red") for x, y in points])
        offsets.append([text.get_position() for text in panel.texts])
    assert offsets[0] == [pytest.approx(offset) for offset in offsets[1]]


def test_points_that_are_nowhere_have_no_labels() -> None:
    figure = Figure(figsize=PANEL)
    panel = figure.subplots()
    points = [(1.0, 1.0), (2.0, float("nan")), (3.0, float("inf")), (4.0, 2.0)]
    panel.plot(*zip(*points, strict=True))
    label_points(panel, [Label(x, y, f"{x:g}", "red") for x, y in points])
    assert [text.get_text() for text in panel.texts] == ["1", "4"]
