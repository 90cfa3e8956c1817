"""The lines that the points of ``bench`` lie on, and comparisons of each point with other lines at equal entropy."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from diladiff_cli.metrics.frontier import interpolated
from diladiff_cli.stages.bench import Report

ALIKE = ("decode_steps", "order", "threshold", "entropy_bound")  # of points that are compared
WHOSE = ("model", "steps", "latent_until", "corrector", "latent_scale", "decodings")  # what distinguishes a line
BY_LATENTS = ("distinct_2",)  # figures that are lower where several texts share a latent
COMPARED = ("genppl", "mauve", "mauve_pooled", "latent_agreement", "distinct_2", "repetition_4")


class Way(NamedTuple):
    """How the points of a line are drawn.

    Attributes:
        steps: Latent steps; 0 without.
        until: Share of the decoding steps, the last ones, that are the base's.
        corrector: Share of the decoding steps, the last ones, that draw tokens anew.
        scale: Factor on latents.
        order: Of decoding.
    """

    steps: int
    until: float
    corrector: float
    scale: float
    order: str

    @classmethod
    def of(cls, report: Report) -> "Way":
        """How a point was drawn."""
        scale = report.get("latent_scale")
        until, corrector = report["latent_until"] or 0.0, report.get("corrector") or 0.0
        return cls(report["steps"] or 0, until, corrector, 1.0 if scale is None else scale, report["order"])

    @property
    def words(self) -> str:
        """In words, after the name of a model; nothing where there is nothing to say."""
        words = f", {self.steps} latent step{'s' * (self.steps > 1)}" if self.steps else ""
        words += f" until {self.until:g}" if self.until else ""
        words += f", latents times {self.scale:g}" if self.scale != 1 else ""
        return words + (f", corrector {self.corrector:g}" if self.corrector else "")


class Line(NamedTuple):
    """What the points of a line in the picture have in common: the model's name, and the tokens' temperature."""

    model: str
    way: Way
    temperature: float

    @classmethod
    def of(cls, report: Report) -> "Line":
        """The line that a point lies on."""
        return cls(report["model"], Way.of(report), report["temperature"])


def short_names(reports: Sequence[Report]) -> dict[str, str]:
    """The models' names, of paths without the folder that all of them lie in, in order of appearance."""
    models = list(dict.fromkeys(r["model"] for r in reports))
    comparable = len({os.path.isabs(model) for model in models}) == 1
    shared = os.path.commonpath([os.path.dirname(model) for model in models]) if comparable else ""
    return {model: os.path.relpath(model, shared) if shared else model for model in models}


def lines_of(reports: Sequence[Report]) -> dict[Line, list[Report]]:
    """The points of each line, by falling throughput."""
    lines: dict[Line, list[Report]] = defaultdict(list)
    for report in reports:
        lines[Line.of(report)].append(report)
    return {line: sorted(points, key=lambda r: -speed(r)) for line, points in lines.items()}


def speed(report: Report) -> float:
    """Tokens per second, the mean over seeds."""
    return float(report["tokens_per_second"]["mean"])


def means(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The figures of a point, means over seeds."""
    return {name: figure["mean"] for name, figure in report["figures"].items()}


def compared(reports: Sequence[Report]) -> list[Report]:
    """The reports with ``at_equal_entropy``: of every other model, what it reaches at this point's entropy.

    Each figure is interpolated along the other's temperatures, in the same number of decoding steps and order. There is
    an entry for each model and way to draw from it, with both beside the figures; those of :data:`BY_LATENTS` are None
    where one of the two has more texts from a latent.
    """
    lines: dict[str, list[Report]] = defaultdict(list)
    for report in reports:
        lines[report["model"] + Way.of(report).words].append(report)
    return [report | {"at_equal_entropy": _at_equal_entropy(report, lines)} for report in reports]


class Baseline(NamedTuple):
    """What points in any number of steps are compared with: a base in its most decoding steps.

    Attributes:
        model: The base's name.
        decode_steps: How many.
        order: In which.
        points: Its figures at several temperatures, means over seeds.
    """

    model: str
    decode_steps: int
    order: str
    points: list[dict[str, float | None]]

    @classmethod
    def among(cls, reports: Sequence[Report]) -> "Baseline | None":
        """That of the first base, drawn as its first point is; None without a base."""
        bases = [r for r in reports if r["stage"] == "mdlm"]
        if not bases:
            return None
        alike = [r for r in bases if (r["model"], Way.of(r)) == (bases[0]["model"], Way.of(bases[0]))]
        most = max(r["decode_steps"] for r in alike)
        return cls(bases[0]["model"], most, bases[0]["order"], [means(r) for r in alike if r["decode_steps"] == most])

    def judges(self, report: Report) -> bool:
        """Whether a point is not the baseline's own, and at an entropy that this reaches."""
        own = report["model"] == self.model and means(report) in self.points
        return not own and self.multiple(report) is not None

    def multiple(self, report: Report) -> float | None:
        """GenPPL of a point over the baseline's at the same entropy; None where its temperatures do not reach."""
        return self.over(means(report))

    def over(self, figures: Mapping[str, Any]) -> float | None:
        """:meth:`multiple` of figures, such as those of the reference text."""
        genppl, entropy = figures.get("genppl"), figures.get("entropy")
        theirs = None if entropy is None else interpolated(self.points, "genppl", entropy)
        return genppl / theirs if genppl and theirs else None


def _at_equal_entropy(report: Report, lines: Mapping[str, Sequence[Report]]) -> dict[str, Report]:
    entropy = means(report).get("entropy")
    others: dict[str, Report] = {}
    for name in sorted(lines):
        if entropy is None or lines[name][0]["model"] == report["model"]:
            continue
        points = [means(r) for r in lines[name] if all(r.get(k) == report.get(k) for k in ALIKE)]
        whose = {setting: lines[name][0].get(setting) for setting in WHOSE}
        alike = report.get("decodings") == whose["decodings"]
        at_entropy = {figure: interpolated(points, figure, entropy) for figure in COMPARED}
        others[name] = whose | at_entropy | ({} if alike else dict.fromkeys(BY_LATENTS))
    return others
