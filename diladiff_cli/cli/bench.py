"""The command ``bench``: quality over speed, or speed alone."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import DryRun, idle_bounds, named_or_default
from diladiff_cli.cli.output import Result, show
from diladiff_cli.config import FOR_SPEED, BenchConfig
from diladiff_cli.notes import is_main_process, say
from diladiff_cli.settings import flag

BOTH = {"decode_steps", "top_p", "precision", "compile"}


def _check(
    config: BenchConfig | None,
    given: Mapping[str, Any],
    model: str | None,
    out: str | None,
    speed: bool,
    **own: Any,
) -> list[str]:
    """Refuse options that would do nothing, and folders that nothing calls for."""
    names = sorted(name for name in given if name not in BOTH and (name in FOR_SPEED) is not speed)
    why = "has no meaning with --speed" if speed else "is for --speed"
    problems = [f"{flag(name)} {why}; leave it out" for name in names]
    if speed and out is not None:
        problems.append("--out has no meaning with --speed, which keeps nothing; leave it out")
    if speed and own["data"] is not None:
        problems.append("--data has no meaning with --speed, which makes its own networks; leave it out")
    if speed and own["dry_run"]:
        problems.append("--dry-run has no meaning with --speed, which reads nothing; leave it out")
    if speed and (model is not None or own["against"] or own["more"]):
        problems.append("models have no meaning with --speed, which makes its own networks; leave them out")
    return problems if speed else problems + idle_bounds(config, given)


@command(
    "bench",
    stage="bench",
    panel="Measurement",
    examples=(
        "diladiff bench --model ckpt/student --against ckpt/mdlm ckpt/prior",
        "diladiff bench --decode-steps 8,16,32 --steps 1,2,5 --n 1000 > bench.jsonl",
        "diladiff bench --decode-steps 8 --steps 2 --n 32 --seeds 0",
        "diladiff bench --latent-scale 1,0.8,0.7 --temperatures 1.0,0.85,0.7",
        "diladiff bench --speed",
    ),
    check=_check,
    reads={"model": None, "against": None, "more": None, "data": "data"},
)
def bench(
    config: BenchConfig,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="An artifact of any stage, a bundle, hf://USER/NAME, or shipped: the small model that ships. "
            r"\[default: ckpt/student, else shipped]",
        ),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option("--against", metavar="FOLDER…", help="Further models for the same picture, one or several."),
    ] = None,
    more: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="MODEL",
            help="Models to compare, besides those of --model and --against; alone, in place of the default.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FOLDER",
            help="Where points are kept and the picture goes, which has the points of this call; those measured before "
            r"cost nothing. \[default: bench]",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Data set whose held-out text is the reference, and what an auto-encoder encodes. "
            r"\[default: the one that each model was trained on]",
            show_default=False,
        ),
    ] = None,
    speed: Annotated[
        bool,
        typer.Option("--speed", metavar="", help="Measure speed alone, of random networks, beside a textbook sampler."),
    ] = False,
    dry_run: DryRun = False,
) -> Result:
    """Draw the frontier of quality and speed: a table, JSON lines and a picture.

    Points that were measured before are taken from the folder --out.
    """
    if not is_main_process():  # which does this work alone
        return None
    if speed:
        return _speed(config)
    models, folder = _all_models(model, against or [], more or []), out or Path("bench")
    if dry_run:
        from diladiff_cli.stages.bench.kept import bench_plan

        return bench_plan(config, models, folder, data)
    return _frontier(config, models, folder, data)


def _speed(config: BenchConfig) -> Iterator[Mapping[str, Any]]:
    from diladiff_cli.stages.bench.speed import bench_speed
    from diladiff_cli.stages.bench.tables import speed_table, training_table
    from diladiff_cli.stages.bench.training import bench_training

    sampling = yield from _kept(r | {"kind": "sampling"} for r in bench_speed(config))
    show(speed_table(sampling))
    training = yield from _kept(r | {"kind": "training"} for r in bench_training(config))
    show(training_table(training))


def _all_models(model: Path | None, against: list[Path], more: list[Path]) -> list[Path]:
    """The models, each once; the default one comes first where neither --model nor plain arguments alone name it."""
    if model is None and more and not against:
        model, *more = more
    return list(dict.fromkeys([named_or_default(model), *against, *more]))


def _frontier(config: BenchConfig, models: list[Path], out: Path, data: Path | None) -> Iterator[Mapping[str, Any]]:
    from diladiff_cli.stages.bench.frontier import bench_frontier
    from diladiff_cli.stages.bench.picture import frontier_picture
    from diladiff_cli.stages.bench.tables import FrontierView

    reports = yield from _kept(bench_frontier(config, models, out, data))
    show(FrontierView(reports))
    for file in frontier_picture(reports, out):
        say(str(file))


def _kept(reports: Iterable[dict[str, Any]]) -> Generator[dict[str, Any], None, list[dict[str, Any]]]:
    """Hand all reports on; returns them in the end."""
    kept = []
    for report in reports:
        yield report
        kept.append(report)
    return kept
