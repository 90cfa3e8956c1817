"""The command ``eval``: of samples and of artifacts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median_low
from typing import TYPE_CHECKING, Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.output import Result, document, is_main_process, show
from diladiff_cli.settings import Settings, option

if TYPE_CHECKING:
    from diladiff_cli.metrics.scorers import Scorer


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Settings):
    """How samples and artifacts are measured."""

    scorer: str = option(
        "auto", "auto (gpt2-large, else smollm2, else none), none, smollm2, a GGUF file, a Hub id or a folder."
    )
    context: int = option(
        0, "Of samples: the most scorer tokens of a text that count (0: all the scorer takes).", low=0
    )
    batch_size: int = option(8, "Texts at once.", low=1)
    precision: str = option("fp32", "bf16: autocast of matrix products.", choices=("bf16", "fp32"))
    draws: int = option(16, "Of artifacts: masks for each text; the published figures have 128.", low=1)
    batches: int = option(8, "Of artifacts: amount of work, 16 held-out blocks and 4 latents each.", low=1)
    likelihood: int = option(
        0, "Of a prior: sequences for the bound of the whole model, which takes minutes (0: leave it out).", low=0
    )
    seed: int = option(0, "Of artifacts: seed of masks, noise and samples.", low=0)


@command(
    "eval",
    settings=EvalConfig,
    panel="Measurement",
    examples=(
        "diladiff eval samples.jsonl",
        "diladiff sample --n 64 | diladiff eval - --scorer smollm2 > report.jsonl",
        "diladiff eval ckpt/ae --pretty",
    ),
)
def evaluate(
    config: EvalConfig,
    target: Annotated[list[str], typer.Argument(metavar="TARGET", help="Files of samples, - for stdin, or artifacts.")],
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="TEXT",
            help="Of samples: text to compare with; may be repeated. "
            r"\[default: the held-out text that ships with diladiff]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help=r"Of artifacts: token data set. \[default: the one that was trained on]"
        ),
    ] = None,
    pretty: Annotated[bool, typer.Option("--pretty", metavar="", help="Indent the JSON.")] = False,
) -> Result:
    """Measure samples or artifacts.

    JSON goes to stdout, one line for each report, and a table to stderr.
    """
    if not is_main_process():
        from accelerate import PartialState

        PartialState()  # where the main process, which works alone, waits for the others to be there
        return None
    reports = _reports(config, target, reference or [], data)
    return map(document, reports) if pretty else reports


def _reports(
    config: EvalConfig, targets: Sequence[str], reference: list[str], data: Path | None
) -> Iterator[dict[str, Any]]:
    measure = SampleMeasure(config, reference)
    for target in targets:
        if target != "-" and Path(target).is_dir():
            yield _of_artifact(Path(target), config, data)
        else:
            yield from measure.reports(target)


def _of_artifact(path: Path, config: EvalConfig, data: Path | None) -> dict[str, Any]:
    from diladiff_cli.stages.eval_artifact import artifact_table, evaluate_artifact

    report = evaluate_artifact(
        path,
        data=data,
        batches=config.batches,
        draws=config.draws,
        likelihood=config.likelihood,
        seed=config.seed,
        precision=config.precision,
    )
    show(artifact_table(report))
    return report


@dataclass(frozen=True)
class SampleMeasure:
    """Measures files of samples, with one scorer for all of them.

    Attributes:
        config: Scorer and batches.
        sources: Reference text; empty for what ships with the package.
    """

    config: EvalConfig
    sources: list[str]

    @cached_property
    def scorer(self) -> "tuple[Scorer | None, str]":
        """The scorer and why this one."""
        from diladiff_cli.metrics.scorers import load_scorer
        from diladiff_cli.stages.sample import sampling_device

        return load_scorer(self.config.scorer, sampling_device(), self.config.precision)

    def reports(self, source: str) -> Iterator[dict[str, Any]]:
        """One report for each way of sampling in a file."""
        from diladiff_cli.stages.eval_samples import evaluate_groups, group_samples, read_samples, report_table

        together: dict[tuple[str | None, int], list[dict[str, Any]]] = {}
        for group in group_samples(read_samples(source)):  # those of one model and length share a reference
            together.setdefault(_form(group), []).extend(group)
        for (model, length), samples in together.items():
            scorer, note = self.scorer
            for report in evaluate_groups(
                samples,
                self._reference(model, length, max(map(len, group_samples(samples)))),
                scorer,
                scorer_note=note,
                context=self.config.context or None,
                batch_size=self.config.batch_size,
            ):
                show(report_table(report))
                yield report

    def _reference(self, model: str | None, length: int, n: int) -> list[dict[str, Any]]:
        from diladiff_cli.data.tokenizer import load_tokenizer
        from diladiff_cli.stages.eval_samples import reference_samples

        tokenizer = None if model is None else load_tokenizer(Path(model) / "tokenizer")
        # Twice as many, so that one half of the real text can be measured against the other.
        return reference_samples(tokenizer, length, 2 * n, self.sources)


def _form(samples: list[dict[str, Any]]) -> tuple[str | None, int]:
    """The model whose tokenizer cuts the reference, and the length in its tokens; or None and one in characters."""
    model = samples[0].get("model")
    counts = [len(sample["token_ids"]) for sample in samples if sample.get("token_ids")]
    if isinstance(model, str) and (Path(model) / "tokenizer").is_dir() and len(counts) == len(samples):
        return model, median_low(counts)
    return None, max(1, median_low([len(sample["text"]) for sample in samples]))
