"""The picture of ``bench``: quality over throughput, a line for each model, latents, order and temperature.

Where the models are comparable, a panel has their GenPPL as a multiple of the base's at equal entropy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.errors import writing
from diladiff_cli.stages.bench_lines import Line, Way, lines_of, short_names, speed
from diladiff_cli.stages.pictures import COLOURS, legend_below, new_figure, plain_log_axis, save_picture, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]


PANELS = {
    "genppl": "generative perplexity (lower is better)",
    "mauve": "MAUVE (higher is better)",
    "mauve_pooled": "MAUVE, all seeds together (higher is better)",
    "entropy": "token entropy (nats)",
    "latent_agreement": "latent agreement",
}
STYLES = ("-", "--", ":", "-.")  # of temperatures
REFERENCE: dict[str, Any] = {"color": "0.5", "linewidth": 1, "linestyle": (0, (1, 3)), "label": "reference text"}
MARKERS = ("o", "s", "^", "D", "v", "P")  # of latents and orders


@styled
def frontier_figure(reports: Sequence[Report]) -> "Figure":
    """GenPPL, MAUVE, and entropy and latent agreement to judge them by, over tokens per second.

    Labels are decoding steps. With a base among the models (the first counts) another panel compares GenPPL with it at
    equal entropy.
    """
    measured = [name for name in PANELS if any(name in r["figures"] for r in reports)]
    if "mauve_pooled" in measured:  # to which the other adds nothing
        measured = [name for name in measured if name != "mauve"]
    base = next((r["model"] + Way.of(r).words for r in reports if r["stage"] == "mdlm"), "")
    comparable = any(_multiple(r, base) is not None for r in reports)
    panels = len(measured) + comparable
    figure, axes = new_figure(panels, "quality over throughput", columns=panels if panels < 4 else -(-panels // 2))
    for panel, name in zip(axes, measured, strict=False):
        _draw_panel(panel, name, reports)
    if comparable:
        _draw_comparison(axes[-1], reports, base)
    entries = {look["label"]: look for look in _looks(reports).values()}
    if any((reports[0]["reference"] or {}).get(name) is not None for name in measured):
        entries[REFERENCE["label"]] = REFERENCE
    legend_below(figure, entries)
    return figure


def frontier_picture(reports: Sequence[Report], folder: Path) -> list[Path]:
    """Write ``frontier.png`` and ``frontier.svg``; returns their paths."""
    with writing(folder):
        return save_picture(frontier_figure(reports), folder, "frontier")


def _multiple(report: Report, base: str) -> float | None:
    """GenPPL as a multiple of a base's at the same entropy, decoding steps and order."""
    theirs = report.get("at_equal_entropy", {}).get(base, {}).get("genppl")
    ours = report["figures"].get("genppl")
    return ours["mean"] / theirs if ours and theirs else None


def _looks(reports: Sequence[Report]) -> dict[Line, dict[str, Any]]:
    """Colour, style, marker and label of every line, the same in all panels."""
    names, lines = short_names(reports), lines_of(reports)
    temperatures = sorted({r["temperature"] for r in reports}, reverse=True)
    ways = sorted({Way.of(r) for r in reports})
    kinds = list(dict.fromkeys((line.model, line.way) for line in lines))
    return {
        line: {
            "color": COLOURS[kinds.index((line.model, line.way)) % len(COLOURS)],
            "linestyle": STYLES[temperatures.index(line.temperature) % len(STYLES)],
            "marker": MARKERS[ways.index(line.way) % len(MARKERS)],
            "label": _label(names[line.model], line, with_temperature=len(temperatures) > 1),
        }
        for line in lines
    }


def _draw_comparison(panel: "Axes", reports: Sequence[Report], base: str) -> None:
    looks = _looks(reports)
    for line, points in lines_of(reports).items():
        found = sorted((r["decode_steps"], multiple) for r in points if (multiple := _multiple(r, base)) is not None)
        if found:
            panel.plot(*zip(*found, strict=True), **looks[line])
    panel.axhline(1.0, color="0.5", linewidth=1)
    plain_log_axis(panel, "x")
    panel.set_xticks(sorted({r["decode_steps"] for r in reports}))
    panel.minorticks_off()
    panel.set_xlabel("decoding steps")
    panel.set_ylabel("perplexity / the base's at equal entropy")


def _draw_panel(panel: "Axes", name: str, reports: Sequence[Report]) -> None:
    looks = _looks(reports)
    for line, points in lines_of(reports).items():
        shown = [r for r in points if name in r["figures"]]
        panel.errorbar(
            [speed(r) for r in shown],
            [r["figures"][name]["mean"] for r in shown],
            yerr=[r["figures"][name]["std"] or 0.0 for r in shown],
            **looks[line],
        )
        for r in shown:
            place, colour = (speed(r), r["figures"][name]["mean"]), looks[line]["color"]
            panel.annotate(
                str(r["decode_steps"]), place, xytext=(4, 4), textcoords="offset points", fontsize=7, color=colour
            )
    reference = (reports[0]["reference"] or {}).get(name)
    if reference is not None:
        panel.axhline(reference, **REFERENCE)
    plain_log_axis(panel, "x")
    panel.set_xlabel("tokens per second (labels: decoding steps)")
    panel.set_ylabel(PANELS[name])
    if name == "genppl":
        plain_log_axis(panel, "y")


def _label(model: str, line: Line, with_temperature: bool) -> str:
    order = "" if line.way.order == "random" else f", {line.way.order}"
    return model + line.way.words + order + (f", T {line.temperature:g}" if with_temperature else "")
