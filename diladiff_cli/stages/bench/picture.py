"""The picture of ``bench``: quality over throughput, a line for each model, latents, order and temperature.

Where the models are comparable, a panel has their GenPPL as a multiple of that of the base in its most decoding steps,
at equal entropy.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.errors import writing
from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.lines import Baseline, Line, Way, lines_of, short_names, speed
from diladiff_cli.stages.plotting.pictures import (
    COLOURS,
    DASHES,
    FORMATS,
    legend_below,
    new_figure,
    plain_log_axis,
    save_picture,
    styled,
)
from diladiff_cli.stages.plotting.point_labels import Label, label_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Curves = dict[Line, list[tuple[Report, float, float]]]  # of a panel: points by falling throughput, mean, deviation

MULTIPLE = "multiple"  # the panel that compares at equal entropy
PANELS = {
    "genppl": "generative perplexity (lower is better)",
    "mauve": "MAUVE (higher is better)",
    "mauve_pooled": "MAUVE, all seeds together (higher is better)",
    "entropy": "token entropy (nats)",
    "latent_agreement": "latent agreement",
    MULTIPLE: "GenPPL over that of the base\nin {steps}, at equal entropy\n(lower is better)",
}
FINE = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)  # numbers at an axis of less than a decade
REFERENCE: dict[str, Any] = {"color": "0.5", "linewidth": 1, "linestyle": (0, (1, 3)), "label": "reference text"}
MARKERS = ("o", "s", "^", "D", "v", "P")  # of latents and orders


@styled
def frontier_figure(
    reports: Sequence[Report], among: Sequence[Report] | None = None, panels: Collection[str] = tuple(PANELS)
) -> "Figure":
    """GenPPL, MAUVE, and entropy and latent agreement to judge them by, over tokens per second.

    Labels are decoding steps. With a base among the models (the first counts) another panel compares GenPPL with it at
    equal entropy, see :class:`~diladiff_cli.stages.bench.lines.Baseline`.

    Args:
        reports: The points to draw.
        among: Those to find the base's temperatures in, if there are more than are drawn.
        panels: Which of :data:`PANELS` to draw, where there is something for them.
    """
    baseline = Baseline.among(reports if among is None else among)
    curves = {name: lines for name, lines in _all_curves(reports, baseline).items() if name in panels}
    columns = len(curves) if len(curves) < 4 else -(-len(curves) // 2)
    figure, axes = new_figure(len(curves), "quality over throughput", columns)
    looks = _looks(reports)
    entries = {look["label"]: look for look in looks.values()}
    references = dict(reports[0]["reference"] or {})
    references[MULTIPLE] = baseline and baseline.over(references)
    for panel, name in zip(axes, curves, strict=True):
        _draw_panel(panel, name, curves[name], looks)
        panel.set_ylabel(PANELS[name].format(steps=baseline and f"{baseline.decode_steps} {baseline.order} steps"))
        if name == MULTIPLE:
            panel.axhline(1.0, color="0.5", linewidth=1)
            plain_log_axis(panel, "y", FINE)
        if references.get(name) is not None:
            panel.axhline(references[name], **REFERENCE)
            entries[REFERENCE["label"]] = REFERENCE
    legend_below(figure, entries)
    for panel, lines in zip(axes, curves.values(), strict=True):
        points = [(r, y, looks[line]["color"]) for line, drawn in lines.items() for r, y, _ in drawn]
        label_points(panel, [Label(speed(r), y, str(r["decode_steps"]), colour) for r, y, colour in points])
    return figure


def frontier_picture(
    reports: Sequence[Report],
    folder: Path,
    name: str = "frontier",
    formats: Sequence[str] = FORMATS,
    **chosen: Any,
) -> list[Path]:
    """Write the picture of :func:`frontier_figure`, that ``chosen`` goes to, in each format; returns the files."""
    with writing(folder):
        return save_picture(frontier_figure(reports, **chosen), folder, name, formats)


def _all_curves(reports: Sequence[Report], baseline: Baseline | None) -> dict[str, Curves]:
    """What each panel draws, without those that have nothing to draw."""
    curves = {name: _curves(reports, _measured(name)) for name in PANELS if name != MULTIPLE}
    if curves["mauve_pooled"]:  # to which the other adds nothing
        curves["mauve"] = {}
    if baseline is not None and any(baseline.judges(r) for r in reports):
        curves[MULTIPLE] = _curves(reports, lambda r: (multiple, 0.0) if (multiple := baseline.multiple(r)) else None)
    return {name: lines for name, lines in curves.items() if lines}


def _curves(reports: Sequence[Report], value: Callable[[Report], tuple[float, float] | None]) -> Curves:
    """The lines of a panel, of the points that have its value: a mean, and a deviation."""
    valued = {line: [(r, value(r)) for r in points] for line, points in lines_of(reports).items()}
    drawn = {line: [(r, *pair) for r, pair in points if pair is not None] for line, points in valued.items()}
    return {line: points for line, points in drawn.items() if points}


def _measured(name: str) -> Callable[[Report], tuple[float, float] | None]:
    def value(report: Report) -> tuple[float, float] | None:
        figure = report["figures"].get(name)
        return (figure["mean"], figure["std"] or 0.0) if figure else None

    return value


def _looks(reports: Sequence[Report]) -> dict[Line, dict[str, Any]]:
    """Colour, style, marker and label of every line, the same in all panels."""
    names, lines = short_names(reports), lines_of(reports)
    temperatures = sorted({r["temperature"] for r in reports}, reverse=True)
    ways = sorted({Way.of(r) for r in reports})
    kinds = list(dict.fromkeys((line.model, line.way) for line in lines))
    return {
        line: {
            "color": COLOURS[kinds.index((line.model, line.way)) % len(COLOURS)],
            "linestyle": DASHES[temperatures.index(line.temperature) % len(DASHES)],
            "marker": MARKERS[ways.index(line.way) % len(MARKERS)],
            "label": _label(names[line.model], line, with_temperature=len(temperatures) > 1),
        }
        for line in lines
    }


def _draw_panel(panel: "Axes", name: str, curves: Curves, looks: Mapping[Line, dict[str, Any]]) -> None:
    for line, points in curves.items():
        reports, means, deviations = zip(*points, strict=True)
        panel.errorbar([speed(r) for r in reports], means, yerr=deviations, elinewidth=0.8, **looks[line])
    plain_log_axis(panel, "x")
    if name == "genppl":
        plain_log_axis(panel, "y")
    panel.set_xlabel("tokens per second (labels: decoding steps)")


def _label(model: str, line: Line, with_temperature: bool) -> str:
    order = "" if line.way.order == "random" else f", {line.way.order}"
    return model + line.way.words + order + (f", T {line.temperature:g}" if with_temperature else "")
