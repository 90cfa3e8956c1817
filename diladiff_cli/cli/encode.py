"""The command ``encode``: text to tokens, and with an auto-encoder tokens to latents."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import DryRun, Resume, stdin_problems
from diladiff_cli.cli.output import Result
from diladiff_cli.config import EncodeConfig
from diladiff_cli.errors import UserError
from diladiff_cli.notes import say
from diladiff_cli.settings import PRECISIONS, check_value, flag
from diladiff_cli.shipped import SHIPPED_TEXT

SPLIT = ("valid_share", "seed")  # the settings of a split
LATENT_BATCH = 64  # a CPU is a third faster than with 256


def _check(given: Mapping[str, Any], ae: str | None, **own: Any) -> list[str]:
    """Refuse options that belong to the other way of encoding or do nothing, and an unknown precision."""
    text_only = {name: own[name] for name in ("text", "valid", "preset", "config_file")} | dict(given)
    latents_only = {name: own[name] for name in ("data", "batch_size", "precision")}
    what, idle = ("needs --ae; name the auto-encoder", latents_only)
    if ae is not None:
        what, idle = "has no meaning with --ae; leave it out", text_only
    names = {"text": "TEXT", "config_file": "--config"}
    problems = [f"{names.get(name, flag(name))} {what}" for name, value in idle.items() if value is not None]
    if ae is None and (own["valid"] or not own["text"]):
        whose = "--valid names the validation text" if own["valid"] else "the text that ships is split already"
        problems += [f"{flag(k)} has no meaning, as {whose}; leave it out" for k in SPLIT if k in given]
    problems += stdin_problems(own["text"], own["valid"])
    if own["precision"] is not None:
        wrong = check_value("precision", own["precision"], str, choices=PRECISIONS)
        problems += [wrong] if wrong else []
    return problems


@command(
    "encode",
    stage="data",
    panel="Text",
    examples=(
        "diladiff encode novels/*.txt --tokenizer train:8192 --length 256 --out data",
        "zcat dump.jsonl.gz | diladiff encode - --tokenizer bert-base-uncased",
        "diladiff encode --ae ckpt/ae --out latents",
    ),
    check=_check,
    reads={"ae": "ae", "data": "data"},
)
def encode(
    config: EncodeConfig,
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help=(
                "Files (.txt, .jsonl or .json, also packed as .gz or .zst; .parquet), folders, globs, a Hub data set, "
                "or - for stdin. In a .txt file blank lines separate documents. "
                "Without any: the text shipped with diladiff."
            ),
        ),
    ] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option("--valid", metavar="TEXT", help="Text of the validation split; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help=r"\[default: data, or latents with --ae]")
    ] = None,
    ae: Annotated[
        Path | None, typer.Option("--ae", metavar="FOLDER", help="Artifact of train-ae: write its latents.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="FOLDER", help=r"With --ae: token data set. \[default: the one that --ae records]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="INTEGER", min=1, help=rf"With --ae: blocks at once. \[default: {LATENT_BATCH}]"
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision", metavar="TEXT", help=r"With --ae: auto, bf16 or fp32 matrix products. \[default: auto]"
        ),
    ] = None,
    resume: Resume = None,
    dry_run: DryRun = False,
) -> Result:
    """Turn text into tokens, or tokens into latents (--ae)."""
    if ae is None:
        return _encode_text(config, text or [], valid or [], out or Path("data"), resume, dry_run)
    from diladiff_cli.stages.encode_latents import encode_latents

    out = out or Path("latents")
    size, kind = batch_size or LATENT_BATCH, precision or "auto"
    record = encode_latents(ae=ae, data=data, out=out, batch_size=size, precision=kind, resume=resume, dry_run=dry_run)
    if dry_run:
        return record
    rows = {name: split["rows"] for name, split in record["splits"].items()}
    say(f"{out}: latents of {rows['train']:,} training and {rows['valid']:,} validation blocks")
    return None


def _encode_text(
    config: EncodeConfig, text: list[str], valid: list[str], out: Path, resume: bool | None, dry_run: bool
) -> Result:
    from diladiff_cli.stages.encode import encode_text

    if not text:
        text, valid = _shipped(valid)
    record = encode_text(config, text=text, valid=valid, out=out, resume=resume, dry_run=dry_run)
    if dry_run:
        return record
    splits = record["splits"]
    say(
        f"{out}: {splits['train']['rows']:,} training and {splits['valid']['rows']:,} validation blocks "
        f"of {record['length']} tokens, vocabulary {record['vocab_size']:,}"
    )
    return None


def _shipped(valid: list[str]) -> tuple[list[str], list[str]]:
    """The text inside the package, with its validation part unless another was given."""
    files = [SHIPPED_TEXT / f"{name}.jsonl.zst" for name in ("train", "valid")]
    if not all(file.is_file() for file in files):
        raise UserError("the text that ships with diladiff is missing", "install it again, or name your own text")
    say(f"no text was given: using the one that ships with diladiff, {SHIPPED_TEXT}")
    return [str(files[0])], valid or [str(files[1])]
