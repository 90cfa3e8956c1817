"""``bench``: quality over speed of several models, point by point, each kept under the hash of what it depends on."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diladiff_cli import __version__
from diladiff_cli.config import BenchConfig, EvalConfig, SampleConfig
from diladiff_cli.errors import UserError, writing
from diladiff_cli.integrity import file_hash
from diladiff_cli.metrics.frontier import interpolated, spread
from diladiff_cli.runtime.folders import write_text
from diladiff_cli.runtime.precision import settled_precision
from diladiff_cli.runtime.progress import Bar, say
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.bench_speed import machine, seconds
from diladiff_cli.stages.common import open_recorded_data
from diladiff_cli.stages.eval_files import SampleMeasure
from diladiff_cli.stages.reference_text import SHIPPED
from diladiff_cli.stages.sample import (
    complete,
    decode,
    describe,
    draw_latents,
    ids_of,
    latent_batches,
    notes_on,
)
from diladiff_cli.stages.sample_sets import Sample
from diladiff_cli.stages.sampler import Sampler, load_sampler, sampling_device

Report = dict[str, Any]
FIGURES = ("genppl", "entropy", "mauve", "latent_agreement", "distinct_2", "repetition_4")
COMPARED = ("genppl", "mauve", "latent_agreement", "repetition_4")  # at equal entropy
SHARED = ("n", "top_p", "order", "threshold", "entropy_bound", "batch_size", "precision")  # by all points
YOUNG = ("latent_until", "compile")  # options younger than some kept points, which hold for their defaults
FORMAT_VERSION = 1  # of the kept points; raised when samples or figures of the same settings change


@dataclass(frozen=True)
class Point:
    """One model, sampled in one way with several seeds.

    Attributes:
        model: Path as the user gave it.
        stage: Of the model.
        content: Hashes of all that its samples depend on, that of the model first.
        settings: How texts are drawn; its seed is that of the first set.
    """

    model: str
    stage: str
    content: tuple[str, ...]
    settings: SampleConfig

    def key(self, seed: int, *more: Any) -> str:
        """Name of what is kept of one seed: a hash of all that it depends on."""
        settings = replace(self.settings, seed=seed, batch_size=1).to_dict()
        unset = SampleConfig().to_dict()
        settings |= {name: unset[name] for name, value in self.settings.bounds_in_use().items() if value is None}
        settings = {k: v for k, v in settings.items() if k not in YOUNG or v != unset[k]}
        content = [FORMAT_VERSION, __version__, *self.content, settings, *more]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def bench_frontier(
    config: BenchConfig, models: Sequence[Path], out: Path, data: Path | None = None
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
        A report a point: settings, ``figures`` (mean, spread over seeds, and each seed's), ``tokens_per_second``,
        ``seconds`` (for a seed's samples), ``latent_share`` (of them), ``at_equal_entropy`` (for each base among the
        models, its figures interpolated to this entropy at the same decoding steps), ``reference``, ``definitions``.

    Raises:
        UserError: An unusable model or folder.
        ConfigError: Settings that do not fit a model.
    """
    config = replace(config, precision=settled_precision(config.precision, sampling_device()))
    samplers = {str(model): load_sampler(model, data=data) for model in models}
    if config.latent_until and all(sampler.autoencoder is None for sampler in samplers.values()):
        problem = f"--latent-until is {config.latent_until}, but none of the models has latents; leave it out"
        raise ConfigError([problem])
    points = [point for sampler in samplers.values() for point in _points(sampler, config)]
    for note in dict.fromkeys(note for point in points for note in _notes(point, samplers[point.model], config)):
        say(note)
    settings = EvalConfig(scorer=config.scorer, batch_size=config.batch_size, precision=config.precision)
    measure = SampleMeasure(settings, data=data)
    _check_texts({measure.text(model).source for model in samplers})
    with writing(out):
        (out / "points").mkdir(parents=True, exist_ok=True)
    seeds = config.integers("seeds")
    found = []
    for number, point in enumerate(points, 1):
        say(f"point {number} of {len(points)}: {_title(point)}")
        runs = [_measured(point, seed, samplers[point.model], measure, config, out) for seed in seeds]
        found.append(_report(point, runs, seeds))
    _check_comparable(found, out)
    for report in found:
        yield report | {"at_equal_entropy": _against_bases(report, found)}


def _points(sampler: Sampler, config: BenchConfig) -> Iterator[Point]:
    steps = {"student": config.integers("steps"), "prior": config.integers("prior_steps")}.get(sampler.stage, (0,))
    length = sampler.decoder.length
    powers = tuple(2**k for k in range(2, length.bit_length()) if 2**k <= length)
    content = _content(sampler)
    for latent_steps in steps:
        for temperature in config.temperature_list():
            for decode_steps in config.integers("decode_steps") or powers or (length,):
                settings = SampleConfig(
                    steps=latent_steps,
                    decode_steps=decode_steps,
                    temperature=temperature,
                    gamma=config.gamma if sampler.stage == "student" else SampleConfig().gamma,
                    latent_until=_latent_until(sampler, config),
                    decodings=1 if sampler.autoencoder is None else config.decodings,
                    **{name: getattr(config, name) for name in SHARED},
                )
                yield Point(sampler.name, sampler.stage, content, complete(sampler, settings))


def _latent_until(sampler: Sampler, config: BenchConfig) -> float:
    """As it was asked for, of a model that has latents."""
    return 0.0 if sampler.autoencoder is None else config.latent_until


def _notes(point: Point, sampler: Sampler, config: BenchConfig) -> list[str]:
    """On a point's settings before they were completed."""
    return notes_on(sampler, replace(point.settings, latent_until=_latent_until(sampler, config)))


def _content(sampler: Sampler) -> tuple[str, ...]:
    """Hashes of the artifact, its parents and its tokenizer, and of the blocks that an auto-encoder encodes."""
    artifact = sampler.artifact
    found = [artifact.hash, *(link["hash"] for _, link in sorted(artifact.config["parents"].items()))]
    found.append(file_hash(artifact.tokenizer_path / "tokenizer.json"))
    if sampler.stage == "ae":
        found.append(open_recorded_data(artifact, sampler.data)[0].fingerprint)
    return tuple(found)


def _title(point: Point) -> str:
    latent = f", {point.settings.steps} latent steps" if point.settings.steps else ""
    return f"{point.model}{latent}, {point.settings.decode_steps} decoding steps, T {point.settings.temperature:g}"


def _measured(
    point: Point, seed: int, sampler: Sampler, measure: SampleMeasure, config: BenchConfig, out: Path
) -> Report:
    """Speed and figures of one seed, kept or new."""
    samples_file = out / "points" / f"{point.key(seed)}.jsonl"
    speed_file = out / "points" / f"{point.key(seed, config.batch_size, machine(sampler.device))}.speed.json"
    reference = [] if measure.data is None else [open_recorded_data(sampler.artifact, measure.data)[0].fingerprint]
    figures_file = out / "points" / f"{point.key(seed, config.scorer, *reference)}.figures.json"
    if not (speed_file.exists() and samples_file.exists()):
        samples, speed = _draw(sampler, replace(point.settings, seed=seed))
        with writing(out):
            write_text(samples_file, "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))
            write_text(speed_file, json.dumps(speed) + "\n")
    figures = json.loads(figures_file.read_text()) if figures_file.exists() else None
    if figures is None or _has_lesser_reference(figures, measure, point):
        lines = samples_file.read_text(encoding="utf-8").strip("\n").split("\n")  # texts may hold other line ends
        # The model may lie elsewhere now; the reference is found by its path.
        (figures,) = measure.reports([json.loads(line) | {"model": point.model} for line in lines])
        if figures["scorer"]["name"] is not None:  # without one, a later call may have it
            with writing(out):
                write_text(figures_file, json.dumps(figures) + "\n")
    kept = ("samples", "reference", "definitions", "left_out", "scorer")
    return {"speed": json.loads(speed_file.read_text()), **{name: figures.get(name) for name in kept}}


def _draw(sampler: Sampler, settings: SampleConfig) -> tuple[list[Sample], Report]:
    """The samples, and the time they took without loading."""
    batches = latent_batches(settings)
    _draw_batch(sampler, batches[0], replace(settings, decode_steps=1, steps=min(1, settings.steps)))  # warm
    samples: list[Sample] = []
    latent_seconds = decode_seconds = 0.0
    with Bar("samples", settings.n) as bar:
        for batch in batches:
            found, took_latent, took_decode = _draw_batch(sampler, batch, settings)
            samples += found
            latent_seconds, decode_seconds = latent_seconds + took_latent, decode_seconds + took_decode
            bar.update(len(found))
    total = latent_seconds + decode_seconds
    return samples, {
        "seconds": total,
        "tokens_per_second": settings.n * sampler.decoder.length / total,
        "latent_share": latent_seconds / total,
        "batch_size": settings.batch_size,
        "machine": machine(sampler.device),
    }


def _draw_batch(sampler: Sampler, batch: range, settings: SampleConfig) -> tuple[list[Sample], float, float]:
    """Samples of some latents, seconds for these and seconds for the texts."""
    ids = ids_of(batch, settings)
    kept: dict[str, Any] = {"z_0": None}

    def latents() -> None:
        if sampler.autoencoder is not None:
            kept["z_0"] = draw_latents(sampler, batch, settings).repeat_interleave(settings.decodings, 0)

    def texts() -> None:
        kept["samples"] = describe(sampler, ids, settings, decode(sampler, ids, settings, kept["z_0"]))

    times = seconds(latents, sampler.device), seconds(texts, sampler.device)
    return kept["samples"], *times


def _report(point: Point, runs: Sequence[Report], seeds: Sequence[int]) -> Report:
    figures = {}
    for name in FIGURES:
        values = [run["samples"].get(name) for run in runs]
        if all(value is not None for value in values):
            mean, std = spread(values)
            figures[name] = {"mean": mean, "std": std, "by_seed": values}
    speeds = [run["speed"] for run in runs]
    rate, rate_std = spread([speed["tokens_per_second"] for speed in speeds])
    names = ("steps", "decode_steps", "temperature", "top_p", "gamma", "latent_until", "order", "n", "decodings")
    settings = {name: getattr(point.settings, name) for name in names} | point.settings.bounds_in_use()
    return {
        "model": point.model,
        "stage": point.stage,
        "model_hash": point.content[0],
        **settings,
        "steps": point.settings.steps or None,
        "gamma": point.settings.gamma if point.stage == "student" else None,
        "latent_until": point.settings.latent_until or None,
        "precision": point.settings.precision,
        "seeds": list(seeds),
        "figures": figures,
        "tokens_per_second": {"mean": rate, "std": rate_std, "by_seed": [s["tokens_per_second"] for s in speeds]},
        "seconds": spread([speed["seconds"] for speed in speeds])[0],
        "latent_share": spread([speed["latent_share"] for speed in speeds])[0],
        "batch_size": speeds[0]["batch_size"],
        "machine": speeds[0]["machine"],
        "reference": runs[0]["reference"],
        "definitions": runs[0]["definitions"],
        "left_out": runs[0]["left_out"],
        "scorer": runs[0]["scorer"],
    }


def _has_lesser_reference(figures: Report, measure: SampleMeasure, point: Point) -> bool:
    """Whether kept figures are beside the shipped text, though the model's own held-out text is there now."""
    return (figures.get("reference") or {}).get("source") == SHIPPED != measure.text(point.model).source


def _check_comparable(reports: Sequence[Report], out: Path) -> None:
    """Refuse points that were measured by several scorers, or beside several texts."""
    scorers = {str(r["scorer"]["name"]) for r in reports}
    texts = {(r["reference"] or {}).get("source", "none") for r in reports}
    if len(scorers) > 1:
        raise UserError(
            f"the points in {out} were measured by several scorers ({', '.join(sorted(scorers))})",
            "name one with --scorer, or choose another --out",
        )
    _check_texts(texts)


def _check_texts(texts: set[str]) -> None:
    if len(texts) > 1:
        raise UserError(
            f"the models have several reference texts ({'; '.join(sorted(texts))})",
            "name one data set with --data, or choose another --out if it was moved",
        )


def _means(report: Mapping[str, Any]) -> dict[str, float | None]:
    return {name: figure["mean"] for name, figure in report["figures"].items()}


def _against_bases(report: Report, reports: Sequence[Report]) -> dict[str, Report]:
    """Of each other base: its figures at this report's entropy, at the same number of decoding steps."""
    entropy = _means(report).get("entropy")
    bases = {r["model"] for r in reports if r["stage"] == "mdlm"} - {report["model"]}
    found: dict[str, Report] = {}
    if entropy is None:
        return found
    for base in sorted(bases):
        same = [_means(r) for r in reports if r["model"] == base and r["decode_steps"] == report["decode_steps"]]
        found[base] = {name: interpolated(same, name, entropy) for name in COMPARED}
    return found
