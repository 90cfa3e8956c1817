"""``bench``: quality over speed of several models, point by point, each kept under the hash of what it depends on."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from diladiff_cli.config import BenchConfig, EvalConfig, SampleConfig, choice_in_use
from diladiff_cli.errors import UserError, writing
from diladiff_cli.metrics.frontier import mean_and_std
from diladiff_cli.metrics.mauve import DEFINITION, NOT_INSTALLED
from diladiff_cli.notes import say, saying_if_interrupted
from diladiff_cli.runtime.folders import write_text
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.kept import (
    FIGURE_ENTRIES,
    POOLED_ENTRIES,
    SPEED_ENTRIES,
    Bench,
    kept_report,
    kept_samples,
)
from diladiff_cli.stages.bench.lines import compared
from diladiff_cli.stages.bench.points import Point, check_texts
from diladiff_cli.stages.bench.timing import machine, timed
from diladiff_cli.stages.evaluation.measure import SampleMeasure
from diladiff_cli.stages.evaluation.reference_text import SHIPPED
from diladiff_cli.stages.evaluation.samples import TOO_FEW
from diladiff_cli.stages.evaluation.sets import Sample
from diladiff_cli.stages.sampling.graphs import replays_pay
from diladiff_cli.stages.sampling.sample import decode, describe, ids_of, latent_batches, latents_of_texts
from diladiff_cli.stages.sampling.sampler import Sampler

FIGURES = ("genppl", "entropy", "mauve", "latent_agreement", "chance_agreement", "distinct_2", "repetition_4")
POOLED = f"of the texts of all seeds together, mean and spread over seeds of the clustering; {DEFINITION}"


def bench_frontier(
    config: BenchConfig, models: Path | str | Sequence[Path | str], out: Path | str, data: Path | str | None = None
) -> Iterator[Report]:
    """Measure every model at every number of steps and temperature.

    What was measured before with the same models and settings is taken from ``out``, so that a further point costs
    only that point, and a run that was cut off goes on.

    Args:
        config: The points.
        models: Artifacts of any stage; all of one data set.
        out: Folder of samples and figures.
        data: Data set whose held-out blocks are the reference, and what an auto-encoder encodes; None for the one that
            each model was trained on.

    Yields:
        A report a point: settings, ``figures`` (mean, spread over seeds, and each seed's; ``mauve_pooled``: that of all
        seeds' texts together, with the spread over clusterings), ``tokens_per_second``,
        ``seconds`` (for a seed's samples), ``latent_share`` (of them), ``at_equal_entropy`` (the figures of the other
        models at this entropy, see :func:`diladiff_cli.stages.bench.lines.compared`), ``reference``, ``definitions``.

    Raises:
        UserError: An unusable model, folder or scorer.
        ConfigError: Settings that do not fit a model.
    """
    bench = Bench.planned(config, models, out, data)
    config, out = bench.plan.config, bench.out
    settings = EvalConfig(scorer=config.scorer, batch_size=config.batch_size, precision=config.precision)
    measure = bench.measure(settings, keep=out / "scores")
    files = bench.files()
    with writing(out):
        (out / "points").mkdir(parents=True, exist_ok=True)
    every = [kept for of_point in files.values() for kept in of_point.values()]
    if not all(kept.scored for kept in every):
        _ = measure.scoring  # a scorer asked for that cannot be had ends it before anything is drawn
    missing = sum(kept.n for kept in every if not kept.drawn)
    if missing:
        say(f"{missing:,} texts to draw and to score")
    reports: list[Report] = []
    with saying_if_interrupted(lambda: f"{out}: what was measured is kept; the same command goes on"):
        for number, (point, of_point) in enumerate(files.items(), 1):
            drawn = " (drawn before)" if all(kept.drawn for kept in of_point.values()) else ""
            say(f"point {number} of {len(files)}{drawn}: {point.title}")
            runs = [_measured(bench, point, seed, measure) for seed in bench.seeds]
            bench.sampler(point).replays.clear()
            _check_comparable([*reports, *runs], out)
            reports.append(_report(point, runs, bench.seeds, _pooled_mauve(bench, point, runs[0], measure)))
    yield from compared(reports)


def _measured(bench: Bench, point: Point, seed: int, measure: SampleMeasure) -> Report:
    """Speed and figures of one seed, kept or new."""
    files = bench.kept(point, seed)
    if not files.drawn:
        samples, speed = _draw(bench.sampler(point), replace(point.settings, seed=seed))
        with writing(bench.out):
            if kept_samples(files.samples, files.n) is None:  # another machine's, whose figures are kept, stay
                write_text(files.samples, "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))
            write_text(files.speed, json.dumps(speed) + "\n")
    figures = kept_report(files.figures, FIGURE_ENTRIES)
    if figures is None or measure.replaced(figures["scorer"]) or _has_lesser_reference(figures, measure, point):
        (figures,) = measure.reports(_kept_samples(files.samples, point))
        # What was left out for want of a scorer or a package, a later call may have.
        if figures["scorer"]["name"] is not None and figures["left_out"].get("mauve") != NOT_INSTALLED:
            with writing(bench.out):
                write_text(files.figures, json.dumps(figures) + "\n")
    kept = ("samples", "reference", "definitions", "left_out", "scorer")
    return {"speed": kept_report(files.speed, SPEED_ENTRIES), **{name: figures.get(name) for name in kept}}


def _kept_samples(file: Path, point: Point) -> list[Sample]:
    """Samples of a file; the model may have another name now, by which the reference is found."""
    return [sample | {"model": point.model} for sample in kept_samples(file, point.settings.n) or []]


def _pooled_mauve(bench: Bench, point: Point, run: Report, measure: SampleMeasure) -> Report:
    """MAUVE of the texts of all seeds together, kept or new, by the scorer and beside the kind of text of one ``run``.

    Without a ``value`` there is a ``reason``.
    """
    if len(bench.seeds) < 2:
        return {"value": None, "reason": "needs several seeds"}
    if run["scorer"]["name"] is None:
        return {"value": None, "reason": "no scorer"}
    file = bench.pooled(point)
    kept = kept_report(file, POOLED_ENTRIES)
    if kept is not None and _agree(kept, run):
        return kept
    pooled = measure.pooled_mauve([_kept_samples(bench.kept(point, seed).samples, point) for seed in bench.seeds])
    if not _agree(pooled, run):
        return {"value": None, "reason": "scorer or reference of the kept figures are not at hand"}
    if pooled["value"] is not None:
        with writing(bench.out):
            write_text(file, json.dumps(pooled) + "\n")
    return pooled


def _agree(pooled: Report, run: Report) -> bool:
    """Whether MAUVE of all seeds is by the scorer of a run's figures, and beside the same text."""
    source, scorer = (run["reference"] or {}).get("source"), run["scorer"]
    wanted = scorer["name"], scorer.get("fingerprint"), source
    return (pooled["scorer"], pooled["fingerprint"], pooled["source"]) == wanted


def _draw(sampler: Sampler, settings: SampleConfig) -> tuple[list[Sample], Report]:
    """The samples, and the time they took without loading."""
    batches = latent_batches(settings)
    _warm_up(sampler, batches, settings)
    samples: list[Sample] = []
    latent_seconds = decode_seconds = 0.0
    with Bar("samples", settings.n) as bar:
        for batch in batches:
            drawn, took_latent, took_decode = _draw_batch(sampler, batch, settings)
            samples += drawn
            latent_seconds, decode_seconds = latent_seconds + took_latent, decode_seconds + took_decode
            bar.update(len(drawn))
    total = latent_seconds + decode_seconds
    return samples, {
        "seconds": total,
        "tokens_per_second": settings.n * sampler.decoder.length / total,
        "latent_share": latent_seconds / total,
        "batch_size": settings.batch_size,
        "machine": machine(sampler.device),
    }


def _warm_up(sampler: Sampler, batches: Sequence[range], settings: SampleConfig) -> None:
    """Let libraries choose their kernels, and where steps are captured or compiled do that for all batches."""
    if replays_pay(sampler.device) or settings.compile:
        for batch in batches:
            _draw_batch(sampler, batch, settings)
    else:
        _draw_batch(sampler, batches[0], replace(settings, decode_steps=1, steps=min(1, settings.steps)))


def _draw_batch(sampler: Sampler, batch: range, settings: SampleConfig) -> tuple[list[Sample], float, float]:
    """Samples of some latents, seconds for these and seconds for the texts."""
    ids = ids_of(batch, settings)
    z_0, latent_seconds = timed(lambda: latents_of_texts(sampler, batch, settings), sampler.device)
    samples, text_seconds = timed(
        lambda: describe(sampler, ids, settings, decode(sampler, ids, settings, z_0)), sampler.device
    )
    return samples, latent_seconds, text_seconds


def _report(point: Point, runs: Sequence[Report], seeds: Sequence[int], pooled: Report) -> Report:
    figures = {}
    for name in FIGURES:
        values = [run["samples"].get(name) for run in runs]
        if all(value is not None for value in values):
            mean, std = mean_and_std(values)
            figures[name] = {"mean": mean, "std": std, "by_seed": values}
    reference, definitions, left_out = (dict(runs[0][name] or {}) for name in ("reference", "definitions", "left_out"))
    definitions = {name: definition for name, definition in definitions.items() if name in figures}
    if pooled["value"] is None:
        left_out["mauve_pooled"] = pooled["reason"]
    else:
        mean, std = mean_and_std(pooled["values"])
        figures["mauve_pooled"] = {"mean": mean, "std": std, "by_clustering": pooled["values"], "n": pooled["n"]}
        if pooled["reference"] is None:
            left_out["reference mauve_pooled"] = TOO_FEW
        else:
            reference["mauve_pooled"] = pooled["reference"]
        settings = {name: pooled[name] for name in ("n", "buckets", "scale", "seeds", "scorer", "source")}
        definitions["mauve_pooled"] = {"definition": POOLED} | settings
    speeds = [run["speed"] for run in runs]
    rate, rate_std = mean_and_std([speed["tokens_per_second"] for speed in speeds])
    names = ("decode_steps", "temperature", "top_p", "order", "n", "decodings")
    settings = {name: getattr(point.settings, name) for name in names}
    return {
        "model": point.model,
        "stage": point.stage,
        "model_hash": point.content[0],
        **settings,
        "steps": point.settings.steps or None,
        "gamma": point.settings.gamma if point.stage == "student" else None,
        "self_cond": choice_in_use(point.settings, "self_cond"),
        "guidance": point.settings.guidance or None,
        "solver": choice_in_use(point.settings, "solver"),
        **point.settings.use_of_latents(),
        "corrector": point.settings.corrector or None,
        **point.settings.bounds_in_use(),
        "precision": point.settings.precision,
        "seeds": list(seeds),
        "figures": figures,
        "tokens_per_second": {"mean": rate, "std": rate_std, "by_seed": [s["tokens_per_second"] for s in speeds]},
        "seconds": mean_and_std([speed["seconds"] for speed in speeds])[0],
        "latent_share": mean_and_std([speed["latent_share"] for speed in speeds])[0],
        "batch_size": speeds[0]["batch_size"],
        "machine": speeds[0]["machine"],
        "reference": reference or None,
        "definitions": definitions,
        "left_out": left_out,
        "scorer": runs[0]["scorer"],
    }


def _has_lesser_reference(figures: Report, measure: SampleMeasure, point: Point) -> bool:
    """Whether kept figures are not beside the model's own held-out text by its name of today, though that is there."""
    kept = (figures.get("reference") or {}).get("source")
    return measure.text(point.model).source not in (SHIPPED, kept)


def _check_comparable(reports: Sequence[Report], out: Path) -> None:
    """Refuse points that were measured by several scorers, or beside several texts."""
    scorers = {str(r["scorer"]["name"]) for r in reports}
    texts = [(r["reference"] or {}).get("source", "none") for r in reports]
    if len(scorers) > 1:
        raise UserError(
            f"the points in {out} were measured by several scorers ({', '.join(sorted(scorers))})",
            "name one with --scorer, or choose another --out",
        )
    check_texts({text: text for text in texts}, "name one data set with --data, or choose another --out")
