"""The picture of ``bench``: quality over throughput, a line for each model, latent steps and temperature."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.errors import writing
from diladiff_cli.stages.bench_tables import short_names
from diladiff_cli.stages.pictures import COLOURS, new_figure, plain_log_axis, save_picture, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Report = dict[str, Any]
Line = tuple[str, int | None, float]
PANELS = {
    "genppl": "generative perplexity (lower is better)",
    "mauve": "MAUVE (higher is better)",
    "entropy": "token entropy (nats)",
}
STYLES = ("-", "--", ":", "-.")  # of temperatures
MARKERS = ("o", "s", "^", "D", "v", "P")  # of latent steps


def lines_of(reports: Sequence[Report]) -> dict[Line, list[Report]]:
    """The points of each (model, latent steps, temperature), by falling throughput."""
    found: dict[Line, list[Report]] = defaultdict(list)
    for report in reports:
        found[report["model"], report["steps"], report["temperature"]].append(report)
    return {line: sorted(points, key=lambda r: -_speed(r)) for line, points in found.items()}


@styled
def frontier_figure(reports: Sequence[Report]) -> "Figure":
    """GenPPL, MAUVE and the entropy to judge them by, over tokens per second; labels are decoding steps."""
    measured = [name for name in PANELS if any(name in r["figures"] for r in reports)]
    figure, axes = new_figure(len(measured), "quality over throughput")
    for panel, name in zip(axes, measured, strict=True):
        _draw_panel(panel, name, reports)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure


def frontier_picture(reports: Sequence[Report], folder: Path) -> list[Path]:
    """Write ``frontier.png`` and ``frontier.svg``; returns their paths."""
    with writing(folder):
        return save_picture(frontier_figure(reports), folder, "frontier")


def _speed(report: Report) -> float:
    return float(report["tokens_per_second"]["mean"])


def _draw_panel(panel: "Axes", name: str, reports: Sequence[Report]) -> None:
    names = short_names(reports)
    temperatures = sorted({r["temperature"] for r in reports}, reverse=True)
    latent_steps = sorted({r["steps"] or 0 for r in reports})
    for (model, steps, temperature), points in lines_of(reports).items():
        shown = [r for r in points if name in r["figures"]]
        panel.errorbar(
            [_speed(r) for r in shown],
            [r["figures"][name]["mean"] for r in shown],
            yerr=[r["figures"][name]["std"] or 0.0 for r in shown],
            color=COLOURS[list(names).index(model) % len(COLOURS)],
            linestyle=STYLES[temperatures.index(temperature) % len(STYLES)],
            marker=MARKERS[latent_steps.index(steps or 0) % len(MARKERS)],
            label=_label(names[model], steps, temperature, len(temperatures) > 1),
        )
        for r in shown:
            place = (_speed(r), r["figures"][name]["mean"])
            panel.annotate(str(r["decode_steps"]), place, xytext=(4, 4), textcoords="offset points", fontsize=7)
    reference = (reports[0]["reference"] or {}).get(name)
    if reference is not None:
        panel.axhline(reference, color="0.5", linewidth=1, linestyle=(0, (1, 3)), label="reference text")
    plain_log_axis(panel, "x")
    panel.set_xlabel("tokens per second (labels: decoding steps)")
    panel.set_ylabel(PANELS[name])
    if name == "genppl":
        plain_log_axis(panel, "y")


def _label(model: str, steps: int | None, temperature: float, several: bool) -> str:
    latent = f", {steps} latent step{'s' * (steps > 1)}" if steps else ""
    return model + latent + (f", T {temperature:g}" if several else "")
