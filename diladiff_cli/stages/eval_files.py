"""``eval``: files of samples and artifacts -> one report for each way of sampling and for each artifact."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.mauve import mauve_score
from diladiff_cli.metrics.scorers import Scorer, Scores, load_scorer
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.precision import settled_precision
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.settings import ConfigError, flag
from diladiff_cli.stages.common import open_recorded_data
from diladiff_cli.stages.eval_artifact import artifact_table, evaluate_artifact
from diladiff_cli.stages.eval_samples import MAUVE_SEEDS, cell, evaluate_groups, report_table
from diladiff_cli.stages.kept_scores import kept_scores
from diladiff_cli.stages.reference_text import ReferenceText, reference_text
from diladiff_cli.stages.sample_sets import SETTINGS, Sample, group_samples, read_samples
from diladiff_cli.stages.sampler import sampling_device

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

Report = dict[str, Any]
OF_SAMPLES = ("reference", "scorer", "context", "batch_size")
OF_ARTIFACTS = ("data", "draws", "batches", "likelihood", "seed")
COLUMNS = ("model", "steps", "decode_steps", "temperature")
FIGURES = ("n", "genppl", "entropy", "mauve", "latent_agreement")


def evaluate_files(
    config: EvalConfig, targets: Sequence[str | Path], reference: Sequence[str] = (), data: Path | None = None
) -> Iterator[Report]:
    """Measure files of samples and artifacts.

    Args:
        config: Scorer, amounts of work and so on.
        targets: Files that ``sample`` wrote, ``-`` for standard input, and artifacts.
        reference: Of samples: text sources to compare with; see :func:`reference_text` for what is taken without.
        data: Of artifacts: token data set; None for the one that each was trained on.

    Returns:
        Reports of :func:`evaluate_samples` and :func:`evaluate_artifact`, in the order of the targets, as they come.

    Raises:
        ConfigError: An option that nothing would heed.
        UserError: A file of samples cannot be read.
    """
    config = replace(config, precision=settled_precision(config.precision, sampling_device()))
    found = _read(targets, reference, data)
    return _reports(config, found, SampleMeasure(config, tuple(reference)), data)


def evaluation_plan(
    config: EvalConfig, targets: Sequence[str | Path], reference: Sequence[str] = (), data: Path | None = None
) -> dict[str, Any]:
    """What a dry run prints: what :func:`evaluate_files` would measure, for which it takes the same arguments.

    Files of samples are read, networks are not, nor is a scorer looked for.

    Raises:
        ConfigError: An option that nothing would heed.
        UserError: A file of samples, an artifact or its data set cannot be used.
    """
    measure = SampleMeasure(config, tuple(reference))
    plans: list[dict[str, Any]] = []
    for name, samples in _read(targets, reference, data):
        if samples is None:
            artifact = load_artifact(name)
            blocks = {"data": str(open_recorded_data(artifact, data)[1])}
            plans.append({"target": name, "stage": artifact.stage, "hash": artifact.hash} | blocks)
            continue
        groups = group_samples(samples)
        texts = dict.fromkeys(measure.text(group[0].get("model")).source for group in groups)
        plans.append({"target": name, "samples": [len(group) for group in groups], "reference": list(texts)})
    return {"targets": plans, "settings": config.to_dict()}


def _read(
    targets: Sequence[str | Path], reference: Sequence[str], data: Path | None
) -> list[tuple[str, list[Sample] | None]]:
    """The targets by name, all files of samples read: a bad one is told before the work."""
    problems = idle_options(targets, reference, data)
    names = [str(target) for target in targets]
    artifacts = _artifacts(names)
    if problems:
        raise ConfigError(problems)
    return [(name, None if name in artifacts else read_samples(name)) for name in names]


def _artifacts(targets: Sequence[str | Path]) -> list[str]:
    return [str(target) for target in targets if str(target) != "-" and Path(target).is_dir()]


def idle_options(
    targets: Sequence[str | Path], reference: Sequence[str], data: Path | str | None, given: Collection[str] = ()
) -> list[str]:
    """A line for each option that none of the targets would heed; ``given`` are the names of settings.

    Settings are left in peace where a target is no artifact and no file, which is told later.
    """
    artifacts, idle = _artifacts(targets), dict[str, str]()
    stages = [_stage_of(folder) for folder in artifacts]
    given = [
        *(["reference"] if reference else []),
        *([] if data is None else ["data"]),
        *(given if None not in stages else ()),
    ]
    if len(artifacts) == len(targets):
        idle |= dict.fromkeys(OF_SAMPLES, "samples")
    if not artifacts:
        idle |= dict.fromkeys(OF_ARTIFACTS, "an artifact")
    elif "prior" not in stages:
        idle["likelihood"] = "a prior"
    return [
        f"{flag(name)} has no meaning without {wanted} to measure; leave it out"
        for name, wanted in idle.items()
        if name in given
    ]


def _stage_of(folder: str) -> str | None:
    try:
        return load_artifact(folder).stage
    except UserError:
        return None


def _reports(
    config: EvalConfig, targets: list[tuple[str, list[Sample] | None]], measure: "SampleMeasure", data: Path | None
) -> Iterator[Report]:
    for name, samples in targets:
        if samples is not None:
            yield from measure.reports(samples)
            continue
        yield evaluate_artifact(
            Path(name),
            data=data,
            batches=config.batches,
            draws=config.draws,
            likelihood=config.likelihood,
            seed=config.seed,
            precision=config.precision,
        )


@dataclass(frozen=True)
class _Reference:
    """Pieces of real text, and what the scorer says of them."""

    source: str
    pieces: list[Sample]
    scores: Scores | None


@dataclass(frozen=True)
class SampleMeasure:
    """Measures sets of samples, with one scorer for all of them, and each reference scored once.

    Attributes:
        config: Scorer and batches.
        files: Reference text; none for what :func:`reference_text` finds.
        data: Token data set whose held-out blocks are the reference; None for the one that each model was trained on.
        keep: Folder for the scores of all texts, which later calls take from there; None to keep none.
    """

    config: EvalConfig
    files: tuple[str, ...] = ()
    data: Path | None = None
    keep: Path | None = None
    _texts: dict[str | None, ReferenceText] = field(default_factory=dict, init=False, repr=False)
    _references: dict[Any, _Reference] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def scorer(self) -> tuple[Scorer | None, str]:
        """The scorer and why this one."""
        return load_scorer(self.config.scorer, sampling_device(), self.config.precision)

    def reports(self, samples: list[Sample]) -> Iterator[Report]:
        """One report for each way of sampling."""
        together: dict[Any, tuple[ReferenceText, int, list[Sample]]] = {}
        for group in group_samples(samples):  # those of one text and length share a reference
            text = self.text(group[0].get("model"))
            length = text.length_of(group)
            together.setdefault((text.key, length), (text, length, []))[2].extend(group)
        for text, length, found in together.values():
            yield from self._measure(found, text, length)

    def pooled_mauve(self, sets: Sequence[list[Sample]]) -> Report:
        """MAUVE of sets of samples of one model taken together, beside as many pieces of the reference.

        Returns:
            As :func:`mauve_score`, with the names of ``scorer`` and ``source`` (the reference), and ``reference``: that
            of further pieces, where there are so many.
        """
        n = sum(map(len, sets))
        text, (scorer, _) = self.text(sets[0][0].get("model")), self.scorer
        pieces = text.pieces(text.length_of([sample for one in sets for sample in one]), 2 * n)
        names = {"source": text.source, "scorer": scorer.name if scorer else None}
        found = [scores.features for scores in self._scores(*sets, pieces) if scores is not None]
        if len(found) <= len(sets):
            return mauve_score(None, None) | names
        target, rest = found[-1][:n], found[-1][n:]
        reference = mauve_score(rest, target, MAUVE_SEEDS)["value"] if len(rest) == n else None
        return mauve_score(torch.cat(found[:-1]), target, MAUVE_SEEDS) | names | {"reference": reference}

    def _scores(self, *groups: list[Sample]) -> list[Scores | None]:
        """What the scorer says of groups of texts, kept or new."""
        scorer, _ = self.scorer
        with Bar("scoring", sum(map(len, groups)), enabled=scorer is not None) as bar:
            options = self._options(bar)
            return [kept_scores(self.keep, group, scorer, **options) for group in groups]

    def _options(self, bar: Bar) -> dict[str, Any]:
        """How texts are scored, and told of as they are."""
        return {
            "context": self.config.context or None,
            "batch_size": self.config.batch_size,
            "progress": lambda texts: bar.update(texts, "texts"),
        }

    def text(self, model: Any) -> ReferenceText:
        """The reference of a model's samples; says on stderr which, once."""
        name = model if isinstance(model, str) and model else None
        if name not in self._texts:
            text = reference_text(name, self.files, self.data)
            if text.note not in [other.note for other in self._texts.values()]:
                say(text.note)
            self._texts[name] = text
        return self._texts[name]

    def _measure(self, samples: list[Sample], text: ReferenceText, length: int) -> list[Report]:
        # Twice as many, so that one half of the real text can be measured against the other.
        n = 2 * max(map(len, group_samples(samples)))
        key = (text.key, length, n)
        known = self._references.get(key)
        pieces = text.pieces(length, n) if known is None else known.pieces
        scorer, note = self.scorer
        score = partial(kept_scores, self.keep)
        total = len(samples) + (len(pieces) if known is None else 0)
        with Bar("scoring", total, enabled=scorer is not None) as bar:
            options = self._options(bar)
            if known is None:
                known = _Reference(text.source, pieces, score(pieces, scorer, **options))
                self._references[key] = known
            return evaluate_groups(
                samples,
                pieces,
                scorer,
                source=text.source,
                reference_scores=known.scores,
                scorer_note=note,
                score=score,
                **options,
            )


def table_of(report: Report) -> "RenderableType":
    """A report of either kind, for the terminal."""
    return report_table(report) if "samples" in report else artifact_table(report)


def overview_table(reports: Sequence[Report]) -> "Table | None":
    """Several ways of sampling below one another, and their references; None where there are fewer than two.

    Args:
        reports: Of :func:`evaluate_files`; those of artifacts have no place here.
    """
    from rich.table import Table

    found = [report for report in reports if "samples" in report]
    if len(found) < 2:
        return None
    # What else tells the rows apart.
    others = [k for k in SETTINGS if k not in COLUMNS and len({r["settings"].get(k) for r in found}) > 1]
    names = [*COLUMNS, *others]
    table = Table(title="all ways of sampling")
    for name in (*names, *FIGURES):
        table.add_column(name.replace("_", " "), justify="left" if name == "model" else "right")
    for report in found:
        settings, side = report["settings"], report["samples"]
        table.add_row(*(cell(settings.get(name)) for name in names), *(cell(side.get(name)) for name in FIGURES))
    references = {json.dumps(r["reference"]): r["reference"] for r in found if "reference" in r}
    for side in references.values():
        empty = ["-"] * (len(names) - 1)
        table.add_row(f"reference: {side['source']}", *empty, *(cell(side.get(name)) for name in FIGURES))
    return table
