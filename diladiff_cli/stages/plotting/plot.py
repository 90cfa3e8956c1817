"""``plot``: pictures of how artifacts were trained and of what ``eval`` found of them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from diladiff_cli.data.files import several
from diladiff_cli.errors import UserError
from diladiff_cli.stages.plotting.pictures import (
    COLOURS,
    DASHES,
    GREY,
    legend_below,
    new_figure,
    plain_log_axis,
    save_picture,
    start_at_zero,
    styled,
)
from diladiff_cli.stages.plotting.sources import REMEDY, LogLine, Source, Style, read_sources
from diladiff_cli.stages.plotting.training import ERROR, STAGE_WORDS, logged_panels, looks_of, training_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODELS = {"autoencoder": "auto-encoder", "base": "base", "noise_latent": "noise for a latent"}


@styled
def recovery_figure(sources: Sequence[Source]) -> "Figure":
    """Recovery and NLL of masked tokens over the masking ratio; colours tell models apart, dashes runs."""
    figure, (recovery, nll) = new_figure(2, "masked tokens")
    models = [model for model in MODELS if any(model in source.figures["curves"] for source in sources)]
    colours = {model: COLOURS[i] for i, model in enumerate(MODELS)}
    for i, source in enumerate(sources):
        for model in models:
            curve = source.figures["curves"].get(model, [])
            look: Style = {"color": colours[model], "linestyle": DASHES[i % len(DASHES)], "marker": "o"}
            label = MODELS[model] + (f", {source.name}" if len(sources) > 1 else "")
            ratios = [100 * point["ratio"] for point in curve]
            recovery.plot(ratios, [100 * p["recovery"] for p in curve], label=label, **look)
            nll.plot(ratios, [p["nll"] for p in curve], label=label, **look)
    for axes, text in ((recovery, "recovered (% of masked tokens)"), (nll, "nats per masked token")):
        axes.set_xlabel("masked (% of tokens)")
        axes.set_ylabel(text)
        axes.set_xlim(left=0)
        start_at_zero(axes)
    entries: dict[str, Style] = {MODELS[model]: {"color": colours[model], "marker": "o"} for model in models}
    if len(sources) > 1:
        entries |= {s.name: {"color": GREY, "linestyle": DASHES[i % len(DASHES)]} for i, s in enumerate(sources)}
    legend_below(figure, entries)
    return figure


@styled
def robustness_figure(sources: Sequence[Source]) -> "Figure":
    """Recovery over the noise on the latent; colours tell runs apart, dashes masking ratios."""
    figure, (axes,) = new_figure(1, "noise on the latent")
    ratios = sorted({row["ratio"] for source in sources for row in source.figures["robustness"]})
    names = {ratio: f"{100 * ratio:.0f} % of tokens masked" for ratio in ratios}
    runs = looks_of(sources)
    for source, look in zip(sources, runs.values(), strict=True):
        for dashes, ratio in zip(DASHES, ratios, strict=False):
            points = [row for row in source.figures["robustness"] if row["ratio"] == ratio]
            stds, recoveries = [row["std"] for row in points], [100 * row["recovery"] for row in points]
            axes.plot(stds, recoveries, linestyle=dashes, marker="o", label=f"{source.name}, {names[ratio]}", **look)
    axes.set_xlabel("standard deviation of the noise, in standardised units")
    axes.set_ylabel("recovered (% of masked tokens)")
    start_at_zero(axes)
    keys = {names[ratio]: {"color": GREY, "linestyle": d} for d, ratio in zip(DASHES, ratios, strict=False)}
    legend_below(figure, runs | keys)
    return figure


@styled
def prior_noise_figure(sources: Sequence[Source]) -> "Figure":
    """The prior's loss by noise level beside that of a white latent, and as a share of it."""
    figure, (error, share) = new_figure(2, "clean estimate of the prior")
    runs, white = looks_of(sources), {"color": GREY, "linestyle": "--"}
    for source, look in zip(sources, runs.values(), strict=True):
        levels = source.figures["prior_loss"]
        sigmas = [level["sigma"] for level in levels]
        error.plot(sigmas, [level["loss"] for level in levels], marker="o", label=source.name, **look)
        shares = [100 * level["loss"] / level["white"] for level in levels]
        share.plot(sigmas, shares, marker="o", label=source.name, **look)
    error.plot(sigmas, [level["white"] for level in levels], label="white latent", **white)
    share.axhline(100, label="white latent", **white)
    plain_log_axis(error, "y")
    start_at_zero(share)
    for axes, text in ((error, ERROR), (share, "squared error (% of a white latent's)")):
        axes.set_xlabel(r"noise level $\sigma$")
        axes.set_ylabel(text)
    legend_below(figure, runs | {"white latent": white})
    return figure


@styled
def distance_figure(sources: Sequence[Source]) -> "Figure":
    """Distance to the end of the teacher's ODE by latent steps: of students, and of the teacher itself."""
    figure, (axes,) = new_figure(1, "distance to the teacher's samples from the same noise")
    runs = looks_of(sources)
    styles: dict[str, Style] = {"student": {"marker": "o"}, "teacher": {"marker": "x", "linestyle": "--"}}
    for source, look in zip(sources, runs.values(), strict=True):
        for who, style in styles.items():
            rows = [row for row in source.figures["teacher_distance"] if row["who"] == who]
            points = [row["steps"] for row in rows], [row["distance"] for row in rows]
            axes.plot(*points, label=f"{source.name}, {who}", **look, **style)
    plain_log_axis(axes, "x")
    axes.set_xlabel("latent steps")
    axes.set_ylabel("squared distance per entry")
    start_at_zero(axes)
    legend_below(figure, runs | {who: {"color": GREY} | style for who, style in styles.items()})
    return figure


Draw = Callable[[Sequence[Source]], "Figure"]
# Picture -> the figures that it needs, and how it is drawn.
OF_FIGURES: dict[str, tuple[str, Draw]] = {
    "recovery": ("curves", recovery_figure),
    "latent_noise": ("robustness", robustness_figure),
    "prior_noise": ("prior_loss", prior_noise_figure),
    "student_distance": ("teacher_distance", distance_figure),
}


def figures_of(sources: Sequence[Source]) -> Iterator[tuple[str, "Figure"]]:
    """Every picture that there is something for, by name; sources of one kind share a picture."""
    for stage in STAGE_WORDS:
        trained = [source for source in sources if source.stage == stage and source.training]
        if logged_panels(trained):
            yield f"{stage}_training", training_figure(trained)
    for name, (needed, draw) in OF_FIGURES.items():
        measured = [source for source in sources if needed in source.figures]
        if measured:
            yield name, draw(measured)


def plot(targets: str | Path | Sequence[str | Path], out: Path | str, formats: Sequence[str]) -> Iterator[LogLine]:
    """Draw artifacts and reports, and write the pictures.

    Args:
        targets: Artifacts, and files of reports that ``eval`` printed of artifacts, ``-`` for standard input.
        out: Folder of the pictures.
        formats: Endings, such as "png" and "svg".

    Yields:
        ``picture`` and its ``files``.

    Raises:
        UserError: As of :func:`read_sources`, or the folder cannot be written.
    """
    out, drawn = Path(out), False
    for name, figure in figures_of(read_sources(several(targets))):
        try:
            files = save_picture(figure, out, name, formats)
        except OSError as error:
            raise UserError(f"cannot write into {out} ({error.strerror})", "choose another --out") from error
        yield {"picture": name, "files": [str(file) for file in files]}
        drawn = True
    if not drawn:
        raise UserError("the logs hold no figure that is drawn", REMEDY)
