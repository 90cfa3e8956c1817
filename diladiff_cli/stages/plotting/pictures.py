"""One look for all pictures, and their way to disk."""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from diladiff_cli.runtime.folders import replacing_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

P = ParamSpec("P")

# Distinct for colour-blind readers too (Okabe and Ito; the last three are Paul Tol's).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#882255", "#999933", "#332288")
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
GREY = "0.45"  # of what the lines are compared with
FORMATS = ("png", "svg")
# What would change from one time to the next.
NAMELESS: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 9,
    "grid.color": "0.9",
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "diladiff",  # the same picture for the same data
}
PANEL_INCHES, DOTS_PER_INCH = (5.0, 3.6), 150
LETTER_INCHES, HANDLE_INCHES, ROW_INCHES = 0.073, 0.6, 0.19  # about, in a legend


def styled(draw: "Callable[P, Figure]") -> "Callable[P, Figure]":
    """Decorator: all that a function draws has :data:`STYLE`, whatever the user's own settings are."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> "Figure":
        import matplotlib

        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return drawn


def new_figure(panels: int, title: str, columns: int | None = None) -> tuple["Figure", list[Any]]:
    """A figure with ``panels`` axes, ``columns`` in a row, by default all of them."""
    from matplotlib.figure import Figure

    columns = min(panels, columns or panels)
    rows = -(-panels // columns)
    width, height = PANEL_INCHES
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    figure.suptitle(title)
    for unused in axes[panels:]:
        unused.remove()
    return figure, axes[:panels]


def start_at_zero(axes: Any) -> None:
    """Begin the vertical axis at zero, with room for markers above the highest point, however flat the lines are."""
    highest = axes.dataLim.y1
    axes.set_ylim(bottom=0, top=1.05 * highest if highest > 0 else None)


def legend_below(figure: "Figure", entries: Mapping[str, Mapping[str, Any]]) -> None:
    """A legend below all panels, as wide as the figure allows; further rows make the figure higher.

    Args:
        figure: One of :func:`new_figure`.
        entries: What each entry says, and how its line looks; words too long for the figure lose their beginning.
    """
    from matplotlib.lines import Line2D

    width = figure.get_figwidth()
    letters = int((width - HANDLE_INCHES) / LETTER_INCHES)
    labels = [text if len(text) <= letters else f"…{text[1 - letters :]}" for text in entries]
    widest = HANDLE_INCHES + LETTER_INCHES * max(map(len, labels))
    handles = [Line2D([], [], **look) for look in entries.values()]
    columns = max(1, min(4, int(width / widest)))
    figure.set_figheight(figure.get_figheight() + ROW_INCHES * ((len(labels) - 1) // columns))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def plain_log_axis(axes: "Axes", which: str, numbers: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """A logarithmic "x" or "y" axis with plain numbers at these multiples of each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=numbers))
    axis.set_major_formatter("{x:,.10g}")
    axis.set_minor_formatter(NullFormatter())


def save_picture(figure: "Figure", folder: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write a figure in each format, whole or not at all; returns the files."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{form}" for form in formats]
    for file, form in zip(files, formats, strict=True):
        with replacing_file(file) as partial, matplotlib.rc_context(STYLE):
            figure.savefig(partial, format=form, dpi=DOTS_PER_INCH, metadata=NAMELESS[form])
    return files
