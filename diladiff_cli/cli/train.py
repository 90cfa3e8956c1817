"""The training commands: train-mdlm, train-ae, train-prior, distill."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.cli.command import command
from diladiff_cli.cli.options import DryRun, Latents, Out, RecordedData, RecordedLatents, Resume
from diladiff_cli.cli.output import Result
from diladiff_cli.config import BASE_NETWORK, AeConfig, DistillConfig, MdlmConfig, PriorConfig
from diladiff_cli.notes import say
from diladiff_cli.settings import flag


def _finish(figures: Mapping[str, Any], out: Path, dry_run: bool) -> Result:
    """The plan as data, or the final figures as one line on stderr."""
    if dry_run:
        return figures
    numbers = {k: v for k, v in figures.items() if isinstance(v, int | float) and k != "validated_step"}
    line = ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in numbers.items())
    earlier = figures["validated_step"]
    when = f"after step {earlier}" if earlier else "before the first step"
    is_older = earlier < figures["step"] and numbers.keys() > {"step", "seconds"}
    when = f", by the validation {when}" if is_older else ""
    say(f"{out}: {line}{when} (explained in {out / 'README.md'})")
    return None


def _check_init(given: Mapping[str, Any], init: str | None, **_: Any) -> list[str]:
    """Refuse options of a network beside a base that brings its own."""
    named = [name for name in BASE_NETWORK if name in given and init is not None]
    return [f"{flag(name)} is given, and --init brings its own network; leave it out" for name in named]


@command(
    "train-mdlm",
    stage="mdlm",
    panel="Network and objective",
    examples=(
        "diladiff train-mdlm --preset demo",
        "diladiff train-mdlm --data data --layers 6 --max-minutes 60",
        "diladiff train-mdlm --preset demo --data mine --init shipped/parents/mdlm",
        "accelerate launch -m diladiff_cli train-mdlm --preset owt",
    ),
    check=_check_init,
    reads={"data": "data"},
)
def train_mdlm(
    config: MdlmConfig,
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Token data set of encode.")] = Path("data"),
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar="MODEL",
            help="Begin with this base and its network: an artifact, or a published checkpoint of MDLM, a folder or "
            r"its Hub id. \[default: from scratch]",
            show_default=False,
        ),
    ] = None,
    out: Out = Path("ckpt/mdlm"),
    resume: Resume = None,
    dry_run: DryRun = False,
) -> Result:
    """Train the base, a masked diffusion language model."""
    from diladiff_cli.stages import train_mdlm as stage

    figures = stage.train_mdlm(config, data=data, init=init, out=out, resume=resume, dry_run=dry_run)
    return _finish(figures, out, dry_run)


@command(
    "train-ae",
    stage="ae",
    panel="Network and augmentation",
    examples=("diladiff train-ae --preset demo", "diladiff train-ae --base ckpt/mdlm --compression 4"),
    reads={"base": "mdlm", "data": "data"},
)
def train_ae(
    config: AeConfig,
    base: Annotated[Path, typer.Option("--base", metavar="FOLDER", help="Artifact of train-mdlm.")] = Path("ckpt/mdlm"),
    data: RecordedData = None,
    out: Out = Path("ckpt/ae"),
    resume: Resume = None,
    dry_run: DryRun = False,
) -> Result:
    """Train the encoder, and a decoder that reads its latents."""
    from diladiff_cli.stages import train_ae as stage

    figures = stage.train_ae(config, base=base, data=data, out=out, resume=resume, dry_run=dry_run)
    return _finish(figures, out, dry_run)


@command(
    "train-prior",
    stage="prior",
    panel="Network and objective",
    examples=("diladiff train-prior --preset demo", "diladiff train-prior --ae ckpt/ae --latents latents"),
    reads={"ae": "ae", "latents": "latents", "data": "data"},
)
def train_prior(
    config: PriorConfig,
    ae: Annotated[
        Path | None,
        typer.Option(
            "--ae",
            metavar="FOLDER",
            help=r"Artifact of train-ae. \[default: the one that made the latents, else ckpt/ae]",
        ),
    ] = None,
    latents: Latents = None,
    data: RecordedData = None,
    out: Out = Path("ckpt/prior"),
    resume: Resume = None,
    dry_run: DryRun = False,
) -> Result:
    """Train the latent prior, which samples in many steps."""
    from diladiff_cli.stages import train_prior as stage

    if ae is None and latents is None:
        ae = Path("ckpt/ae")
    figures = stage.train_prior(config, ae=ae, latents=latents, data=data, out=out, resume=resume, dry_run=dry_run)
    return _finish(figures, out, dry_run)


@command(
    "distill",
    stage="student",
    panel="Objective",
    examples=("diladiff distill --preset demo", "diladiff distill --prior ckpt/prior --latents latents --seed 1"),
    reads={"prior": "prior", "latents": "latents", "data": "data"},
)
def distill(
    config: DistillConfig,
    prior: Annotated[Path, typer.Option("--prior", metavar="FOLDER", help="Artifact of train-prior.")] = Path(
        "ckpt/prior"
    ),
    latents: RecordedLatents = None,
    data: RecordedData = None,
    out: Out = Path("ckpt/student"),
    resume: Resume = None,
    dry_run: DryRun = False,
) -> Result:
    """Distil the prior into a student, which samples in a few steps."""
    from diladiff_cli.stages import distill as stage

    figures = stage.distill(config, prior=prior, latents=latents, data=data, out=out, resume=resume, dry_run=dry_run)
    return _finish(figures, out, dry_run)
