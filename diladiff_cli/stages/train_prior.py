"""``train-prior``: the latent diffusion prior, LaDiff (method section 4)."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.config import PriorConfig
from diladiff_cli.core.gaussian import TanSchedule, diffuse
from diladiff_cli.core.objectives import estimates_of_some, per_example_mse
from diladiff_cli.core.times import low_discrepancy
from diladiff_cli.networks.latent import LatentPrior
from diladiff_cli.runtime.artifacts import Artifact
from diladiff_cli.runtime.isolation import isolated_run
from diladiff_cli.runtime.locks import exclusive_out
from diladiff_cli.runtime.loop import train
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.runtime.precision import settled_for_device
from diladiff_cli.runtime.randomness import BatchRng, generator
from diladiff_cli.runtime.run import LossFn, Run
from diladiff_cli.runtime.session import Session
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.common import (
    child_fields,
    compile_method,
    load_parent,
    open_recorded_data,
    path_or_none,
    plan,
    row_order,
    seeded,
    trunk_flops,
    validation_batches,
)
from diladiff_cli.stages.feature_sources import text_encoder
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.latent_data import data_of, encoded_latents, maker_of, stored_latents

NOISE_SEED = 11  # of the noise in validation; another one for each seed
NOISE_LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)  # sigma


def network_arguments(config: PriorConfig, ae: Artifact) -> dict[str, Any]:
    """The prior's keyword arguments."""
    encoder = ae.network["encoder"]
    return {
        "schedule_d": config.schedule_d,
        "latents": encoder["latents"],
        "latent_width": encoder["latent_width"],
        "width": config.width,
        "layers": config.layers,
        "heads": config.heads,
        "positions": config.positions,
    }


def prior_loss(to_latents: Callable[[Tensor], Tensor], schedule: TanSchedule, p_self_cond: float) -> LossFn:
    """Mean squared error to z_0, a share ``p_self_cond`` of the examples with self-conditioning (method section 4)."""

    def loss_fn(model: nn.Module, batch: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
        z_0 = to_latents(batch)
        t = low_discrepancy(rng.shared_uniform(), rng.positions, rng.batch_size)
        z_t = diffuse(z_0, rng.normal(*z_0.shape[1:]), schedule(t))
        z_self = torch.zeros_like(z_0)
        if p_self_cond > 0:
            z_self = estimates_of_some(partial(_alone, model), rng.some(p_self_cond), z_t, t)
        losses = per_example_mse(model(z_t, t, z_self), z_0)
        return losses.mean(), {}

    return loss_fn


def prior_flops(prior: LatentPrior, latents: int, config: PriorConfig) -> float:
    """Operations of a training step per text: the gradient's three passes, and one for those self-conditioned."""
    return (3 + config.p_self_cond) * trunk_flops(prior.trunk, latents)


def _alone(model: nn.Module, z_t: Tensor, t: Tensor) -> Tensor:
    """The estimate without self-conditioning."""
    z_0: Tensor = model(z_t, t, torch.zeros_like(z_t))
    return z_0


@torch.no_grad()
def prior_figures(model: nn.Module, schedule: TanSchedule, latents: Sequence[Tensor], seed: int = 0) -> dict[str, Any]:
    """Mean squared error by noise level, with self-conditioning, beside that of a white latent.

    For white latents of unit variance the best estimate has the error sigma^2 at noise level sigma.

    Args:
        model: The denoiser.
        schedule: Noise schedule.
        latents: Batches (B, N, C) of standardised latents.
        seed: Of the noise on them.

    Returns:
        ``by_noise``: sigma, time, loss, white; ``loss``: mean over low-discrepancy times; ``share_of_white``: loss over
        sigma^2, averaged over the levels.
    """
    by_noise = []
    for sigma in NOISE_LEVELS:
        time = float(schedule.time_of_alpha(torch.tensor((1 - sigma**2) ** 0.5, dtype=torch.float64)))
        t_of = [torch.full((len(z_0),), time, dtype=torch.float32, device=z_0.device) for z_0 in latents]
        loss = _mean_error(model, schedule, latents, t_of, seed)
        by_noise.append({"sigma": sigma, "time": time, "loss": loss, "white": sigma**2})
    rows = sum(map(len, latents))
    times = low_discrepancy(0.5 / rows, torch.arange(rows, device=latents[0].device), rows).float()
    spread = torch.split(times, [len(z_0) for z_0 in latents])  # over all batches, however small each is
    ratios = [level["loss"] / level["white"] for level in by_noise]
    loss = _mean_error(model, schedule, latents, spread, seed)
    return {"loss": loss, "share_of_white": sum(ratios) / len(ratios), "by_noise": by_noise}


def _mean_error(
    model: nn.Module, schedule: TanSchedule, latents: Sequence[Tensor], times: Sequence[Tensor], seed: int
) -> float:
    total = rows = 0.0
    for number, (z_0, t) in enumerate(zip(latents, times, strict=True)):
        source = generator(z_0.device, NOISE_SEED + seed, number)
        eps = torch.randn(z_0.shape, generator=source, dtype=torch.float32, device=z_0.device)
        z_t = diffuse(z_0, eps, schedule(t))
        z_self = _alone(model, z_t, t)
        total += float(per_example_mse(model(z_t, t, z_self), z_0).sum())
        rows += len(z_0)
    return total / rows


def compile_trunk(prior: LatentPrior) -> None:
    """Compile what is most of a step, in place, for each of two sizes: whole batches, and what gets an estimate."""
    compile_method("forward", prior.trunk, dynamic=False)


@exclusive_out
@isolated_run
def train_prior(
    config: PriorConfig,
    *,
    ae: Path | str | None = None,
    latents: Path | str | None = None,
    data: Path | str | None = None,
    out: Path | str,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Train the latent prior and write its artifact.

    Args:
        config: Network and optimisation.
        ae: Artifact of ``train-ae``; None for the one that made the latents.
        latents: Folder of ``encode --ae``; None encodes on the fly.
        data: Token data set; None for the one that the latents, or else the auto-encoder, record.
        out: Folder of the artifact.
        resume: Continue, start over, or (None) continue an unfinished identical run.
        dry_run: Only check the inputs.

    Returns:
        The last validation's figures, or the plan of a dry run.

    Raises:
        UserError: Unusable inputs.
        ConfigError: Neither an auto-encoder nor latents.
    """
    latents, data, out = path_or_none(latents), path_or_none(data), Path(out)
    if ae is None:
        if latents is None:
            raise ConfigError(["--ae is missing; name an auto-encoder, or --latents that one has made"])
        ae = maker_of(latents)
    config = settled_for_device(config, out, resume)
    parent = load_parent(Path(resolved(ae)), "ae")
    if data is None and latents is not None:
        data = data_of(latents)
    tokens = open_recorded_data(parent, data)
    network = network_arguments(config, parent)
    encoder = text_encoder(parent, build(parent), "cpu")
    source = stored_latents(parent, tokens, latents) if latents else encoded_latents(encoder, tokens)
    artifact = child_fields("prior", network, out, {"ae": parent}, tokens, latents)
    if dry_run:
        return plan(artifact, config, out, resume)
    session = Session(config, out)
    encoder.to(session.device)
    with seeded(config.seed):
        model = LatentPrior(**network)
    if config.p_self_cond == 0:
        model.trunk.ignore_estimates()
    valid = [encoder(x) for x in validation_batches(tokens, config, session.device)]
    run = Run(
        model=model,
        loss_fn=prior_loss(source.to_latents, model.schedule, config.p_self_cond),
        fetch=source.fetch,
        tokens_per_row=tokens.length,
        flops_per_row=prior_flops(model, network["latents"], config),
        validate=lambda average: prior_figures(average, model.schedule, valid),
        artifact=artifact,
        row_order=row_order(config, source.rows),
        compile_body=compile_trunk,
    )
    return train(run, session, config, out, resume)
