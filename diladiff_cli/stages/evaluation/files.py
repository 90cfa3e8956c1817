"""``eval``: files of samples and artifacts -> one report for each way of sampling and for each artifact."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.config import EvalConfig
from diladiff_cli.data.files import find_files, several
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.scorers import check_scorer
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.settings import ConfigError, flag
from diladiff_cli.stages.common import open_recorded_data, path_or_none
from diladiff_cli.stages.evaluation.artifact import artifact_table, evaluate_artifact
from diladiff_cli.stages.evaluation.measure import Report, SampleMeasure
from diladiff_cli.stages.evaluation.samples import brief_settings, cell, report_table
from diladiff_cli.stages.evaluation.sets import SETTINGS, Sample, group_samples, read_samples
from diladiff_cli.stages.sampling.sampler import autoencoder_of, sampling_device

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

OF_SAMPLES = ("reference", "text_field", "scorer", "context", "batch_size")
OF_ARTIFACTS = ("data", "draws", "batches", "likelihood", "seed")
COLUMNS = ("model", "steps", "decode_steps", "temperature")
FIGURES = ("n", "genppl", "entropy", "mauve", "latent_agreement")


def evaluate_files(
    config: EvalConfig,
    targets: str | Path | Sequence[str | Path],
    reference: str | Sequence[str] = (),
    data: Path | str | None = None,
) -> Iterator[Report]:
    """Measure files of samples and artifacts.

    Args:
        config: Scorer, amounts of work and so on.
        targets: Files that ``sample`` wrote, ``-`` for standard input, and artifacts.
        reference: Of samples: text sources to compare with; see :func:`reference_text` for what is taken without.
        data: Of artifacts: token data set; None for the one that each was trained on.

    Returns:
        Reports of :func:`evaluate_samples`, each with its ``target``, and of :func:`evaluate_artifact`, in the order of
        the targets, as they come.

    Raises:
        ConfigError: An option that nothing would heed.
        UserError: A file of samples, an artifact, its data set or the scorer cannot be used.
    """
    targets, reference, data = _named(targets), [str(text) for text in several(reference)], path_or_none(data)
    config = replace(config, precision=resolved_precision(config.precision, sampling_device()))
    inputs, measure = _read(targets, reference, data), SampleMeasure(config, tuple(reference))
    _check_inputs(config, inputs, reference, data)
    return _reports(config, inputs, measure, data)


def evaluation_plan(
    config: EvalConfig,
    targets: str | Path | Sequence[str | Path],
    reference: str | Sequence[str] = (),
    data: Path | str | None = None,
) -> dict[str, Any]:
    """What a dry run prints: what :func:`evaluate_files` would measure, for which it takes the same arguments.

    Files of samples are read; networks are not, nor is a scorer loaded.

    Raises:
        ConfigError, UserError: As of :func:`evaluate_files`.
    """
    targets, reference, data = _named(targets), [str(text) for text in several(reference)], path_or_none(data)
    inputs, measure = _read(targets, reference, data), SampleMeasure(config, tuple(reference))
    _check_inputs(config, inputs, reference, data)
    plans: list[dict[str, Any]] = []
    for name, samples in inputs:
        if samples is None:
            artifact = load_artifact(name)
            blocks = {"data": str(open_recorded_data(artifact, data).path)}
            plans.append({"target": name, "stage": artifact.stage, "hash": artifact.hash} | blocks)
            continue
        groups = group_samples(samples)
        texts = dict.fromkeys(measure.text(group[0].get("model")).source for group in groups)
        plans.append({"target": name, "samples": [len(group) for group in groups], "reference": list(texts)})
    return {"targets": plans, "settings": config.to_dict()}


def _named(targets: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [resolved(target) for target in several(targets)]


def _read(
    targets: Sequence[str | Path], reference: Sequence[str], data: Path | None
) -> list[tuple[str, list[Sample] | None]]:
    """The targets by name, all files of samples read: a bad one is reported before the work."""
    problems = idle_options(targets, reference, data)
    names = [str(target) for target in targets]
    artifacts = _artifacts(names)
    if problems:
        raise ConfigError(problems)
    return [(name, None if name in artifacts else read_samples(name)) for name in names]


def _check_inputs(
    config: EvalConfig, targets: list[tuple[str, list[Sample] | None]], reference: Sequence[str], data: Path | None
) -> None:
    """Report what is not there before the work."""
    for name, samples in targets:
        if samples is None:
            artifact = load_artifact(name)
            open_recorded_data(artifact, data)
            for link in artifact.config["parents"]:
                artifact.parent(link)
            if artifact.stage != "mdlm":
                autoencoder_of(artifact).parent("mdlm")
    if any(samples is not None for _, samples in targets):
        check_scorer(config.scorer)
        for source in reference:
            find_files(source)


def _artifacts(targets: Sequence[str | Path]) -> list[str]:
    return [str(target) for target in targets if str(target) != "-" and Path(target).is_dir()]


def idle_options(
    targets: Sequence[str | Path], reference: Sequence[str], data: Path | str | None, given: Collection[str] = ()
) -> list[str]:
    """A line for each option that none of the targets would heed; ``given`` are the names of settings.

    Settings are left in peace where a target is neither an artifact nor a file, and everything is where what may be a
    folder is missing, which is reported later.
    """
    if any(str(target) != "-" and not Path(target).suffix and not Path(target).exists() for target in targets):
        return []
    artifacts, idle = _artifacts(targets), dict[str, str]()
    stages = [_stage_of(folder) for folder in artifacts]
    given = [
        *(["reference"] if reference else []),
        *([] if data is None else ["data"]),
        *(given if None not in stages else ()),
    ]
    if len(artifacts) == len(targets):
        idle |= dict.fromkeys(OF_SAMPLES, "samples to measure")
    if not artifacts:
        idle |= dict.fromkeys(OF_ARTIFACTS, "an artifact to measure")
    elif "prior" not in stages:
        idle["likelihood"] = "a prior to measure"
    if not reference:
        idle.setdefault("text_field", "a --reference to read")
    return [
        f"{flag(name)} has no meaning without {wanted}; leave it out" for name, wanted in idle.items() if name in given
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
            yield from ({"target": name} | report for report in measure.reports(samples))
            continue
        yield evaluate_artifact(config, Path(name), data=data)


def table_of(report: Report) -> "RenderableType":
    """A report of either kind, for the terminal."""
    return report_table(report) if "samples" in report else artifact_table(report)


def overview_table(reports: Sequence[Report]) -> "Table | None":
    """Several ways of sampling below one another, and their references; None where there are fewer than two.

    Args:
        reports: Of :func:`evaluate_files`; those of artifacts have no place here.
    """
    from rich.table import Table
    from rich.text import Text

    sampled = [report for report in reports if "samples" in report]
    if len(sampled) < 2:
        return None
    # What else distinguishes the rows.
    others = [k for k in SETTINGS if k not in COLUMNS and len({json.dumps(r["settings"].get(k)) for r in sampled}) > 1]
    names = [*COLUMNS, *others]
    targets = ["target"] if len({r.get("target") for r in sampled}) > 1 else []
    table = Table(title="all ways of sampling")
    for name in (*targets, *names, *FIGURES):
        left = name in ("target", "model")
        table.add_column(name.replace("_", " "), justify="left" if left else "right")
    for report in sampled:
        settings, side = brief_settings(report), report["samples"]
        # As text: a prompt like [b] is not markup.
        cells = [Text(cell((report | settings).get(name))) for name in (*targets, *names)]
        table.add_row(*cells, *(cell(side.get(name)) for name in FIGURES))
    references = {json.dumps(r["reference"]): r["reference"] for r in sampled if "reference" in r}
    sources: list[str] = []
    for number, side in enumerate(references.values(), 1):
        label = "reference" if len(references) == 1 else f"reference {number}"
        empty = ["-"] * (len(targets) + len(names) - 1)
        table.add_row(label, *empty, *(cell(side.get(name)) for name in FIGURES))
        sources.append(f"{label}: {side['source']}")
    table.caption, table.caption_justify = Text("\n".join(sources)), "left"
    return table
