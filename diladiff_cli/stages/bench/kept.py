"""What ``bench`` has measured before: files under the hash of all that they depend on; a damaged one is made again."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from diladiff_cli.config import FOR_SPEED, BenchConfig, EvalConfig
from diladiff_cli.data.files import several
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import file_hash
from diladiff_cli.metrics.scorers import check_scorer
from diladiff_cli.notes import say
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.points import Plan, Point, check_texts, plan_points
from diladiff_cli.stages.bench.timing import machine
from diladiff_cli.stages.common import open_recorded_data, path_or_none
from diladiff_cli.stages.evaluation.measure import SampleMeasure
from diladiff_cli.stages.evaluation.sets import Sample
from diladiff_cli.stages.sampling.sampler import Sampler

SPEED_VERSION = 8  # of the kept speeds; raised when the sampler becomes faster, or something else is timed
SPEED_ENTRIES = ("seconds", "tokens_per_second", "latent_share", "batch_size", "machine")  # what a file of it holds
FIGURE_ENTRIES = ("samples", "definitions", "left_out", "scorer")
POOLED_ENTRIES = ("value", "values", "n", "reference", "buckets", "scale", "seeds", "scorer", "fingerprint", "source")


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
class KeptFiles:
    """Files of what was measured of a point with one seed, of ``n`` samples; ``speed`` is this machine's."""

    n: int
    samples: Path
    speed: Path
    figures: Path

    @property
    def drawn(self) -> bool:
        """Whether samples and their speed are there."""
        return kept_samples(self.samples, self.n) is not None and kept_report(self.speed, SPEED_ENTRIES) is not None

    @property
    def scored(self) -> bool:
        """Whether figures are there, which may be beside another text than a later call compares with."""
        return kept_report(self.figures, FIGURE_ENTRIES) is not None


@dataclass(frozen=True)
class Bench:
    """Points, and where what is measured of them lies.

    Attributes:
        plan: The points, and the settings that they share.
        out: Folder of samples and figures.
        data: Data set that was named as the reference; None for the one that each model was trained on.
    """

    plan: Plan
    out: Path
    data: Path | None

    @classmethod
    def planned(
        cls, config: BenchConfig, models: Path | str | Sequence[Path | str], out: Path | str, data: Path | str | None
    ) -> "Bench":
        """The points of a call, with their models loaded.

        Raises:
            UserError, ConfigError: As of :func:`plan_points`.
        """
        data = path_or_none(data)
        return cls(plan_points(config, [Path(resolved(model)) for model in several(models)], data), Path(out), data)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of every point."""
        return self.plan.config.integers("seeds")

    def sampler(self, point: Point) -> Sampler:
        """The networks of a point's model."""
        return self.plan.samplers[point.model]

    def measure(self, settings: EvalConfig, keep: Path | None = None) -> SampleMeasure:
        """What measures texts of all models beside one and the same text.

        Raises:
            UserError: They have several, or cut them in several ways.
        """
        measure = SampleMeasure(settings, data=self.data, keep=keep)
        samplers = self.plan.samplers.values()
        if len({(file_hash(s.artifact.place / "tokenizer.json"), s.decoder.length) for s in samplers}) > 1:
            raise UserError(
                "the models differ in tokenizer or length, so that nothing of them compares at equal entropy",
                "measure each by itself",
            )
        check_texts({measure.text(model).source: measure.text(model).title for model in self.plan.samplers})
        return measure

    def kept(self, point: Point, seed: int) -> KeptFiles:
        """The files of a point with one seed."""
        config, folder, place = self.plan.config, self.out / "points", machine(self.sampler(point).device)
        return KeptFiles(
            n=point.settings.n,
            samples=folder / f"{point.key(seed)}.jsonl",
            speed=folder / f"{point.key(seed, config.batch_size, place, SPEED_VERSION)}.speed.json",
            figures=folder / f"{point.key(seed, config.scorer, *self._reference(point))}.figures.json",
        )

    def pooled(self, point: Point) -> Path:
        """The file of what was measured of the texts of all seeds together."""
        key = point.key(self.seeds[0], list(self.seeds), self.plan.config.scorer, *self._reference(point))
        return self.out / "points" / f"{key}.pooled.json"

    def files(self) -> dict[Point, dict[int, KeptFiles]]:
        """The files of every point and seed.

        Raises:
            UserError: Figures are missing, or those of all seeds together, and the scorer cannot be had.
        """
        by_point = {point: {seed: self.kept(point, seed) for seed in self.seeds} for point in self.plan.points}
        scored = all(kept.scored for files in by_point.values() for kept in files.values())
        if not (scored and all(self.is_pooled(point) for point in by_point)):
            check_scorer(self.plan.config.scorer)
        return by_point

    def is_pooled(self, point: Point) -> bool:
        """Whether nothing is to be measured of all seeds together."""
        return len(self.seeds) < 2 or kept_report(self.pooled(point), POOLED_ENTRIES) is not None

    def _reference(self, point: Point) -> list[str]:
        """Content of the data set that was named as the reference, where one was."""
        artifact = self.sampler(point).artifact
        return [] if self.data is None else [open_recorded_data(artifact, self.data).fingerprint]


def bench_plan(
    config: BenchConfig, models: Path | str | Sequence[Path | str], out: Path | str, data: Path | str | None = None
) -> dict[str, Any]:
    """What a dry run prints: every point, for which seeds samples or figures are missing, and whether those of all are.

    Kept figures that no longer fit the scorer or the reference are found out by the run itself, which loads the scorer.

    Raises:
        UserError, ConfigError: As of :meth:`Bench.planned`, :meth:`Bench.measure` and :meth:`Bench.files`.
    """
    bench = Bench.planned(config, models, out, data)
    bench.measure(EvalConfig())  # says of each reference once what it is
    points = [
        {
            "model": point.model,
            "stage": point.stage,
            "steps": point.settings.steps or None,
            **{name: getattr(point.settings, name) for name in ("decode_steps", "temperature")},
            **point.settings.use_of_latents(),
            "corrector": point.settings.corrector or None,
            "to_draw": [seed for seed, files in kept.items() if not files.drawn],
            "to_score": [seed for seed, files in kept.items() if not files.scored],
            "to_pool": not bench.is_pooled(point),
        }
        for point, kept in bench.files().items()
    ]
    settings = {name: value for name, value in bench.plan.config.to_dict().items() if name not in FOR_SPEED}
    return {"out": str(bench.out), "settings": settings, "points": points}
