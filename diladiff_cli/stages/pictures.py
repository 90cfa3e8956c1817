"""One look for all pictures, and their way to disk."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.runtime.folders import partial_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Distinct for colour-blind readers too (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FORMATS = ("png", "svg")
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "diladiff",  # the same picture for the same data
}
PANEL_INCHES, DOTS_PER_INCH = (5.0, 3.6), 150


def new_figure(panels: int, title: str) -> tuple["Figure", list[Any]]:
    """A figure with ``panels`` axes in a row."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        width, height = PANEL_INCHES
        figure = Figure(figsize=(panels * width, height), layout="constrained")
        axes = list(figure.subplots(1, panels, squeeze=False)[0])
        figure.suptitle(title)
    return figure, axes


def plain_log_axis(axes: "Axes", which: str) -> None:
    """A logarithmic "x" or "y" axis with plain numbers at 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def save_picture(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in each format, whole or not at all; returns the files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{form}" for form in formats]
    for file, form in zip(files, formats, strict=True):
        partial = partial_name(file)
        with matplotlib.rc_context(STYLE):
            nameless = {"Date": None} if form == "svg" else {"Software": None}
            figure.savefig(partial, format=form, dpi=DOTS_PER_INCH, metadata=nameless)
        partial.replace(file)
    return files
