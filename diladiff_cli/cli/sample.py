"""The command ``sample``."""

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import DryRun, EncodedData, idle_bounds, named_or_default
from diladiff_cli.cli.output import Result, check_place
from diladiff_cli.config import SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.notes import is_main_process, say, saying_if_interrupted
from diladiff_cli.settings import ConfigError, check_value

FORMATS = ("jsonl", "text")
LONGEST = 1 << 24  # bytes of a line of samples that is looked at
STDOUT = {"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"}  # all but the first would be stderr while a command runs


def _check(config: SampleConfig | None, given: Mapping[str, Any], format: str, **own: Any) -> list[str]:
    """What is wrong with the command's own options, and what would do nothing with any model."""
    problem = check_value("format", format, str, choices=FORMATS)
    problems = [] if problem is None else [problem]
    if own["trace"] in STDOUT:
        problems.append(f"--trace {own['trace']} is stdout, which is for samples; name a file")
    elif own["out"] and own["trace"] and Path(own["out"]).resolve() == Path(own["trace"]).resolve():
        problems.append(f"--trace {own['trace']} is the file of --out as well; change one")
    return problems + idle_bounds(config, given)


@command(
    "sample",
    stage="sample",
    panel="Sampling",
    examples=(
        "diladiff sample --n 3 --format text",
        "diladiff sample --n 64 --steps 2 | tee samples.jsonl | diladiff eval -",
        "diladiff sample --model ckpt/prior --steps 50 --n 1000 --out samples.jsonl",
        "diladiff sample --order spread --latent-until 0.5 --format text",
        'diladiff sample --prompt "Once upon a time" --format text',
        'diladiff sample --prompt "A king had" --suffix " wept." --format text',
        "diladiff sample --n 1 --trace trace.html",
    ),
    check=_check,
    reads={"model": None},
)
def sample(
    config: SampleConfig,
    given: dict[str, Any],
    on_terminal: bool,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="FOLDER",
            help="An artifact of any stage, a bundle of export, hf://USER/NAME on the Hub, or shipped: the small model "
            "that ships with diladiff. "
            r"\[default: ckpt/student, else shipped]",
        ),
    ] = None,
    data: EncodedData = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="Written once it is complete; the same command goes on with one that was cut short. - is stdout. "
            r"\[default: stdout]",
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            "--format", metavar="TEXT", help="jsonl, or text: the texts alone with a line of dashes between them."
        ),
    ] = "jsonl",
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE", help="Also write an HTML page that shows how the first text was decoded."
        ),
    ] = None,
    dry_run: DryRun = False,
) -> Result:
    """Draw texts from a model, as JSON lines on stdout."""
    if out is not None and str(out) in STDOUT:
        out = None
    for file, option in ((out, "--out"), (trace, "--trace")):
        if file is not None:
            check_place(file, option)
    if out is not None and format == "jsonl":
        _check_earlier(out)
    from diladiff_cli.model import load
    from diladiff_cli.stages.sampling.settings import complete, notes_on, origin_of, sample_plan

    loaded = load(named_or_default(model), data=data)
    _check_stage(loaded, config, given, data)
    for note in notes_on(loaded.sampler, config):
        say(note)
    if dry_run:
        files = {"out": None if out is None else str(out), "trace": None if trace is None else str(trace)}
        return sample_plan(loaded.sampler, config) | files
    if trace is not None and is_main_process():
        _write_trace(loaded, config, trace)
    from diladiff_cli.cli.sample_file import Source, texts_of, write_samples
    from diladiff_cli.stages.sampling.sample import is_whole

    draw = partial(_with_bar, loaded, config, out is not None or not on_terminal)
    if out is None:
        samples = draw(0)
        return texts_of(samples) if format == "text" else samples
    settings = complete(loaded.sampler, config)
    source = Source(origin_of(loaded.sampler, settings), draw, partial(is_whole, loaded.sampler, settings))
    write_samples(source, out, config.n, format == "text")
    return None


def _check_earlier(out: Path) -> None:
    """Refuse to replace a file that is not of samples.

    Raises:
        UserError: There is such a file.
    """
    if not out.is_file():
        return
    try:
        with out.open("rb") as file:
            line = file.readline(LONGEST)
    except OSError as error:
        raise UserError(f"cannot read {out} ({error.strerror})", "choose another --out") from error
    with suppress(ValueError, AttributeError, RecursionError):
        if not line or {"id", "text"} <= json.loads(line).keys():
            return
    raise UserError(f"{out} holds something else than samples, which they would replace", "choose another --out")


def _check_stage(model: Any, config: SampleConfig, given: Mapping[str, Any], data: Path | None) -> None:
    """Refuse options that do not fit the model's stage, or would do nothing there; all at once."""
    from diladiff_cli.stages.sampling.settings import complete

    problems = []
    if "gamma" in given and model.stage != "student":
        problems.append(f"--gamma is for a student, and the model is of stage {model.stage}; leave it out")
    elif "gamma" in given and config.steps == 1:
        problems.append("--gamma is noise between latent steps, and --steps is 1; leave it out")
    if data is not None and model.stage != "ae":
        problems.append(f"--data is for an auto-encoder, and the model is of stage {model.stage}; leave it out")
    try:
        complete(model.sampler, config)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)


def _with_bar(model: Any, config: SampleConfig, enabled: bool, first: int) -> Iterator[dict[str, Any]]:
    """The samples from a number on, with a bar on stderr, or a line now and then; none beside texts on a terminal."""
    from diladiff_cli.runtime.progress import Bar

    with Bar("sample", config.n, done=first, enabled=enabled and is_main_process(), patient=True) as bar:

        def progress(_: int, step: int) -> None:
            if bar.terminal:
                bar.update(0, f"decoding step {step}")

        for drawn in model.stream(config, progress, first):
            bar.update(text=None if bar.terminal else "drawn")
            yield drawn


def _write_trace(model: Any, config: SampleConfig, out: Path) -> None:
    from diladiff_cli.cli.sample_file import writable
    from diladiff_cli.runtime.folders import real, remove_leftovers, replacing_file
    from diladiff_cli.stages.sampling.trace import page

    cut_short = saying_if_interrupted(lambda: f"{out} is not written, since it is not complete")
    with cut_short, writable(out, "--trace") as target:
        if target.is_regular:
            remove_leftovers(real(out))
        with replacing_file(out) if target.is_regular else nullcontext(out) as file:
            file.write_bytes(page(model.trace(config)).encode())
    say(f"{out}: how sample 0 was decoded")
