"""The command ``eval``: of samples and of artifacts."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import DryRun, stdin_problems
from diladiff_cli.cli.output import Result, document, show
from diladiff_cli.config import EvalConfig
from diladiff_cli.notes import is_main_process


def _check(
    config: EvalConfig | None,
    given: Mapping[str, Any],
    target: list[str],
    reference: list[str] | None,
    data: str | None,
    **_: Any,
) -> list[str]:
    """Refuse options that none of the targets would heed; bad values are reported as such alone."""
    problems, settings = stdin_problems(target, reference), given if config is not None else {}
    if problems or (not reference and data is None and not settings):
        return problems
    from diladiff_cli.stages.evaluation.files import idle_options

    return idle_options(target, reference or (), data, settings)


@command(
    "eval",
    stage="eval",
    panel="Measurement",
    examples=(
        "diladiff eval samples.jsonl",
        "diladiff sample --n 64 | diladiff eval - --scorer smollm2 > report.jsonl",
        "diladiff eval ckpt/ae --pretty",
    ),
    check=_check,
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
            r"\[default: what the model's data set held out, else the held-out text that ships with diladiff]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help=r"Of artifacts: token data set. \[default: the one that was trained on]"
        ),
    ] = None,
    pretty: Annotated[bool, typer.Option("--pretty", metavar="", help="Indent the JSON.")] = False,
    dry_run: DryRun = False,
) -> Result:
    """Measure samples or artifacts.

    JSON goes to stdout, one line for each report, and tables to stderr.
    """
    if not is_main_process():  # which does this work alone
        return None
    from diladiff_cli.stages.evaluation.files import evaluate_files, evaluation_plan

    if dry_run:
        return evaluation_plan(config, target, reference or (), data)
    reports = _with_tables(evaluate_files(config, target, reference or (), data))
    return map(document, reports) if pretty else reports


def _with_tables(reports: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The reports as they come, each shown on stderr, and in the end all ways of sampling together."""
    from diladiff_cli.stages.evaluation.files import overview_table, table_of

    shown = []
    for report in reports:
        yield report
        show(table_of(report))  # below its JSON, where both are on a terminal
        shown.append(report)
    overview = overview_table(shown)
    if overview is not None:
        show(overview)
