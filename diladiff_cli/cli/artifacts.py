"""The commands that look at artifacts or pass them on: info, export."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import named_or_default
from diladiff_cli.cli.output import Result, show
from diladiff_cli.config import MAX_LATENT_SCALE, MIN_LATENT_SCALE
from diladiff_cli.notes import is_main_process, say
from diladiff_cli.runtime.card import metadata_problems
from diladiff_cli.settings import check_value


@command("info", examples=("diladiff info ckpt/student", "diladiff info data | jq .fingerprint"))
def info(
    on_terminal: bool,
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="An artifact, a bundle, a data set, latents, or shipped: the small model that ships with diladiff. "
            "Without one: the model that sample would take.",
        ),
    ] = None,
) -> Result:
    """Say what a folder is and how it was made.

    Tables go to stderr, and JSON to stdout unless both are a terminal.
    """
    from diladiff_cli.stages.info import describe, info_table

    record = describe(named_or_default(path))
    show(info_table(record))
    return None if on_terminal and sys.stderr.isatty() else record


def _check(precision: str, license: str | None, language: str | None, **_: Any) -> list[str]:
    problem = check_value("precision", precision, str, choices=("bf16", "fp32"))
    return [*([] if problem is None else [problem]), *metadata_problems(license=license, language=language)]


@command(
    "export",
    examples=(
        "diladiff export --out bundle",
        "diladiff export --model ckpt/prior --precision fp32 --out bundle",
        "diladiff export --latent-scale 0.7 --license apache-2.0 --out bundle",
    ),
    check=_check,
    reads={"model": None},
)
def export(
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="Artifact of any stage, or shipped: the small model that ships with diladiff; its parents come along. "
            r"\[default: ckpt/student, else shipped]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the bundle goes.")] = Path("bundle"),
    precision: Annotated[
        str, typer.Option("--precision", metavar="TEXT", help="Of the stored weights: bf16 or fp32.")
    ] = "bf16",
    license: Annotated[
        str | None, typer.Option("--license", metavar="TEXT", help="Licence of the model, for its card: apache-2.0.")
    ] = None,
    language: Annotated[
        str | None, typer.Option("--language", metavar="TEXT", help="Languages of the text, for the card: en or en,de.")
    ] = None,
    latent_scale: Annotated[
        float | None,
        typer.Option(
            "--latent-scale",
            metavar="FLOAT",
            min=MIN_LATENT_SCALE,
            max=MAX_LATENT_SCALE,
            help="Factor on drawn latents that sample and bench take for it unless told otherwise. "
            r"\[default: what an earlier export says, else 1]",
        ),
    ] = None,
) -> Result:
    """Bundle a model with all it builds on, ready for the Hub."""
    if not is_main_process():
        return None
    from diladiff_cli.stages import export as stage

    earlier = (out / "config.json").exists()
    summary = stage.export(
        named_or_default(model), out, precision, license=license, language=language, latent_scale=latent_scale
    )
    instead = ", in place of an earlier bundle" if earlier else ""
    say(f"{out}: {summary['stage']} in {precision}, {summary['bytes'] / 1e6:,.1f} MB{instead}")
    if (summary["stored"], precision) == ("bf16", "fp32"):
        say("its weights were stored in bf16: fp32 makes them larger, not finer")
    return None
