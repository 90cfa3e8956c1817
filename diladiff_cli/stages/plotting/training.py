"""The pictures of training: loss, validation and learning rate over steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diladiff_cli.stages.plotting.pictures import (
    COLOURS,
    DASHES,
    GREY,
    legend_below,
    new_figure,
    plain_log_axis,
    start_at_zero,
    styled,
)
from diladiff_cli.stages.plotting.sources import Source, Style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SMOOTHING = 11  # logged steps of the running mean of the training loss
STAGE_WORDS = {"mdlm": "base", "ae": "auto-encoder", "prior": "prior", "student": "student"}
STEP, NATS, ERROR = "optimiser step", "nats per token", "squared error per entry"


@dataclass(frozen=True)
class Panel:
    """A panel of the picture of training.

    Attributes:
        label: Of the vertical axis.
        lines: Name in the log to what tells it from the panel's other lines.
        split: Whose lines of the log.
        scale: What values are multiplied by.
        logarithmic: Whether the vertical axis is, where the values span a decade.
    """

    label: str
    lines: dict[str, str]
    split: str = "valid"
    scale: float = 1.0
    logarithmic: bool = False


def _training(label: str, name: str = "loss", logarithmic: bool = False) -> Panel:
    return Panel(label, {name: ""}, "train", logarithmic=logarithmic)


def _perplexity(label: str) -> Panel:
    return Panel(label, {"perplexity_bound": ""}, logarithmic=True)


PANELS: dict[str, tuple[Panel, ...]] = {  # of each stage, before the learning rate
    "mdlm": (
        _training(f"training loss ({NATS})"),
        _perplexity("validation: perplexity bound"),
        Panel("validation: recovered (% of masked tokens)", {"recovery": ""}, scale=100),
    ),
    "ae": (
        _training(f"training loss ({NATS})"),
        _perplexity("validation: perplexity bound given z"),
        Panel(
            "validation: recovered (% of masked tokens)",
            {"recovery": "some masked", "recovery_all_masked_autoencoder": "all masked"},
            scale=100,
        ),
    ),
    "prior": (
        _training(f"training loss ({ERROR})"),
        Panel(f"validation loss ({ERROR})", {"loss": ""}),
        Panel("validation: loss (% of a white latent's)", {"share_of_white": ""}, scale=100),
    ),
    "student": (
        _training("training loss (adaptive, no unit)"),
        _training("training: squared error per entry", "squared_error", logarithmic=True),
        Panel(
            "validation: squared distance to the teacher",
            {
                "student_1_steps": "1 step",
                "student_2_steps": "2 steps",
                "student_5_steps": "5 steps",
                "teacher_5_steps": "teacher, 5 steps",
            },
            logarithmic=True,
        ),
    ),
}
LEARNING_RATE = Panel("learning rate", {"learning_rate": ""}, "train")


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value's mean with its neighbours, at most half of :data:`SMOOTHING`, or a sixth of all, on
    either side; gaps stay out."""
    means, reach = [], min(SMOOTHING // 2, len(values) // 6)
    for i in range(len(values)):
        near = values[max(0, i - reach) : i + reach + 1]
        window = [value for value in near if not math.isnan(value)]
        means.append(sum(window) / len(window) if window else math.nan)
    return means


def looks_of(sources: Sequence[Source]) -> dict[str, Style]:
    """How the lines of each run look, where colours tell runs apart."""
    return {source.name: {"color": COLOURS[i % len(COLOURS)]} for i, source in enumerate(sources)}


def _spans_a_decade(sources: Sequence[Source], panel: Panel) -> bool:
    values = [value for source in sources for name in panel.lines for value in source.series(panel.split, name)[1]]
    positive = [value for value in values if value > 0]  # NaN is not
    return bool(positive) and max(positive) > 10 * min(positive)


def logged_panels(sources: Sequence[Source]) -> list[Panel]:
    """The panels that the logs of runs of one stage have something for."""
    panels = (*PANELS[sources[0].stage], LEARNING_RATE) if sources else ()
    return [panel for panel in panels if any(_has(source, panel) for source in sources)]


@styled
def training_figure(sources: Sequence[Source]) -> "Figure":
    """Training loss, validation figures and learning rate over steps, of runs of one stage."""
    shown = logged_panels(sources)
    figure, axes = new_figure(len(shown), f"training of the {STAGE_WORDS[sources[0].stage]}", columns=2)
    for panel, place in zip(shown, axes, strict=True):
        _draw_panel(place, panel, sources)
    legend_below(figure, looks_of(sources))
    return figure


def _has(source: Source, panel: Panel) -> bool:
    return any(source.series(panel.split, name)[0] for name in panel.lines)


def _draw_panel(axes: "Axes", panel: Panel, sources: Sequence[Source]) -> None:
    from matplotlib.lines import Line2D

    for source, look in zip(sources, looks_of(sources).values(), strict=True):
        for dashes, name in zip(DASHES, panel.lines, strict=False):
            steps, values = source.series(panel.split, name, panel.scale)
            marker = "o" if len(steps) == 1 else ""  # a line of one point would not be seen
            label = " ".join(filter(None, (source.name, panel.lines[name])))
            if panel is LEARNING_RATE:
                axes.plot(steps, values, label=label, marker=marker, **look)
            elif panel.split == "train":
                axes.plot(steps, values, alpha=0.25, linewidth=0.8, **look)
                axes.plot(steps, running_mean(values), label=label, marker=marker, **look)
            else:
                axes.plot(steps, values, linestyle=dashes, marker="o", label=label, **look)
    if len(panel.lines) > 1:
        keys = [Line2D([], [], color=GREY, linestyle=d) for d, _ in zip(DASHES, panel.lines, strict=False)]
        axes.legend(keys, list(panel.lines.values()), frameon=True, edgecolor="none")
    if panel.logarithmic and _spans_a_decade(sources, panel):
        plain_log_axis(axes, "y")
    if panel is LEARNING_RATE:
        axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        start_at_zero(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel(STEP)
    axes.set_ylabel(panel.label)
