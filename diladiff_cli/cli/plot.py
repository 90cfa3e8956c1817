"""The command ``plot``: pictures of training and of evaluations."""

from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import stdin_problems
from diladiff_cli.cli.output import Result
from diladiff_cli.notes import is_main_process
from diladiff_cli.settings import shown

FORMATS = ("png", "svg", "pdf")


def _names(format: str) -> list[str]:
    return list(dict.fromkeys(name.strip() for name in format.split(",")))


def _check(format: str, out: Path, target: list[str], **_: Any) -> list[str]:
    problems = stdin_problems(target)
    if not set(_names(format)) <= set(FORMATS):
        problems.append(f"--format is {shown(format)}; give one or several of {', '.join(FORMATS)}, with commas")
    ending = Path(out).suffix.removeprefix(".").lower()
    if ending in FORMATS and not Path(out).is_dir():
        problems.append(
            f"--out is {shown(str(out))}, and pictures go to a folder; name one, and give --format {ending}"
        )
    return problems


@command(
    "plot",
    examples=(
        "diladiff plot ckpt/mdlm ckpt/ae ckpt/prior ckpt/student",
        "diladiff plot run1/ae run2/ae --out comparison",
        "diladiff eval ckpt/ae | diladiff plot - --out figures --format svg",
    ),
    check=_check,
)
def plot(
    target: Annotated[
        list[str],
        typer.Argument(metavar="TARGET", help="Artifacts, and files, - for stdin, of what eval printed of artifacts."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the pictures go.")] = Path("plots"),
    format: Annotated[
        str, typer.Option("--format", metavar="TEXT", help="One or several of png, svg, pdf, with commas.")
    ] = "png,svg",
) -> Result:
    """Draw training curves, recovery, robustness and losses.

    Several targets of the same kind share a picture. A line of JSON on stdout names the files of each.
    """
    if not is_main_process():
        return None
    from diladiff_cli.stages.plotting.plot import plot as draw

    return draw(target, out, _names(format))
