"""The figures of artifacts: what each is computed from (method section 7)."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.config import EvalConfig, SampleConfig
from diladiff_cli.core.gaussian import velocity
from diladiff_cli.data.tokens import TokenData
from diladiff_cli.metrics.agreement import agreement_figures
from diladiff_cli.metrics.likelihood import MaskedStatistics, Velocity, bound_report, masked_statistics, ode_log_density
from diladiff_cli.metrics.recovery import LogitsFor, recovery_curve
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.artifacts import Artifact
from diladiff_cli.runtime.randomness import SampleRng, generator
from diladiff_cli.stages.common import logits_batch
from diladiff_cli.stages.distill import TEACHER_STEPS, student_figures, teacher_samples
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.masked_logits import autoencoder_logits, base_logits
from diladiff_cli.stages.sampling.sample import decode, draw_latents
from diladiff_cli.stages.sampling.sampler import Sampler
from diladiff_cli.stages.sampling.settings import complete
from diladiff_cli.stages.train_prior import prior_figures

SEQUENCES, LATENTS = 16, 4  # per unit of ``batches``: blocks of text, and latents that are decoded twice
NOISE_STDS = (0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 1.0)
NOISE_RATIOS = (0.5, 1.0)
PRIOR_STEPS, STUDENT_STEPS = 50, (1, 2, 5)

Figures = dict[str, Any]
Part = Callable[["Evaluation"], Figures]


@dataclass(frozen=True)
class Evaluation:
    """One artifact, the text to measure it on, and how.

    Attributes:
        sampler: The networks.
        tokens: The data set whose validation split is used.
        config: Amount of work, in units of ``SEQUENCES`` blocks and ``LATENTS`` latents, and so on; its precision is
            "fp32", or "bf16" for autocast.
    """

    sampler: Sampler
    tokens: TokenData
    config: EvalConfig

    @property
    def artifact(self) -> Artifact:
        """The artifact under evaluation."""
        return self.sampler.artifact

    @property
    def network(self) -> Any:
        """The prior or student."""
        return self.sampler.latent

    @cached_property
    def oracle(self) -> Sampler:
        """The sampler whose latents are those of held-out text."""
        return replace(self.sampler, latent=None)

    def text(self, sequences: int) -> list[Tensor]:
        """Up to ``sequences`` validation blocks, spread evenly over the split, in batches whose logits fit."""
        split = self.tokens.split("valid")
        rows = np.unique(np.linspace(0, len(split) - 1, min(sequences, len(split))).round().astype(np.int64))
        size = min(SEQUENCES, logits_batch(self.tokens))
        return [split.gather(rows[i : i + size]).to(self.sampler.device) for i in range(0, len(rows), size)]

    @cached_property
    def blocks(self) -> list[Tensor]:
        """The text of all figures but that of the whole model."""
        return self.text(self.config.batches * SEQUENCES)

    @cached_property
    def latents(self) -> list[Tensor]:
        """Standardised latents of :attr:`blocks`."""
        return [self.oracle.encoder(x) for x in self.blocks]

    @cached_property
    def models(self) -> dict[str, LogitsFor]:
        """What predicts masked tokens: of an auto-encoder also its base, and its decoder without a useful latent."""
        if self.sampler.autoencoder is None:
            return {"base": base_logits(self.sampler.decoder)}
        autoencoder, source = self.sampler.autoencoder, self.oracle.encoder.features
        return {
            "autoencoder": autoencoder_logits(autoencoder, source),
            "base": base_logits(self.sampler.base_in("fp32")),
            "noise_latent": autoencoder_logits(autoencoder, source, noise=1.0, seed=self.config.seed),
        }

    def statistics(self, logits_for: LogitsFor, blocks: list[Tensor]) -> MaskedStatistics:
        """What a model makes of masked text."""
        return masked_statistics(logits_for, blocks, self.tokens.mask_id, self.config.draws, self.config.seed)

    def sampling(self, steps: int = 0) -> SampleConfig:
        """How two texts are drawn from each of some latents, as they are: without a model's own factor."""
        pairs = min(self.config.batches * LATENTS, len(self.oracle.held_out))
        drawn_with: dict[str, Any] = {"seed": self.config.seed, "precision": self.config.precision, "latent_scale": 1.0}
        config = SampleConfig(n=2 * pairs, steps=steps, decodings=2, **drawn_with)
        return complete(self.sampler if steps else self.oracle, config)


def masked_text(work: Evaluation) -> Figures:
    """Likelihood bound, NLL and recovery over uniform masking ratios."""
    by_model = {}
    for name, logits_for in work.models.items():
        statistics = work.statistics(logits_for, work.blocks)
        by_model[name] = statistics.bound() | {"nll": statistics.nll, "recovery": statistics.recovery}
    return {"masked_text": by_model}


def curves(work: Evaluation) -> Figures:
    """Recovery and NLL against the masking ratio."""
    mask_id, seed = work.tokens.mask_id, work.config.seed
    return {"curves": {name: recovery_curve(f, work.blocks, mask_id, seed=seed) for name, f in work.models.items()}}


def robustness(work: Evaluation) -> Figures:
    """Recovery against the noise on the latent."""
    autoencoder, source = work.sampler.require_autoencoder(), work.oracle.encoder.features
    rows: list[dict[str, Any]] = []
    for std in NOISE_STDS:
        logits_for = autoencoder_logits(autoencoder, source, noise=std, seed=work.config.seed)
        curve = recovery_curve(logits_for, work.blocks, work.tokens.mask_id, NOISE_RATIOS, work.config.seed)
        rows += [{"std": std} | point for point in curve]
    return {"robustness": rows}


def agreement(
    work: Evaluation, sampler: Sampler, steps: int = 0, white: bool = False, guidance: float = 0.0
) -> Figures:
    """Agreement of two texts from each latent of a sampler, or of white noise; ``guidance`` is that of a prior."""
    config = replace(work.sampling(steps), guidance=guidance)
    indices = range(config.n // config.decodings)
    if white:
        rng = SampleRng(work.config.seed, indices)
        z_0 = rng.normal(rng.START, *sampler.require_autoencoder().latent_shape)
    else:
        z_0 = draw_latents(sampler, indices, config)
    tokens = decode(sampler, range(config.n), config, z_0.repeat_interleave(config.decodings, 0))
    settings = {"steps": steps or None, "decode_steps": config.decode_steps, "top_p": config.top_p}
    if isinstance(sampler.latent, LatentStudent):
        settings["gamma"] = config.gamma
    if isinstance(sampler.latent, LatentPrior):
        settings["guidance"] = guidance
    return agreement_figures(tokens.reshape(len(indices), config.decodings, -1)) | settings


def oracle_agreement(work: Evaluation) -> Figures:
    """Agreement of texts from latents of real text, and from latents that carry nothing."""
    return {
        "latent_agreement": {
            "oracle": agreement(work, work.oracle),
            "noise": agreement(work, work.oracle, white=True),
        }
    }


def prior_agreement(work: Evaluation) -> Figures:
    """Agreement of texts from the prior's latents, beside the oracle's."""
    by_latents = {f"prior, {PRIOR_STEPS} steps": agreement(work, work.sampler, PRIOR_STEPS)}
    return {"latent_agreement": by_latents | oracle_agreement(work)["latent_agreement"]}


def student_agreement(work: Evaluation) -> Figures:
    """Agreement of texts from the student's latents, beside those of its prior and the oracle."""
    by_latents = {f"student, {m} steps": agreement(work, work.sampler, m) for m in STUDENT_STEPS}
    teacher = replace(work.sampler, latent=build(work.artifact.parent("prior"), work.sampler.device))
    guidance = work.artifact.training["guidance"]
    by_latents |= {f"prior, {PRIOR_STEPS} steps": agreement(work, teacher, PRIOR_STEPS, guidance=guidance)}
    return {"latent_agreement": by_latents | oracle_agreement(work)["latent_agreement"]}


def prior_loss(work: Evaluation) -> Figures:
    """Error of the clean estimate by noise level."""
    prior: LatentPrior = work.network
    return {"prior_loss": prior_figures(prior, prior.schedule, work.latents, work.config.seed)}


def prior_velocity(prior: LatentPrior) -> Velocity:
    """The prior's probability-flow velocity as a function of z_t alone: two calls, the second self-conditioned."""

    def of(z_t: Tensor, t: Tensor) -> Tensor:
        estimate = prior(z_t, t, prior(z_t, t, torch.zeros_like(z_t)))
        return velocity(z_t, estimate, prior.schedule(t))

    return of


def whole_model(work: Evaluation) -> Figures:
    """The decoder's bound and the prior's density of its latents together, per token, which is not a likelihood."""
    prior: LatentPrior = work.network
    text = work.text(work.config.likelihood)
    decoder = work.statistics(work.models["autoencoder"], text)
    probe = generator(torch.device("cpu"), work.config.seed)
    with torch.autocast(work.sampler.device.type, enabled=False):
        densities = [ode_log_density(prior_velocity(prior), work.oracle.encoder(x), generator=probe) for x in text]
    density = torch.cat(densities)  # (S,)
    length = work.tokens.length
    report = bound_report(decoder.nats - density, length, work.config.draws)
    del report["perplexity"]  # of what is not a likelihood
    return {
        "whole_model": report
        | {
            "decoder_nats_per_token": float(decoder.nats.mean()) / length,
            "latent_nats_per_token": -float(density.mean()) / length,
            "latent_nats_per_entry": -float(density.mean())
            / math.prod(work.sampler.require_autoencoder().latent_shape),
        }
    }


def teacher_distance(work: Evaluation) -> Figures:
    """Squared distance per entry between the student's samples and the teacher's from the same noise."""
    student: LatentStudent = work.network
    device = work.sampler.device
    teacher = build(work.artifact.parent("prior"), device)
    shape = (work.config.batches * SEQUENCES, *work.sampler.require_autoencoder().latent_shape)
    guidance = work.artifact.training["guidance"]
    wanted = teacher_samples(teacher, shape, device, guidance, work.config.seed)
    figures = student_figures(student, teacher.schedule, wanted)
    return {"teacher_distance": figures | {"samples": shape[0], "teacher_steps": TEACHER_STEPS}}


PARTS: dict[str, dict[str, Part]] = {
    "mdlm": {"likelihood": masked_text, "recovery": curves},
    "ae": {
        "likelihood": masked_text,
        "recovery": curves,
        "latent noise": robustness,
        "latent agreement": oracle_agreement,
    },
    "prior": {"loss": prior_loss, "latent agreement": prior_agreement, "likelihood": whole_model},
    "student": {"distance": teacher_distance, "latent agreement": student_agreement},
}
