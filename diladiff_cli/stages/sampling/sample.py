"""``sample``: an artifact -> texts (method sections 4 to 6).

Every random number of sample i comes from (seed, i) alone: samples depend neither on the batch size, nor on the
number of processes, nor on how many are drawn.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.core.ode import average_velocity_steps, probability_flow
from diladiff_cli.core.static import can_be_static
from diladiff_cli.core.unmask import Decoding, Redraws, Successor, unmask
from diladiff_cli.data.tokenizer import decode_text
from diladiff_cli.errors import UserError, is_out_of_memory
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.memory import Halving
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.runtime.randomness import SampleRng
from diladiff_cli.stages.sampling import graphs
from diladiff_cli.stages.sampling.prompts import masked_between
from diladiff_cli.stages.sampling.sampler import Sampler, decoding_functions
from diladiff_cli.stages.sampling.settings import base_steps, complete, corrector_steps, in_use

Sample = dict[str, Any]
Progress = Callable[[int, int], None]  # samples finished, decoding step of the batch under way
OnStep = Callable[[int, Tensor], None]  # decoding step, tokens (B, L) after it


@torch.no_grad()
def draw_latents(sampler: Sampler, indices: range, config: SampleConfig, on_step: OnStep | None = None) -> Tensor:
    """Standardised latents z_0 (B, N, C) of those numbers.

    A prior takes its solver's steps and a student average-velocity steps from noise that depends on (seed, index)
    alone; an auto-encoder encodes held-out blocks from all over the text, others with each seed (the oracle).

    ``config`` is as :func:`complete` returns it; what concerns the texts alone is not read.
    ``on_step`` is called with the clean estimate of each latent step, see :mod:`diladiff_cli.core.ode`; an auto-encoder
    takes none.
    """
    shape = sampler.require_autoencoder().latent_shape
    network = sampler.latent_in(config.compile)
    with autocast(sampler.device, config.precision):
        if network is None:
            return sampler.encoder(sampler.blocks(indices, config.seed).to(sampler.device))
        rng = SampleRng(config.seed, indices)
        z, noises = rng.normal(rng.START, *shape).float().to(sampler.device), None
        if isinstance(network, LatentStudent) and config.gamma > 0 and config.steps > 1:
            noises = rng.normal(rng.GAMMA, config.steps - 1, *shape).float().to(sampler.device)
        draw = partial(_latents_from, network, config, on_step)
        if graphs.replays_pay(sampler.device) and on_step is None and config.steps <= graphs.MAX_STEPS:
            how = (
                graphs.weights_of(network),
                config.precision,
                config.compile,
                config.steps,
                config.gamma,
                config.self_cond,
                config.guidance,
                config.solver,
            )
            return sampler.replays.latents(draw, z, noises, how)
        return draw(z, noises)


def latents_of_texts(
    sampler: Sampler, latents: range, config: SampleConfig, on_step: OnStep | None = None
) -> Tensor | None:
    """:func:`draw_latents`, each as often as it is decoded: (B * decodings, N, C); None for a base, which has none."""
    if sampler.autoencoder is None:
        return None
    return draw_latents(sampler, latents, config, on_step).repeat_interleave(config.decodings, 0)


def _latents_from(
    network: LatentPrior | LatentStudent, config: SampleConfig, on_step: OnStep | None, z: Tensor, noises: Tensor | None
) -> Tensor:
    if isinstance(network, LatentPrior):
        return probability_flow(
            network, z, network.schedule, config.steps, on_step, config.guidance, solver=config.solver
        )
    return average_velocity_steps(
        network, z, network.schedule, config.steps, noises, config.gamma, on_step, self_cond=config.self_cond
    )


@torch.no_grad()
def decode(
    sampler: Sampler,
    ids: Sequence[int],
    config: SampleConfig,
    z_0: Tensor | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Token ids (B, L), on the CPU, of the samples of those numbers (method section 6).

    Args:
        sampler: The networks.
        ids: Numbers of the samples; reveal times and token draws depend on the seed and on these alone.
        config: Seed, order, temperature, nucleus, share of corrector steps and so on, as :func:`complete` returns it.
        z_0: (B, N, C) standardised latents, one a sample; None for an ``mdlm``.
        on_step: Called after each decoding step of each batch.

    Raises:
        ValueError: The settings are not complete.
        UserError: The network's logits are not finite.
    """
    if not (config.decode_steps and config.latent_scale):
        raise ValueError("these settings are not complete: see stages.sampling.settings.complete")
    tokens = []
    for start in range(0, len(ids), config.batch_size):
        part = slice(start, start + config.batch_size)
        try:
            tokens.append(_decode_batch(sampler, ids[part], config, None if z_0 is None else z_0[part], on_step))
        except FloatingPointError as error:
            remedy = "look for weights or latents that are NaN or far too large"
            raise UserError(f"{sampler.name} cannot be sampled: {error}", remedy) from error
    return torch.cat(tokens)


def _decode_batch(
    sampler: Sampler, ids: Sequence[int], config: SampleConfig, z_0: Tensor | None, on_step: OnStep | None
) -> Tensor:
    decoder, device = sampler.decoder_in(config.precision, config.compile), sampler.device
    base = sampler.base_in(config.precision, config.compile) if config.latent_until else None
    z = None
    if z_0 is not None:
        z = sampler.require_autoencoder().latents_for_decoder(config.latent_scale * z_0.to(device, torch.float32))
    rng, decoding = SampleRng(config.seed, ids), _decoding(config)
    first_of_base = decoding.steps - base_steps(config)
    x = masked_between(sampler, config.prompt, config.suffix, len(ids))
    reveal_times, uniform = (rng.uniform(kind, decoder.length) for kind in (rng.REVEAL, rng.TOKEN))
    redraws = _redraws(rng, decoding.sweeps, decoder.length)
    with autocast(sampler.device, config.precision):
        tokens = None
        if graphs.replays_pay(device) and can_be_static(decoding):
            spans = [graphs.DecoderSpan(0, decoder, z)]
            spans += [] if base is None else [graphs.DecoderSpan(first_of_base, base)]
            tokens = sampler.replays.unmask(spans, x, reveal_times, uniform, decoding, on_step, redraws)
        if tokens is None:
            body, head = decoding_functions(decoder, z)
            late = None if base is None else decoding_functions(base)
            successor = None if late is None else Successor(first_of_base, *late)
            inputs = (x.to(device), decoder.mask_id, reveal_times.to(device), uniform.to(device))
            redraws = None if redraws is None else Redraws(redraws.times.to(device), redraws.uniform.to(device))
            tokens = unmask(body, head, *inputs, decoding, on_step, successor, redraws)
    return tokens.cpu()


def _redraws(rng: SampleRng, sweeps: int, length: int) -> Redraws | None:
    if not sweeps:
        return None
    times, uniform = (rng.uniform(kind, sweeps, length) for kind in (rng.REDRAW, rng.REDRAWN_TOKEN))
    return Redraws(times.transpose(0, 1), uniform.transpose(0, 1))  # each (W, B, L)


def _decoding(config: SampleConfig) -> Decoding:
    names = ("temperature", "top_p", "order", "threshold", "entropy_bound")
    options = {name: getattr(config, name) for name in names}
    return Decoding(config.decode_steps, corrector_steps=corrector_steps(config), **options)


def describe(sampler: Sampler, ids: range, config: SampleConfig, tokens: Tensor) -> list[Sample]:
    """The samples as they are written: token ids (B, L), texts, and the settings that they were drawn with."""
    shared: Sample = {
        "seed": config.seed,
        "decode_steps": config.decode_steps,
        "model": sampler.name,
        "stage": sampler.stage,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "order": config.order,
        "precision": config.precision,
    } | in_use(sampler, config)
    samples = []
    for i, row in zip(ids, tokens.tolist(), strict=True):
        sample = {"id": i, "text": decode_text(sampler.tokenizer, row), "token_ids": row} | shared
        samples.append(sample if sampler.autoencoder is None else sample | {"latent": i // config.decodings})
    return samples


def is_whole(sampler: Sampler, config: SampleConfig, number: int, sample: Any) -> bool:
    """Whether ``sample`` equals what :func:`describe` makes of its own token ids, as the sample of that number.

    ``config`` is as :func:`complete` returns it. What is damaged is found, but for tokens and text that changed alike.
    """
    try:
        ids = sample["token_ids"]
        if len(ids) != sampler.decoder.length or not all(0 <= i < sampler.decoder.vocab_size for i in ids):
            return False
        (wanted,) = describe(sampler, range(number, number + 1), config, torch.tensor([ids], device="cpu"))
    except (LookupError, TypeError, ValueError):
        return False
    return bool(sample == wanted)


def generate(
    sampler: Sampler, config: SampleConfig, progress: Progress | None = None, first: int = 0
) -> Iterator[Sample]:
    """Draw ``config.n`` samples, in the order of their ids, from ``first`` on.

    Latent j is decoded ``config.decodings`` times, into consecutive samples. Several processes take batches in turn;
    all of them must iterate, and the main process gets every sample, the others none.

    Args:
        sampler: The networks.
        config: What to draw.
        progress: Called on the main process after each decoding step.
        first: Number of the first sample that is wanted. Batches are as they are without it, and so are the samples.

    Raises:
        ConfigError, UserError: As of :func:`complete`, before anything is drawn.
        ValueError: A negative ``first``.
    """
    if first < 0:
        raise ValueError(f"first is {first}; give 0 or more")
    return _rounds(sampler, complete(sampler, config), progress, first)


def latent_batches(config: SampleConfig) -> list[range]:
    """Numbers of the latents (of the samples, where there are none) that are drawn together."""
    total, size = config.n // config.decodings, max(1, config.batch_size // config.decodings)
    return [range(i, min(i + size, total)) for i in range(0, total, size)]


def ids_of(latents: range, config: SampleConfig) -> range:
    """Numbers of the samples that are decoded from some latents."""
    return range(latents.start * config.decodings, latents.stop * config.decodings)


def _rounds(sampler: Sampler, config: SampleConfig, progress: Progress | None, first: int) -> Iterator[Sample]:
    state = process_state()
    batches = [latents for latents in latent_batches(config) if ids_of(latents, config).stop > first]
    halving, done = Halving("samples" if config.decodings == 1 else "latents"), first
    for start in range(0, len(batches), state.num_processes):
        samples: list[Sample] = []
        if start + state.process_index < len(batches):
            report = partial(progress, done) if progress and state.is_main_process else None
            draw = partial(_draw_batch, sampler, config=config, report=report)
            drawn = (sample for part in halving(draw, batches[start + state.process_index]) for sample in part)
            samples = [sample for sample in drawn if sample["id"] >= first]
        if state.num_processes > 1:
            samples = gather_object(samples)
        done += len(samples)
        if state.is_main_process:
            yield from samples


def _draw_batch(
    sampler: Sampler, latents: range, config: SampleConfig, report: Callable[[int], None] | None
) -> list[Sample]:
    ids = ids_of(latents, config)
    on_step: OnStep | None = None if report is None else lambda step, _: report(step + 1)
    try:
        z_0 = latents_of_texts(sampler, latents, config)
        return describe(sampler, ids, config, decode(sampler, ids, config, z_0, on_step))
    except Exception as error:
        if is_out_of_memory(error):
            sampler.replays.clear()  # of a size that is not asked for again
        raise
