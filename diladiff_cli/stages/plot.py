"""``plot``: pictures of how artifacts were trained and of what ``eval`` found of them."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.folders import METRICS_FILE
from diladiff_cli.stages.pictures import COLOURS, new_figure, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Line = dict[str, Any]
SMOOTHING = 10  # logged steps of the running mean of the training loss
MODELS = {"autoencoder": "auto-encoder", "base": "base", "noise_latent": "noise for a latent"}
VALIDATION = {  # what is shown of a stage's validation
    "mdlm": ("perplexity_bound", "perplexity bound per token"),
    "ae": ("perplexity_bound", "perplexity bound given the latent"),
    "prior": ("share_of_white", "loss as a share of a white latent's"),
    "student": ("student_2_steps", "squared distance to the teacher after 2 steps"),
}


@dataclass(frozen=True)
class Source:
    """What is known of one artifact.

    Attributes:
        name: How pictures call it.
        stage: Its stage.
        training: Lines of its metrics.jsonl; none of a report of ``eval``.
        figures: The last validation's, or those of a report, under the names of the latter.
    """

    name: str
    stage: str
    training: list[Line] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def series(self, split: str, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of a figure that was logged in training."""
        found = [(line["step"], line[name]) for line in self.training if line["split"] == split and name in line]
        return [step for step, _ in found], [value for _, value in found]


def read_sources(targets: Sequence[str | Path]) -> list[Source]:
    """Artifacts, and files of reports that ``eval`` printed of artifacts.

    Raises:
        UserError: A target is neither, is damaged, or holds nothing to draw.
    """
    found: list[Source] = []
    for target in map(Path, targets):
        found += [_artifact(target)] if target.is_dir() else _reports(target)
    return found


def _artifact(path: Path) -> Source:
    stage = load_artifact(path).stage
    log = path / METRICS_FILE
    if not log.is_file():
        raise UserError(f"{path} has no {METRICS_FILE}", "give an artifact as training left it, or a report of eval")
    training = _lines(log)
    if not all("step" in line and line.get("split") in ("train", "valid") for line in training):
        raise UserError(f"{log} is damaged (a line without step or split)", "train again, or give a report of eval")
    last = next((line for line in reversed(training) if line["split"] == "valid"), {})
    figures = {"curves": last["curves"]} if "curves" in last else {}
    if "by_noise" in last:
        figures["prior_loss"] = last
    if "teacher_5_steps" in last:
        figures["teacher_distance"] = last
    return Source(str(path), stage, training, figures)


def _reports(path: Path) -> list[Source]:
    remedy = "give artifacts, or what `diladiff eval ckpt/…` printed"
    reports = _lines(path)
    if not reports or not all({"path", "stage", "figures"} <= set(report) for report in reports):
        raise UserError(f"{path} holds no reports of artifacts", remedy)
    return [Source(str(r["path"]), str(r["stage"]), [], r["figures"]) for r in reports]


def _lines(path: Path) -> list[Line]:
    """The JSON objects of a file, one a line, or a single indented one."""
    remedy = "give artifacts, or what `diladiff eval ckpt/…` printed"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"cannot read {path} ({reason})", remedy) from error
    try:
        found = [json.loads(text)] if text.startswith("{\n") else [json.loads(line) for line in text.splitlines()]
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error})", remedy) from error
    if not all(isinstance(line, dict) for line in found):
        raise UserError(f"{path} holds something else than JSON objects", remedy)
    return found


def training_figure(sources: Sequence[Source]) -> "Figure":
    """Training loss, the stage's main validation figure, and learning rate, over steps."""
    name, label = VALIDATION[sources[0].stage]
    figure, (loss, validation, rate) = new_figure(3, f"training, {sources[0].stage}")
    for number, source in enumerate(sources):
        colour = COLOURS[number % len(COLOURS)]
        steps, values = source.series("train", "loss")
        loss.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
        loss.plot(steps, running_mean(values), color=colour, label=source.name)
        validation.plot(*source.series("valid", name), color=colour, marker="o", label=source.name)
        rate.plot(*source.series("train", "learning_rate"), color=colour, label=source.name)
    for axes, text in ((loss, "training loss"), (validation, label), (rate, "learning rate")):
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(text)
    _legend(figure, loss)
    return figure


def running_mean(values: Sequence[float]) -> list[float]:
    """Each value's mean with those logged before it, :data:`SMOOTHING` at most."""
    windows = (values[max(0, i + 1 - SMOOTHING) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def recovery_figure(sources: Sequence[Source]) -> "Figure":
    """Recovery and NLL of masked tokens over the masking ratio."""
    figure, (recovery, nll) = new_figure(2, "masked tokens")
    for source_number, source in enumerate(sources):
        for number, (model, curve) in enumerate(source.figures["curves"].items()):
            ratios = [100 * point["ratio"] for point in curve]
            name = MODELS.get(model, model) + (f", {source.name}" if len(sources) > 1 else "")
            style: Line = {
                "color": COLOURS[number % len(COLOURS)],
                "linestyle": ("-", "--", ":", "-.")[source_number % 4],
            }
            recovery.plot(ratios, [100 * p["recovery"] for p in curve], marker="o", label=name, **style)
            nll.plot(ratios, [p["nll"] for p in curve], marker="o", label=name, **style)
    for axes, text in ((recovery, "recovered (%)"), (nll, "cross-entropy (nats per masked token)")):
        axes.set_xlabel("masked tokens (%)")
        axes.set_ylabel(text)
        axes.set_ylim(bottom=0)
    _legend(figure, recovery)
    return figure


def robustness_figure(sources: Sequence[Source]) -> "Figure":
    """Recovery over the noise on the latent, for each masking ratio."""
    figure, (axes,) = new_figure(1, "noise on the latent")
    for number, source in enumerate(sources):
        rows = source.figures["robustness"]
        for style, ratio in enumerate(sorted({row["ratio"] for row in rows})):
            points = [row for row in rows if row["ratio"] == ratio]
            label = f"{100 * ratio:.0f} % masked" + (f", {source.name}" if len(sources) > 1 else "")
            axes.plot(
                [row["std"] for row in points],
                [100 * row["recovery"] for row in points],
                color=COLOURS[number % len(COLOURS)],
                linestyle=("-", "--", ":", "-.")[style % 4],
                marker="o",
                label=label,
            )
    axes.set_xlabel("standard deviation of the noise")
    axes.set_ylabel("recovered (%)")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def prior_noise_figure(sources: Sequence[Source]) -> "Figure":
    """The prior's loss by noise level, beside that of a white latent."""
    figure, (axes,) = new_figure(1, "clean estimate of the prior")
    for number, source in enumerate(sources):
        levels = source.figures["prior_loss"]["by_noise"]
        sigmas = [level["sigma"] for level in levels]
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(sigmas, [level["loss"] for level in levels], color=colour, marker="o", label=source.name)
    axes.plot(sigmas, [level["white"] for level in levels], color="0.5", linestyle="--", label="white latent")
    axes.set_xlabel("noise level sigma")
    axes.set_ylabel("mean squared error per entry")
    _legend(figure, axes)
    return figure


def distance_figure(sources: Sequence[Source]) -> "Figure":
    """Distance of the student's samples to the teacher's ODE by latent steps, and of the teacher's Euler at 5."""
    figure, (axes,) = new_figure(1, "student against teacher")
    for number, source in enumerate(sources):
        figures, colour = source.figures["teacher_distance"], COLOURS[number % len(COLOURS)]
        steps = (1, 2, 5)
        axes.plot(steps, [figures[f"student_{m}_steps"] for m in steps], color=colour, marker="o", label=source.name)
        label = "teacher's Euler" + (f", {source.name}" if len(sources) > 1 else "")
        axes.plot([5], [figures["teacher_5_steps"]], color=colour, marker="x", linestyle="none", label=label)
    axes.set_xticks([1, 2, 5])
    axes.set_xlabel("latent steps")
    axes.set_ylabel("squared distance per entry")
    axes.set_ylim(bottom=0)
    _legend(figure, axes)
    return figure


def _legend(figure: "Figure", axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)


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
    for stage in VALIDATION:
        trained = [source for source in sources if source.stage == stage and source.training]
        if trained:
            yield f"{stage}_training", training_figure(trained)
    for name, (needed, draw) in OF_FIGURES.items():
        measured = [source for source in sources if needed in source.figures]
        if measured:
            yield name, draw(measured)


def plot(targets: Sequence[str | Path], out: Path, formats: Sequence[str]) -> Iterator[Line]:
    """Draw artifacts and reports, and write the pictures.

    Args:
        targets: Artifacts, and files of reports that ``eval`` printed of artifacts.
        out: Folder of the pictures.
        formats: Endings, such as "png" and "svg".

    Yields:
        ``picture`` and its ``files``.

    Raises:
        UserError: As of :func:`read_sources`, or the folder cannot be written.
    """
    for name, figure in figures_of(read_sources(targets)):
        try:
            files = save_picture(figure, out, name, formats)
        except OSError as error:
            raise UserError(f"cannot write into {out} ({error.strerror})", "choose another --out") from error
        yield {"picture": name, "files": [str(file) for file in files]}
