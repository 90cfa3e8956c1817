"""What ``bench`` has measured before: files under the hash of all that they depend on; a damaged one is made again."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diladiff_cli.config import FOR_SPEED, BenchConfig, EvalConfig
from diladiff_cli.data.files import several
from diladiff_cli.metrics.scorers import check_scorer
from diladiff_cli.notes import say
from diladiff_cli.stages.bench_points import Plan, Point, check_texts, plan_points
from diladiff_cli.stages.bench_speed import machine
from diladiff_cli.stages.common import open_recorded_data, path_or_none
from diladiff_cli.stages.sample_measure import SampleMeasure
from diladiff_cli.stages.sample_sets import Sample
from diladiff_cli.stages.sampler import Sampler

SPEED_VERSION = 7  # of the kept speeds; raised when the sampler becomes faster, or something else is timed
SPEED = ("seconds", "tokens_per_second", "latent_share", "batch_size", "machine")  # what a file of it holds
FIGURES = ("samples", "definitions", "left_out", "scorer")
POOLED = ("value", "values", "n", "reference", "buckets", "scale", "seeds", "scorer", "source")

Report = dict[str, Any]


def kept_samples(file: Path, n: int) -> list[Sample] | None:
    """The ``n`` samples in a file; None where there is none, or what it holds is something else."""
    try:
        lines = file.read_text(encoding="utf-8").strip("\n").split("\n")  # texts may hold other line ends
        samples: list[Sample] = [json.loads(line) for line in lines]
        if len(samples) == n and all(isinstance(s["text"], str) and isinstance(s["token_ids"], list) for s in samples):
            return samples
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    _tell_damage(file)
    return None


def kept_report(file: Path, names: Collection[str]) -> Report | None:
    """The report with such entries in a file; None where there is none, or what it holds is none."""
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(report, dict) and set(names) <= report.keys():
            return report
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError):
        pass
    _tell_damage(file)
    return None


@cache
def _tell_damage(file: Path) -> None:
    say(f"{file} is damaged: what it held is measured again")


@dataclass(frozen=True)
class Kept:
    """Files of what was measured of a point with one seed, of ``n`` samples; ``speed`` is this machine's."""

    n: int
    samples: Path
    speed: Path
    figures: Path

    @classmethod
    def of(cls, point: Point, seed: int, sampler: Sampler, config: BenchConfig, out: Path, data: Path | None) -> "Kept":
        folder, place = out / "points", machine(sampler.device)
        reference = _reference_given(sampler, data)
        return cls(
            n=point.settings.n,
            samples=folder / f"{point.key(seed)}.jsonl",
            speed=folder / f"{point.key(seed, config.batch_size, place, SPEED_VERSION)}.speed.json",
            figures=folder / f"{point.key(seed, config.scorer, *reference)}.figures.json",
        )

    @property
    def drawn(self) -> bool:
        """Whether samples and their speed are there."""
        return kept_samples(self.samples, self.n) is not None and kept_report(self.speed, SPEED) is not None

    @property
    def scored(self) -> bool:
        """Whether figures are there, which may be beside another text than a later call compares with."""
        return kept_report(self.figures, FIGURES) is not None


def pooled_file(
    point: Point, seeds: Sequence[int], sampler: Sampler, config: BenchConfig, out: Path, data: Path | None
) -> Path:
    """The file of what was measured of the texts of several seeds together."""
    key = point.key(seeds[0], list(seeds), config.scorer, *_reference_given(sampler, data))
    return out / "points" / f"{key}.pooled.json"


def _reference_given(sampler: Sampler, data: Path | None) -> list[str]:
    """Content of the data set that was named as the reference, where one was."""
    return [] if data is None else [open_recorded_data(sampler.artifact, data).fingerprint]


def bench_plan(
    config: BenchConfig, models: Path | str | Sequence[Path | str], out: Path | str, data: Path | str | None = None
) -> dict[str, Any]:
    """What a dry run prints: every point, for which seeds samples or figures are missing, and whether those of all are.

    Kept figures that no longer fit the scorer or the reference are found out by the run itself, which loads the scorer.

    Raises:
        UserError, ConfigError: As of :func:`plan_points` and :func:`kept_files`.
    """
    out, data = Path(out), path_or_none(data)
    plan = plan_points(config, [Path(model) for model in several(models)], data)
    measure = SampleMeasure(EvalConfig(), data=data)  # tells of each reference once
    check_texts({measure.text(model).source: measure.text(model).title for model in plan.samplers})
    found = []
    for point, kept in kept_files(plan, out, data).items():
        given = plan.samplers[point.model], plan.config, out, data
        found.append(
            {
                "model": point.model,
                "stage": point.stage,
                "steps": point.settings.steps or None,
                **{name: getattr(point.settings, name) for name in ("decode_steps", "temperature")},
                **point.settings.use_of_latents(),
                "corrector": point.settings.corrector or None,
                "to_draw": [seed for seed, files in kept.items() if not files.drawn],
                "to_score": [seed for seed, files in kept.items() if not files.scored],
                "to_pool": len(kept) > 1 and kept_report(pooled_file(point, list(kept), *given), POOLED) is None,
            }
        )
    settings = {name: value for name, value in plan.config.to_dict().items() if name not in FOR_SPEED}
    return {"out": str(out), "settings": settings, "points": found}


def kept_files(plan: Plan, out: Path, data: Path | None) -> dict[Point, dict[int, Kept]]:
    """The files of every point and seed.

    Raises:
        UserError: Figures are missing, or those of all seeds together, and the scorer cannot be had.
    """
    seeds = plan.config.integers("seeds")
    found = {
        p: {seed: Kept.of(p, seed, plan.samplers[p.model], plan.config, out, data) for seed in seeds}
        for p in plan.points
    }
    scored = all(kept.scored for files in found.values() for kept in files.values())
    pooled = [pooled_file(p, seeds, plan.samplers[p.model], plan.config, out, data) for p in found if len(seeds) > 1]
    if not (scored and all(kept_report(file, POOLED) for file in pooled)):
        check_scorer(plan.config.scorer)
    return found
