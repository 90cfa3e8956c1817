"""What the settings of ``sample`` come to for a model: filled in, refused, remarked on."""

import math
from dataclasses import replace
from typing import Any

from diladiff_cli import __version__
from diladiff_cli.config import ENDS, SampleConfig, choice_in_use, unusual
from diladiff_cli.core.ode import MAX_JUMPS
from diladiff_cli.core.unmask import ADAPTIVE_ORDERS, BLIND_ORDERS
from diladiff_cli.integrity import json_hash, short_hash
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.precision import has_fast_bf16, resolved_precision
from diladiff_cli.settings import ConfigError, flag, shown
from diladiff_cli.stages.sampling.prompts import given_problems, given_tokens, joins_a_word
from diladiff_cli.stages.sampling.sampler import (
    EULER_STEPS,
    LATENT_STEPS,
    MIN_EULER_STEPS,
    Sampler,
    autoencoder_of,
    content_of,
    default_decode_steps,
)

FEW_REVEALING = 4  # steps that leave too much for corrector steps to mend


def complete(sampler: Sampler, config: SampleConfig) -> SampleConfig:
    """The configuration with its zeros filled in for the sampler's stage.

    Raises:
        ConfigError: With all options that make no sense together or for this stage.
        UserError: The held-out blocks that an ``ae`` needs are missing, or the base that ``latent_until`` needs.
    """
    problems = []
    what = f"{sampler.name} is of stage {sampler.stage}"
    if config.steps and sampler.latent is None:
        problems.append(
            f"--steps is {config.steps}, but {what} and draws no latents; leave it out (decoding has --decode-steps)"
        )
    if sampler.autoencoder is None:
        given = unusual(config, ("decodings",)) | config.use_of_latents()
        problems += [
            f"{flag(k)} is {v}, but {what} and has no latents; leave it out" for k, v in given.items() if v is not None
        ]
    if config.guidance and sampler.stage != "prior":
        problems.append(f"--guidance is {config.guidance}, but {what}; it is for a prior, leave it out")
    if choice_in_use(config, "solver") and sampler.stage != "prior":
        problems.append(f"--solver is {config.solver}, but {what}; it is for a prior, leave it out")
    if choice_in_use(config, "self_cond") and sampler.stage != "student":
        problems.append(f"--self-cond is {config.self_cond}, but {what}; it is for a student, leave it out")
    if sampler.stage == "ae":
        problems += [
            f"{flag(k)} is {shown(v)}, but {what}, whose latents are those of other texts; leave it out"
            for k, v in unusual(config, ENDS).items()
        ]
    else:
        problems += given_problems(sampler, config.prompt, config.suffix)
    if config.n % config.decodings:
        problems.append(f"--n {config.n} is not a multiple of --decodings {config.decodings}; change one")
    if sampler.stage == "ae" and config.n > len(sampler.held_out) * config.decodings:
        most = len(sampler.held_out) * config.decodings
        problems.append(
            f"--n is {config.n}, but {what} and its data set has too few held-out blocks; give at most {most}"
        )
    if problems:
        raise ConfigError(problems)
    usual = EULER_STEPS if config.solver == "euler" else LATENT_STEPS.get(sampler.stage, 0)
    steps = config.steps or usual
    drawn = replace(config, steps=steps)
    if steps == 1:  # there is no step before
        drawn = replace(drawn, guidance=0.0, self_cond="network")
    return _complete_decoding(sampler, drawn, sampler.latent_scale)


def complete_for_latents(sampler: Sampler, config: SampleConfig) -> SampleConfig:
    """The configuration of :func:`complete` for given latents: none is drawn, and the model's own factor is not theirs.

    Raises:
        ConfigError: Settings of drawing latents are given, or a prompt and suffix that leave nothing to draw.
        UserError: The base that ``latent_until`` needs is missing.
    """
    idle = unusual(config, ("n", "steps", "gamma", "self_cond", "guidance", "solver"))
    problems = [f"{flag(k)} is {v}, but the latents are given; leave it out" for k, v in idle.items()]
    problems += given_problems(sampler, config.prompt, config.suffix)
    if problems:
        raise ConfigError(problems)
    return _complete_decoding(sampler, config, 1.0)


def _complete_decoding(sampler: Sampler, config: SampleConfig, latent_scale: float) -> SampleConfig:
    completed = replace(
        config,
        precision=resolved_precision(config.precision, sampler.device),
        latent_scale=config.latent_scale or latent_scale,
        decode_steps=config.decode_steps or default_decode_steps(sampler, config.order),
    )
    if not corrector_steps(completed):
        completed = replace(completed, corrector=0.0)
    if not base_steps(completed):
        return replace(completed, latent_until=0.0)
    autoencoder_of(sampler.artifact).parent("mdlm")  # told before any work if it is missing
    return completed


def base_steps(config: SampleConfig) -> int:
    """How many of the decoding steps, the last ones, are the base's."""
    return _share_of_steps(config.latent_until, config)


def corrector_steps(config: SampleConfig) -> int:
    """How many of the decoding steps, the last ones, draw tokens anew."""
    return _share_of_steps(config.corrector, config)


def _share_of_steps(share: float, config: SampleConfig) -> int:
    return math.floor(share * config.decode_steps + 1e-6)


def notes_on(sampler: Sampler, config: SampleConfig) -> list[str]:
    """Lines for the user on steps that do nothing, on a precision that is slow here, and on a given text's white space.

    Where there are more revealing steps than tokens to reveal, that is exact all the same: in random and spread
    order fewer tokens share a step, and the other orders end early.
    """
    length, steps = sampler.decoder.length, config.decode_steps or default_decode_steps(sampler, config.order)
    with_steps, notes = replace(config, decode_steps=steps), []
    of_base, revealing = base_steps(with_steps), steps - corrector_steps(with_steps)
    if config.prompt != config.prompt.rstrip():
        notes.append("--prompt ends in white space, which tokenizers mostly join to the next word; leave that out")
    if joins_a_word(sampler, config.suffix):
        notes.append("--suffix begins without a space, so it goes on with the word before it; begin it with one")
    if config.guidance and config.steps == 1:
        notes.append(f"--guidance {config.guidance} does nothing in one latent step")
    if choice_in_use(config, "self_cond") and config.steps == 1:
        notes.append(f"--self-cond {config.self_cond} does nothing in one latent step")
    if isinstance(sampler.latent, LatentStudent) and config.steps > MAX_JUMPS:
        notes.append(f"--steps {config.steps} is more than the {MAX_JUMPS} that students are measured with")
    if config.solver == "euler" and 0 < config.steps < MIN_EULER_STEPS:
        published = f"leave out --steps for the published {EULER_STEPS}, or take ddim"
        notes.append(f"{config.steps} steps of --solver euler leave noise in latents; {published}")
    if config.precision == "bf16" and not has_fast_bf16(sampler.device):
        notes.append("bf16 is emulated here, and slow; --precision fp32 is faster")
    if revealing > length:
        what = f"with --order {config.order} the steps beyond do nothing"
        if config.order in BLIND_ORDERS:
            what = "a step for each, the most that published figures have, is about as good"
        few = "" if revealing == steps else f", of which {revealing} reveal,"
        notes.append(f"--decode-steps {steps}{few} is more than the {length} tokens of a text: {what}")
    if revealing < min(steps, FEW_REVEALING):
        few = f"--corrector {config.corrector} leaves {revealing} of {steps} steps to reveal a text"
        notes.append(f"{few}, which costs more than the others mend; take more --decode-steps")
    if revealing < steps and config.order in ADAPTIVE_ORDERS:
        notes.append(f"--corrector {config.corrector}: {steps - revealing} steps follow however soon all is revealed")
    if of_base == steps:
        notes.append(f"--latent-until {config.latent_until:g} makes all steps the base's: nothing looks at latents")
    elif config.latent_scale == 0 and sampler.latent_scale != 1:
        factor = f"latents times {sampler.latent_scale}, the factor that {sampler.name} carries"
        notes.append(f"{factor}; --latent-scale 1 takes it away")
    if config.latent_until and not of_base:
        notes.append(f"--latent-until {config.latent_until} does nothing: it is less than one of {steps} steps")
    if config.corrector and not corrector_steps(with_steps):
        notes.append(f"--corrector {config.corrector} does nothing: it is less than one of {steps} steps")
    return notes


def sample_plan(sampler: Sampler, config: SampleConfig) -> dict[str, Any]:
    """What a dry run prints: the model, and all settings as they would be used.

    Raises:
        ConfigError, UserError: As of :func:`complete`.
    """
    settings = complete(sampler, config)
    return {
        "stage": sampler.stage,
        "model": sampler.name,
        "hash": sampler.artifact.hash,
        "length": sampler.decoder.length,
        "settings": settings.to_dict() | in_use(sampler, settings),
    }


def origin_of(sampler: Sampler, config: SampleConfig) -> str:
    """Name of what samples depend on, but for how many they are: a hash of the model and all settings.

    Raises:
        ConfigError, UserError: As of :func:`complete`.
    """
    settings = replace(complete(sampler, config), n=config.decodings).to_dict()
    return short_hash(json_hash([__version__, sampler.name, content_of(sampler), settings]))


def in_use(sampler: Sampler, config: SampleConfig) -> dict[str, Any]:
    """The settings that hold for some models and orders only, None where they do nothing."""
    of_prior = isinstance(sampler.latent, LatentPrior)
    return {
        "prompt": config.prompt or None,
        "prompt_tokens": len(given_tokens(sampler, config.prompt)) or None,
        "suffix": config.suffix or None,
        "suffix_tokens": len(given_tokens(sampler, config.suffix)) or None,
        "corrector": config.corrector or None,
        "steps": config.steps or None,
        "gamma": config.gamma if config.steps > 1 and isinstance(sampler.latent, LatentStudent) else None,
        "self_cond": choice_in_use(config, "self_cond") if isinstance(sampler.latent, LatentStudent) else None,
        "guidance": config.guidance if of_prior and config.guidance else None,
        "solver": choice_in_use(config, "solver") if of_prior else None,
    } | (config.use_of_latents() | config.bounds_in_use())
