"""``train-ae``: encoder and latent-conditioned decoder (method section 3)."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from diladiff_cli.config import AeConfig
from diladiff_cli.core.augment import augment_features, augment_latents
from diladiff_cli.core.objectives import masked_nll
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.likelihood import masked_figures
from diladiff_cli.metrics.recovery import recovery_curve
from diladiff_cli.networks.autoencoder import AutoEncoder, Corruption, load_base_weights
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import FeatureSource
from diladiff_cli.networks.moments import RunningMoments
from diladiff_cli.notes import is_main_process
from diladiff_cli.runtime.artifacts import Artifact
from diladiff_cli.runtime.isolation import isolated_run
from diladiff_cli.runtime.locks import exclusive_out
from diladiff_cli.runtime.loop import train
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.runtime.optim import LrOverride
from diladiff_cli.runtime.precision import settled_for_device
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.runtime.run import LossFn, Run
from diladiff_cli.runtime.session import Session
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.common import (
    child_fields,
    compile_method,
    linear_flops,
    load_parent,
    open_recorded_data,
    path_or_none,
    plan,
    row_order,
    seeded,
    validation_batches,
)
from diladiff_cli.stages.feature_sources import check_same_vocabulary, feature_source, recorded_source
from diladiff_cli.stages.from_artifacts import build, own_arguments
from diladiff_cli.stages.masked_logits import autoencoder_logits, base_logits
from diladiff_cli.stages.train_mdlm import denoiser_flops, masked_batch

MOMENT_ROWS = 4096  # blocks, at most, for the statistics of features and final latents


def network_arguments(config: AeConfig, base: Artifact, feature_width: int) -> dict[str, Any]:
    """The auto-encoder's keyword arguments.

    Raises:
        ConfigError: The latents do not divide the text, or a cross-attention layer does not exist.
    """
    length, width, heads = base.network["length"], base.network["width"], base.network["heads"]
    encoder_width, problems = config.encoder_width or width, []
    if length % config.compression:
        problems.append(f"--compression {config.compression} does not divide the length {length}; choose a divisor")
    if encoder_width % (2 * heads):
        problems.append(f"--encoder-width {encoder_width} is not a multiple of twice {heads} heads; change it")
    try:
        cross = list(config.cross_layer_indices(base.network["layers"]))
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(problems)
    latents = {"latents": length // config.compression, "latent_width": config.latent_width}
    shared = latents | {"length": length, "local_attention": config.local_attention}
    encoder = {"feature_width": feature_width, "width": encoder_width, "layers": config.encoder_layers, "heads": heads}
    return {
        "encoder": encoder | shared,
        "decoder": base.network | shared | {"cross_layers": cross},
        "stats_momentum": config.stats_momentum,
    }


def corruption(rng: BatchRng, moments: RunningMoments, strengths: Mapping[str, float], unit: str) -> Corruption:
    """The latent augmentation of one micro-batch, with its random numbers drawn."""
    latents, channels = moments.mean.shape
    first, drop = rng.uniform() < 0.5, rng.uniform()
    uniform = rng.uniform(latents, channels if unit == "element" else 1)
    normal = rng.normal(latents, channels)

    def corrupt(z: Tensor) -> tuple[Tensor, Tensor]:
        return augment_latents(
            z,
            first=first,
            drop=drop,
            uniform=uniform,
            noise=normal,
            mean=moments.mean,
            std=moments.std(),
            p_latent_drop=strengths["p_latent_drop"],
            p_latent_mask=strengths["p_latent_mask"],
            unit=unit,
        )

    return corrupt


def ae_loss(source: FeatureSource, autoencoder: AutoEncoder, config: AeConfig, mask_id: int) -> LossFn:
    """Masked cross-entropy through augmented features and latents (method section 3)."""
    strengths = config.augmentation_strengths()
    unit = config.mask_unit

    def loss_fn(model: nn.Module, x: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
        features = autoencoder.feature_moments.standardise(source(x))
        length, width = features.shape[1:]
        features, visible = augment_features(
            features,
            first=rng.uniform() < 0.5,
            uniform=rng.uniform(length, width if unit == "element" else 1),
            noise=rng.normal(length, width),
            sigma_feat=strengths["sigma_feat"],
            p_feat_mask=strengths["p_feat_mask"],
            unit=unit,
        )
        x_t, is_masked, _ = masked_batch(x, rng, mask_id)
        corrupt = corruption(rng, autoencoder.latent_moments, strengths, unit)
        nll = model(features, visible, x_t, is_masked, corrupt, x[is_masked])
        return masked_nll(nll, torch.ones_like(nll), x.numel()), {}

    return loss_fn


@torch.no_grad()
def fit_feature_moments(
    source: FeatureSource,
    moments: RunningMoments,
    batches: Sequence[Tensor],
    device: torch.device,
    on_batch: Callable[[Tensor], None],
) -> None:
    """Per-channel statistics of the features, over the same batches in every process; ``on_batch`` is told of each."""
    moments.reset()
    for x in batches:
        moments.collect(source(x.to(device)))
        on_batch(x)
    moments.commit(shared=False)


@torch.no_grad()
def fit_latent_moments(
    source: FeatureSource, autoencoder: AutoEncoder, batches: Sequence[Tensor], device: torch.device
) -> None:
    """Statistics of clean latents under the final, averaged encoder: the ones that later stages use."""
    moments = autoencoder.latent_moments
    moments.reset()
    for x in batches:
        moments.collect(autoencoder.encoder(autoencoder.feature_moments.standardise(source(x.to(device)))))
    moments.commit(shared=False)


class BaseFigures(NamedTuple):
    """What the base alone reaches on the validation blocks, beside which an auto-encoder is seen."""

    nll: float
    curve: list[dict[str, Any]]


@torch.no_grad()
def base_figures(base: TokenDenoiser, batches: Sequence[Tensor], mask_id: int) -> BaseFigures:
    """NLL in nats per masked token, and the curve against the masking ratio."""
    logits_for = base_logits(base)
    nll = masked_figures(logits_for, batches, mask_id)["nll"]
    return BaseFigures(nll, recovery_curve(logits_for, batches, mask_id))


@torch.no_grad()
def ae_figures(
    autoencoder: AutoEncoder, source: FeatureSource, base: BaseFigures, batches: Sequence[Tensor], mask_id: int
) -> dict[str, Any]:
    """NLL, bound and recovery with the latent, and curves against the masking ratio of three models.

    ``curves`` has the auto-encoder, its base, and the decoder with noise in place of the latent.
    """
    logits_for, without = (autoencoder_logits(autoencoder, source, noise=noise) for noise in (0.0, 1.0))
    curves = {
        "autoencoder": recovery_curve(logits_for, batches, mask_id),
        "base": base.curve,
        "noise_latent": recovery_curve(without, batches, mask_id),
    }
    figures: dict[str, Any] = masked_figures(logits_for, batches, mask_id) | {"base_nll": base.nll}
    for name, curve in curves.items():
        figures[f"recovery_all_masked_{name}"] = curve[-1]["recovery"]
    return figures | {"curves": curves}


def autoencoder_flops(model: AutoEncoder, source: FeatureSource) -> float:
    """Operations of a training step per text: features forward only, and no gradient for a frozen vocabulary head."""
    decoder = model.decoder
    trained = 3 * (denoiser_flops(decoder) + linear_flops(model.encoder, model.latent_shape[0]))
    frozen_head = decoder.vocab_size * decoder.width * decoder.length if decoder.head is None else 0.0
    return trained - frozen_head + linear_flops(source, decoder.length)


def lr_overrides(config: AeConfig) -> Callable[[str], LrOverride]:
    """The pre-trained decoder weights warm up more slowly than encoder and cross-attention."""
    pretrained = LrOverride(config.decoder_lr_ratio, config.decoder_warmup_steps)

    def override(name: str) -> LrOverride:
        return pretrained if name.startswith("decoder.") and ".cross." not in name else LrOverride()

    return override


def compile_decoder(autoencoder: AutoEncoder) -> None:
    """Compile what is most of a step, in place."""
    compile_method("body", autoencoder.decoder)


@exclusive_out
@isolated_run
def train_ae(
    config: AeConfig,
    *,
    base: Path | str,
    data: Path | str | None = None,
    out: Path | str,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Fine-tune a base into an auto-encoder and write its artifact.

    Args:
        config: Network, augmentation and optimisation.
        base: Artifact of ``train-mdlm``.
        data: Token data set; None for the one that the base was trained on.
        out: Folder of the artifact.
        resume: Continue, start over, or (None) continue an unfinished identical run.
        dry_run: Only check the inputs.

    Returns:
        The last validation's figures, or the plan of a dry run.

    Raises:
        UserError: Unusable inputs, or a single training block.
        ConfigError: Settings that do not fit the base.
    """
    base, data, out = Path(resolved(base)), path_or_none(data), Path(out)
    config = settled_for_device(config, out, resume)
    parent = load_parent(base, "mdlm")
    tokens = open_recorded_data(parent, data)
    if config.features != "self":
        check_same_vocabulary(config.features, tokens.path)
    source = feature_source(config.features, parent, "cpu")
    network = recorded_source(config.features, source, out) | network_arguments(config, parent, source.width)
    artifact = child_fields("ae", network, out, {"mdlm": parent}, tokens)
    if len(tokens.split("train")) < 2:
        raise UserError(f"{tokens.path} has a single training block, whose latent has no spread", "encode more text")
    if dry_run:
        return plan(artifact, config, out, resume)
    session = Session(config, out)
    device = session.device
    source = source.to(device)
    with seeded(config.seed):
        model = AutoEncoder(**own_arguments(network))
    model.to(device)
    base_network = build(parent, device)
    load_base_weights(model.decoder, base_network.state_dict())
    split = tokens.split("train")
    order = row_order(config, len(split))
    measured = min(MOMENT_ROWS, len(split))
    rows = np.concatenate([order(drawn) for drawn in range(0, measured, config.batch_size)])[:measured]
    samples = [split.gather(part) for part in np.array_split(rows, -(-len(rows) // 64))]
    if all(bool((part == samples[0][0]).all()) for part in samples):
        raise UserError(f"the training blocks of {tokens.path} are all alike, and so are latents", "encode other text")

    def measure_features() -> None:
        with Bar("measuring the features", len(rows), enabled=is_main_process()) as bar:
            fit_feature_moments(source, model.feature_moments, samples, device, lambda x: bar.update(len(x), ""))

    batches = validation_batches(tokens, config, device)
    of_base = cache(partial(base_figures, base_network, batches, tokens.mask_id))  # once for all validations
    run = Run(
        model=model,
        loss_fn=ae_loss(source, model, config, tokens.mask_id),
        fetch=split.gather,
        tokens_per_row=tokens.length,
        flops_per_row=autoencoder_flops(model, source),
        validate=lambda average: ae_figures(average, source, of_base(), batches, tokens.mask_id),
        artifact=artifact,
        row_order=order,
        lr_override=lr_overrides(config),
        prepare=measure_features,
        after_step=lambda bare: bare.latent_moments.commit(),
        before_use=lambda average: fit_latent_moments(source, average, samples, device),
        compile_body=compile_decoder,
    )
    return train(run, session, config, out, resume)
