"""What ``plot`` reads: the logs of artifacts, and reports that ``eval`` printed of them."""

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diladiff_cli.data.rows import value_rows
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import COMMANDS, load_artifact
from diladiff_cli.runtime.folders import METRICS_FILE
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.model_paths import name_of, resolved

LogLine = dict[str, Any]
Style = dict[str, Any]  # how matplotlib draws a line
Point = dict[str, float]
REMEDY = "give artifacts, or what `diladiff eval ckpt/…` printed"
REPLACE = "restore it, or give a report of eval"
DISTANCE = re.compile(r"(student|teacher)_(\d+)_steps")


@dataclass(frozen=True)
class Source:
    """What is known of one artifact.

    Attributes:
        name: How pictures call it.
        stage: Its stage.
        training: Lines of its metrics.jsonl; none of a report of ``eval``.
        figures: The last validation's, or those of a report: ``curves`` (model to points), ``robustness``,
            ``prior_loss`` and ``teacher_distance`` (points each). What was not finite is NaN.
    """

    name: str
    stage: str
    training: list[LogLine] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def series(self, split: str, name: str, scale: float = 1.0) -> tuple[list[int], list[float]]:
        """Steps and values, times ``scale``, of a figure that was logged in training.

        Raises:
            UserError: Something else than a number was logged.
        """
        points = [(line["step"], line[name]) for line in self.training if line.get("split") == split and name in line]
        try:
            return [step for step, _ in points], [scale * number(value) for _, value in points]
        except TypeError as error:
            raise UserError(f"the log of {self.name} is damaged (its {name}: {error})", REPLACE) from error


def read_sources(targets: Sequence[str | Path]) -> list[Source]:
    """Artifacts, and files (``-`` for standard input) of reports that ``eval`` printed of artifacts.

    Raises:
        UserError: A target is neither, is damaged, or holds nothing to draw.
    """
    sources: list[Source] = []
    for target in dict.fromkeys(str(resolved(target)) for target in targets):
        of_target = [_artifact(Path(target))] if target != "-" and Path(target).is_dir() else _reports(target)
        if not any(source.training or source.figures for source in of_target):
            raise UserError(f"{_name(target)} holds nothing to draw", REMEDY)
        sources += of_target
    return _told_apart(sources)


def _told_apart(sources: list[Source]) -> list[Source]:
    """The sources with a number after names that an earlier one has too."""
    seen: Counter[tuple[str, str]] = Counter()
    named = []
    for source in sources:
        seen[source.stage, source.name] += 1
        times = seen[source.stage, source.name]
        named.append(replace(source, name=f"{source.name} ({times})") if times > 1 else source)
    return named


def _artifact(path: Path) -> Source:
    stage = load_artifact(path).stage
    log = path / METRICS_FILE
    if not log.is_file():
        raise UserError(f"{path} has no {METRICS_FILE}", "give an artifact as training left it, or a report of eval")
    training = read_metrics(log)
    last: LogLine = next((line for line in reversed(training) if line.get("split") == "valid"), {})
    figures: dict[str, Any] = {"curves": last["curves"]} if "curves" in last else {}
    if "by_noise" in last:
        figures["prior_loss"] = last
    if any(map(DISTANCE.fullmatch, last)):
        figures["teacher_distance"] = last
    return Source(name_of(path), stage, training, _checked(figures, log))


def _damaged(file: Path | str, place: str) -> UserError:
    return UserError(f"{_name(str(file))} is damaged ({place})", REPLACE)


def _reports(target: str) -> list[Source]:
    # What eval printed of samples beside artifacts has no place in these pictures.
    reports = [report for report in _objects(target) if "samples" not in report]
    if not reports or not all({"path", "stage", "figures"} <= set(report) for report in reports):
        raise UserError(f"{_name(target)} holds no reports of artifacts", REMEDY)
    if not all(isinstance(r["figures"], dict) and r["stage"] in COMMANDS for r in reports):
        raise _damaged(target, "a report without stage or figures")
    return [Source(str(r["path"]), r["stage"], [], _checked(r["figures"], target)) for r in reports]


def _name(target: str) -> str:
    return "standard input" if target == "-" else target


def _text(target: str) -> str:
    try:
        data = sys.stdin.buffer.read() if target == "-" else Path(target).read_bytes()
        return data.decode()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no text"
        raise UserError(f"cannot read {_name(target)} ({reason})", REMEDY) from error


def _objects(target: str) -> Iterator[LogLine]:
    """The JSON objects of a file, one a line or indented."""
    try:
        for row in value_rows([_text(target)]):
            if not isinstance(row.values, dict):
                raise UserError(f"{_name(target)} holds something else than JSON objects", REMEDY)
            yield row.values
    except ValueError as error:
        raise UserError(f"cannot read {_name(target)} ({error})", REMEDY) from error


def number(value: Any) -> float:
    """A logged number; NaN for the null that stands for what was not finite.

    Raises:
        TypeError: It is something else.
    """
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _points(rows: Any, *names: str) -> list[Point]:
    return [{name: number(row[name]) for name in names} for row in rows]


def _curves(value: Any) -> dict[str, list[Point]]:
    return {model: _points(curve, "ratio", "recovery", "nll") for model, curve in value.items()}


def _distances(value: Any) -> list[LogLine]:
    """Who walked how many steps, and how far from the teacher's end they came out."""
    matches = [(DISTANCE.fullmatch(name), value[name]) for name in value]
    rows = [{"who": hit[1], "steps": int(hit[2]), "distance": number(figure)} for hit, figure in matches if hit]
    return sorted(rows, key=lambda row: (row["who"], row["steps"]))


CHECKS: dict[str, Callable[[Any], Any]] = {
    "curves": _curves,
    "robustness": lambda rows: _points(rows, "std", "ratio", "recovery"),
    "prior_loss": lambda value: _points(value["by_noise"], "sigma", "loss", "white"),
    "teacher_distance": _distances,
}


def _checked(figures: dict[str, Any], file: Path | str) -> dict[str, Any]:
    """The figures that are drawn, as :class:`Source` has them."""
    checked = {}
    for name, check in CHECKS.items():
        if name in figures:
            try:
                checked[name] = check(figures[name])
            except (LookupError, TypeError, AttributeError) as error:
                raise _damaged(file, f"its {name}") from error
    return {name: value for name, value in checked.items() if value}
