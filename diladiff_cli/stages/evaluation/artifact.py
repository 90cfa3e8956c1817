"""``eval`` of artifacts: every figure with its definition, on held-out text (method section 7)."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diladiff_cli.config import EvalConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.metrics import agreement
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.stages.common import open_recorded_data, path_or_none
from diladiff_cli.stages.evaluation.figures import PARTS, Evaluation, Figures
from diladiff_cli.stages.sampling.sampler import load_sampler, sampling_device

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

BOUND = "mean over masks of L/k * (sum of the NLL of k random positions, all masked together), k ~ U{1..L}"
DEFINITIONS: dict[str, dict[str, str]] = {
    "masked_text": {
        "nats_per_token": f"upper bound per token on -log p(text) of the base, on -log p(text | z) of what is given "
        f"the text's own latent z, and so no bound on the text alone: {BOUND}",
        "perplexity": "exp(nats_per_token)",
        "stderr": "of nats_per_token, over sequences as if they were independent, which those of one document are not",
        "nll": "cross-entropy in nats per masked token, over the same masks",
        "recovery": "share of masked tokens whose most likely token is right, over the same masks",
    },
    "curves": {
        "recovery": "share of masked tokens whose most likely token is right, round(ratio * L) random positions masked",
        "nll": "cross-entropy in nats per masked token, over the same masks",
        "autoencoder": "the decoder given the latent of the clean text",
        "base": "the masked diffusion base, without a latent",
        "noise_latent": "the decoder given a white latent: how good a model it is without help",
    },
    "robustness": {
        "recovery": "as in curves, with z = sqrt(1 - std^2) z_0 + std * eps in standardised units as the latent",
        "nll": "cross-entropy in nats per masked token, over the same masks",
    },
    "latent_agreement": {
        "latent_agreement": agreement.DEFINITION,
        "chance_agreement": agreement.CHANCE_DEFINITION,
        "oracle": "latents of held-out text, as a perfect prior would draw them (larger ones can agree more)",
        "noise": "white latents: the least",
        "guidance": "of a student's prior, that which was distilled",
    },
    "prior_loss": {
        "loss": "mean squared error per entry of the clean estimate, self-conditioned, over uniform times",
        "by_noise": "the same at single noise levels sigma",
        "white": "sigma^2, the least error possible if latents were white noise",
        "share_of_white": "loss / white, averaged over the noise levels; 1 means that nothing was learned",
    },
    "whole_model": {
        "nats_per_token": "as published: (decoder's bound given z - log p(z)) / L, z in standardised units; no bound "
        "on -log p(text), since z is continuous, and for comparing priors of one auto-encoder",
        "stderr": "of nats_per_token, over sequences",
        "decoder_nats_per_token": f"the decoder's part: {BOUND}",
        "latent_nats_per_token": "-log p(z) / L, density of the probability-flow ODE with z at t = 1e-4: RK45 with "
        "tolerances of 1e-5, Hutchinson's estimate with one Rademacher probe, velocity from two calls, the second "
        "self-conditioned",
        "latent_nats_per_entry": "-log p(z) / entries of z; 1.419 for white noise under its own density",
    },
    "teacher_distance": {
        "student_1_steps": "mean squared difference per entry between the student's samples in so many steps, "
        "without noise, and the teacher's in teacher_steps DDIM steps, from the same starting noise",
        "teacher_5_steps": "the same for the teacher itself in 5 DDIM steps",
    },
}


def evaluate_artifact(config: EvalConfig, path: Path | str, *, data: Path | str | None = None) -> dict[str, Any]:
    """Measure an artifact of any stage on the validation split of its data.

    Args:
        config: Amounts of work, seed and precision; its scorer is for samples.
        path: The artifact.
        data: Token data set; None for the one that it was trained on.

    Returns:
        ``path``, ``stage``, ``hash``, ``data``, ``settings``, ``figures``, ``definitions`` (of each figure) and
        ``left_out`` (figure to reason); plain JSON values.

    Raises:
        UserError: The artifact, a parent or the data set is missing, changed or damaged.
    """
    config = replace(config, precision=resolved_precision(config.precision, sampling_device()))
    data = path_or_none(data)
    sampler = load_sampler(path, data=data)
    tokens = open_recorded_data(sampler.artifact, data)
    work = Evaluation(sampler, tokens, config)
    parts = dict(PARTS[sampler.stage])
    left_out = {}
    if sampler.stage == "prior" and config.likelihood == 0:
        del parts["likelihood"]
        left_out["whole_model"] = "--likelihood is 0"
    figures: Figures = {}
    with Bar("evaluating", len(parts)) as bar, autocast(sampler.device, config.precision):
        for name, part in parts.items():
            figures |= part(work)
            bar.update(1, name)
    return {
        "path": str(path),
        "stage": sampler.stage,
        "hash": sampler.artifact.hash,
        "data": {
            "path": str(tokens.path),
            "fingerprint": tokens.fingerprint,
            "split": "valid",
            "sequences": sum(map(len, work.blocks)),
            "length": tokens.length,
        },
        "settings": {name: getattr(config, name) for name in ("batches", "draws", "seed", "precision")},
        "figures": figures,
        "definitions": {name: DEFINITIONS[name] for name in figures},
        "left_out": left_out,
    }


def artifact_table(report: dict[str, Any]) -> "Group":
    """The figures of a report of :func:`evaluate_artifact`, for the terminal."""
    from rich.console import Group
    from rich.text import Text

    figures = report["figures"]
    data = report["data"]
    lines = [f"{report['path']} ({report['stage']}), {data['sequences']} held-out blocks of {data['length']} tokens"]
    lines += [f"{name} left out: {reason}" for name, reason in report["left_out"].items()]
    tables = []
    if "masked_text" in figures:
        tables.append(_by_model("masked text", figures["masked_text"]))
    if "curves" in figures:
        tables.append(_curves(figures["curves"]))
    if "robustness" in figures:
        rows = [[p["std"], p["ratio"], p["recovery"], p["nll"]] for p in figures["robustness"]]
        tables.append(_table("noise on the latent", ["std", "masking ratio", "recovery", "nll"], rows))
    if "prior_loss" in figures:
        rows = [[p["sigma"], p["loss"], p["white"]] for p in figures["prior_loss"]["by_noise"]]
        rows.append(["all times", figures["prior_loss"]["loss"], None])
        tables.append(_table("error of the clean estimate", ["sigma", "loss", "white latent"], rows))
    for name in ("teacher_distance", "whole_model"):
        if name in figures:
            tables.append(_table(name.replace("_", " "), ["figure", "value"], [[*p] for p in figures[name].items()]))
    if "latent_agreement" in figures:
        rows = [[name, v["latent_agreement"], v["chance_agreement"]] for name, v in figures["latent_agreement"].items()]
        tables.append(_table("latent agreement", ["latents", "agreement", "chance"], rows))
    return Group(*tables, Text("\n".join(lines)))


def _by_model(title: str, figures: dict[str, dict[str, Any]]) -> "Table":
    names = list(next(iter(figures.values())))
    return _table(title, ["figure", *figures], [[name, *(f[name] for f in figures.values())] for name in names])


def _curves(curves: dict[str, list[dict[str, Any]]]) -> "Table":
    columns = [f"{figure}, {model.replace('_', ' ')}" for figure in ("recovery", "nll") for model in curves]
    ratios = [point["ratio"] for point in next(iter(curves.values()))]
    rows = [
        [ratio, *(curve[i][figure] for figure in ("recovery", "nll") for curve in curves.values())]
        for i, ratio in enumerate(ratios)
    ]
    return _table("by masking ratio", ["ratio", *columns], rows)


def _table(title: str, columns: list[str], rows: list[list[Any]]) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", min_width=40)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*("-" if v is None else v if isinstance(v, str) else f"{v:.4g}" for v in row))
    return table
