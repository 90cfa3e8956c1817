"""``distill``: the few-step student, DiLaDiff (method section 5)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diladiff_cli.config import DistillConfig
from diladiff_cli.core.gaussian import NoiseLevel, TanSchedule, clean_estimate, diffuse, sampled_velocity, velocity
from diladiff_cli.core.objectives import adaptive_loss, estimates_of_some, meanflow_target
from diladiff_cli.core.ode import average_velocity_steps, guided, jump_times, probability_flow
from diladiff_cli.core.times import logit_normal, ordered_pair
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.runtime.artifacts import Artifact
from diladiff_cli.runtime.isolation import isolated_run
from diladiff_cli.runtime.locks import exclusive_out
from diladiff_cli.runtime.loop import train
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.runtime.precision import settled_for_device
from diladiff_cli.runtime.randomness import BatchRng, generator
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.session import Session
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
)
from diladiff_cli.stages.feature_sources import text_encoder
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.latent_data import encoded_latents, recorded_latents, stored_latents

MIN_TIME = 1e-4  # the velocity is undefined at t = 0
TEACHER_STEPS = 50
NOISE_SEED = 13  # of the samples that are compared; another one for each seed


def draw_times(rng: BatchRng, config: DistillConfig, schedule: TanSchedule) -> tuple[Tensor, Tensor]:
    """(t, r) with r <= t: the published logit-normal law, mixed with other ones.

    Outside jumps some pairs are uniform and some have r = 0; r = t comes last and overrides all of them.
    """
    normal, uniform, choice = rng.normal(2), rng.uniform(2), rng.uniform(3)
    first = logit_normal(normal, config.time_mean, config.time_std)
    pair = torch.where(choice[:, :1] < config.p_uniform, uniform, first)
    t, r = ordered_pair(pair[:, 0], pair[:, 1])
    r = torch.where(choice[:, 1] < config.p_zero, torch.zeros_like(r), r)
    if config.p_jumps:
        draws = rng.uniform(4)
        jumping, (inside, end) = draws[:, 3] < config.p_jumps, jump_times(schedule, draws[:, :3])
        t, r = torch.where(jumping, inside, t), torch.where(jumping, end, r)
    t = t.clamp(min=MIN_TIME)
    return t, torch.where(choice[:, 2] < config.p_equal, t, torch.minimum(r, t))


@torch.no_grad()
def teacher_velocity(
    teacher: LatentPrior, z_t: Tensor, t: Tensor, level: NoiseLevel, guidance: float = 0.0, eps: Tensor | None = None
) -> Tensor:
    """Velocity at z_t by the teacher's clean estimate of two calls, the second self-conditioned on the first.

    Args:
        teacher: The frozen prior.
        z_t: (B, N, C) noisy latents.
        t: (B,) their times.
        level: The schedule at t.
        guidance: How far the second estimate is pushed away from the first.
        eps: (B, N, C) the noise in z_t, with which the published listing goes on from the estimate; None for the
            velocity of the teacher's ODE, which takes the noise that the estimate leaves in z_t.
    """
    plain = teacher(z_t, t, torch.zeros_like(z_t))
    estimate = guided(teacher(z_t, t, plain), plain, guidance)
    return velocity(z_t, estimate, level) if eps is None else sampled_velocity(estimate, eps, level)


@dataclass(frozen=True)
class MeanFlowLoss:
    """MeanFlow distillation of a latent prior (method section 5).

    Attributes:
        to_latents: Fetched batch -> standardised latents.
        teacher: The frozen prior.
        config: Laws of times, tangent warm-up, self-conditioning, guidance of the teacher, loss weight.
    """

    to_latents: Callable[[Tensor], Tensor]
    teacher: LatentPrior
    config: DistillConfig

    def __call__(self, model: nn.Module, batch: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
        """The adaptive loss, and the plain squared error per entry."""
        z_0 = self.to_latents(batch)
        t, r = draw_times(rng, self.config, self.teacher.schedule)
        level = self.teacher.schedule(t)
        eps = rng.normal(*z_0.shape[1:])
        z_t = diffuse(z_0, eps, level)
        sampled = eps if self.config.velocity == "sampled" else None
        v = teacher_velocity(self.teacher, z_t, t, level, self.config.guidance, sampled)
        u, du_dt = model(z_t, t, r, self._self_condition(model, z_t, t, rng), v)
        target = meanflow_target(v, t, r, du_dt, self._tangent_scale(rng.step))
        losses, squared = adaptive_loss(u, target, self.config.adaptive_constant)
        return losses.mean(), {"squared_error": squared.mean() / z_0[0].numel()}

    def _tangent_scale(self, step: int) -> float:
        warmup = self.config.tangent_warmup_steps
        return min(1.0, step / warmup) if warmup else 1.0

    def _self_condition(self, model: nn.Module, z_t: Tensor, t: Tensor, rng: BatchRng) -> Tensor:
        if self.config.p_self_cond == 0:
            return torch.zeros_like(z_t)

        def estimate(z: Tensor, time: Tensor) -> Tensor:
            return clean_estimate(z, model(z, time, time, torch.zeros_like(z)), self.teacher.schedule(time))

        return estimates_of_some(estimate, rng.some(self.config.p_self_cond), z_t, t)


def student_flops(student: LatentStudent, latents: int, config: DistillConfig) -> float:
    """Operations of a training step per text.

    Two calls of the teacher, the jvp's two passes with the gradient's two, and one for those self-conditioned.
    """
    return (6 + config.p_self_cond) * trunk_flops(student.trunk, latents)


class TeacherSamples(NamedTuple):
    """What the samples of a student are compared with.

    Attributes:
        z: (B, N, C) starting noise.
        wanted: (B, N, C) the teacher's samples from it, in :data:`TEACHER_STEPS` steps.
        distance: Mean squared distance per entry between these and the teacher's in five steps.
    """

    z: Tensor
    wanted: Tensor
    distance: float


@torch.no_grad()
def teacher_samples(
    teacher: LatentPrior, shape: tuple[int, ...], device: torch.device, guidance: float = 0.0, seed: int = 0
) -> TeacherSamples:
    """Samples of the teacher's (guided) ODE; always the same ones for a teacher, shape (B, N, C), device and seed."""
    source = generator(device, NOISE_SEED + seed)
    z = torch.randn(shape, generator=source, dtype=torch.float32, device=device)
    drawn = partial(probability_flow, teacher, z, teacher.schedule, guidance=guidance)
    wanted, few = drawn(TEACHER_STEPS), drawn(5)
    return TeacherSamples(z, wanted, float((few - wanted).square().mean()))


@torch.no_grad()
def student_figures(student: nn.Module, schedule: TanSchedule, teacher: TeacherSamples) -> dict[str, float]:
    """Mean squared distance per entry between few-step samples of the student and the teacher's from the same noise.

    ``teacher_5_steps`` is that of the teacher itself in 5 DDIM steps.
    """
    figures = dict[str, float]()
    for steps in (1, 2, 5):
        z_0 = average_velocity_steps(student, teacher.z, schedule, steps)
        figures[f"student_{steps}_steps"] = float((z_0 - teacher.wanted).square().mean())
    return figures | {"teacher_5_steps": teacher.distance}


def compile_networks(teacher: LatentPrior, config: DistillConfig, student: LatentStudent) -> None:
    """Compile what a step runs: teacher, self-conditioning, and the student with its derivative."""
    compile_method("forward", teacher.trunk, dynamic=False)
    if config.p_self_cond:
        compile_method("forward", student.trunk, dynamic=False)
    compile_method("along_ode", student, dynamic=False)


@exclusive_out
@isolated_run
def distill(
    config: DistillConfig,
    *,
    prior: Path | str,
    latents: Path | str | None = None,
    data: Path | str | None = None,
    out: Path | str,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Distil a prior into a few-step student and write its artifact.

    Args:
        config: Objective and optimisation.
        prior: Artifact of ``train-prior``.
        latents: Folder of ``encode --ae``; None for the one that the prior was trained on, unless ``data`` is given.
            Where there is none, texts are encoded on the fly.
        data: Token data set; None for the one that the prior was trained on.
        out: Folder of the artifact.
        resume: Continue, start over, or (None) continue an unfinished identical run.
        dry_run: Only check the inputs.

    Returns:
        The last validation's figures, or the plan of a dry run.

    Raises:
        UserError: Unusable inputs.
    """
    prior, latents, data, out = Path(resolved(prior)), path_or_none(latents), path_or_none(data), Path(out)
    config = settled_for_device(config, out, resume)
    parent: Artifact = load_parent(prior, "prior")
    ae = parent.parent("ae")
    tokens = open_recorded_data(parent, data)
    if latents is None and data is None:
        latents = recorded_latents(parent, ae, tokens, out, resume)
    if latents is None:
        source = encoded_latents(text_encoder(ae, build(ae), "cpu"), tokens)
    else:
        source = stored_latents(ae, tokens, latents)
    artifact = child_fields("student", parent.network, out, {"prior": parent, "ae": ae}, tokens, latents)
    if dry_run:
        return plan(artifact, config, out, resume)
    session = Session(config, out)
    source.to(session.device)
    teacher: LatentPrior = build(parent, session.device)
    with seeded(config.seed):
        model = LatentStudent(**parent.network)
    model.load_state_dict(teacher.state_dict(), strict=False)
    if config.p_self_cond == 0:
        model.trunk.ignore_estimates()
    use_plain_attention(model)
    shape = (256, parent.network["latents"], parent.network["latent_width"])
    drawn = cache(partial(teacher_samples, teacher, shape, session.device, config.guidance))  # once for all validations
    run = Run(
        model=model,
        loss_fn=MeanFlowLoss(source.to_latents, teacher, config),
        fetch=source.fetch,
        tokens_per_row=tokens.length,
        flops_per_row=student_flops(model, parent.network["latents"], config),
        validate=lambda average: student_figures(average, teacher.schedule, drawn()),
        artifact=artifact,
        row_order=row_order(config, source.rows),
        compile_body=partial(compile_networks, teacher, config),
    )
    return train(run, session, config, out, resume)
