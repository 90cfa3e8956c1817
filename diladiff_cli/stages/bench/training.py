"""``bench --speed``: how fast each stage trains, beside its matrix products alone and beside a plain loop.

Random networks of one width learn from random data with the objectives of the real stages.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from statistics import median
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diladiff_cli.config import AeConfig, BenchConfig, DistillConfig, MdlmConfig, PriorConfig, StageConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import SelfFeatures
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.runtime.memory import PeakMemory
from diladiff_cli.runtime.optim import LrOverride, build_optimizers
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.runtime.randomness import BatchRng, generator
from diladiff_cli.runtime.run import LossFn
from diladiff_cli.runtime.session import peak_flops
from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.timing import ROUNDS, fits, machine, megabytes, seconds
from diladiff_cli.stages.common import compile_method, seeded
from diladiff_cli.stages.distill import MeanFlowLoss, compile_networks, student_flops
from diladiff_cli.stages.sampling.sampler import sampling_device
from diladiff_cli.stages.train_ae import ae_loss, autoencoder_flops, compile_decoder
from diladiff_cli.stages.train_mdlm import masked_batch, mdlm_flops, mdlm_loss
from diladiff_cli.stages.train_prior import compile_trunk, prior_flops, prior_loss

N = TypeVar("N", bound=nn.Module)
HEADS, LATENT_WIDTH, COMPRESSION, MASK = 4, 64, 2, 0
CALLS = 10  # of a matrix product, between two waits for the device
PLAIN_BYTES = 20  # of each of all logits, in the plain loop: bf16, float32, their logarithms and gradients


@dataclass(frozen=True)
class Work:
    """A stage to train.

    Attributes:
        stage: Its name.
        model: The network.
        loss_fn: Its objective.
        batch: What the objective takes, (B, ...).
        flops: Operations of a step per example, in linear layers, forward and backward.
        compile_body: Compiles the expensive part of the network in place, as ``--compile`` of the stage does.
    """

    stage: str
    model: nn.Module
    loss_fn: LossFn
    batch: Tensor
    flops: float
    compile_body: Callable[[Any], None]


def bench_training(config: BenchConfig) -> Iterator[Report]:
    """Measure the training steps of every stage at every vocabulary and length, and the largest batch size.

    Yields:
        Stage and setting, ``tokens_per_second`` (of text), ``share_of_matmul`` (operations of its linear layers per
        second, over the rate of a matrix product alone), ``mfu`` (the same over the peak of a known GPU), peak memory;
        and for the base the same of a plain loop that computes all logits (``plain``) and the ``speedup_over_plain``.
    """
    device, batch_size = sampling_device(), max(config.integers("batch_sizes"))
    config = replace(config, precision=resolved_precision(config.precision, device))
    for vocab_size, length in product(config.integers("vocab_sizes"), config.integers("lengths")):
        rate = matmul_rate(config, batch_size * length, device)
        if config.compile:
            torch.compiler.reset()  # of networks that are measured already
        for work in works(config, vocab_size, length, batch_size, device):
            yield _measure(work, config, vocab_size, length, rate, device)


def matmul_rate(config: BenchConfig, rows: int, device: torch.device) -> float:
    """Operations per second of the feed-forward's matrix product alone, at its best, (rows, width) to 4 width."""
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    x = torch.randn(rows, config.width, device=device, dtype=dtype)
    weight = torch.randn(4 * config.width, config.width, device=device, dtype=dtype)
    F.linear(x, weight)

    def several() -> None:
        for _ in range(CALLS):
            F.linear(x, weight)

    fastest = min(seconds(several, device) for _ in range(5 * ROUNDS)) / CALLS
    return 2.0 * rows * 4 * config.width**2 / fastest


def works(config: BenchConfig, vocab_size: int, length: int, batch_size: int, device: torch.device) -> Iterator[Work]:
    """The four stages, with networks of one width and depth."""

    def made(kind: Callable[..., N], **arguments: Any) -> N:
        with seeded(0):
            network = kind(**arguments)
        return network.to(device)

    x = torch.randint(MASK + 1, vocab_size, (batch_size, length), generator=generator(device, 21), device=device)
    shape: dict[str, Any] = {"width": config.width, "layers": config.layers, "heads": HEADS}
    tokens = shape | {"vocab_size": vocab_size, "mask_id": MASK, "length": length, "tie_embeddings": True}
    latents = {"latents": max(1, length // COMPRESSION), "latent_width": LATENT_WIDTH}
    base = made(TokenDenoiser, **tokens)
    # Copies come first: what is measured may then be compiled in place.
    features = SelfFeatures(copy.deepcopy(base))
    yield Work("train-mdlm", base, mdlm_loss(MASK, exact=False), x, mdlm_flops(base), partial(compile_method, "body"))
    encoder = {"feature_width": config.width, "length": length, "width": config.width, "layers": 2, "heads": HEADS}
    decoder = tokens | latents | {"cross_layers": sorted({0, config.layers - 1})}
    autoencoder = made(AutoEncoder, encoder=encoder | latents, decoder=decoder)
    autoencoder.decoder.embedding.weight.requires_grad_(False)
    loss = ae_loss(features, autoencoder, AeConfig(), MASK)
    yield Work("train-ae", autoencoder, loss, x, autoencoder_flops(autoencoder, features), compile_decoder)
    z_0 = torch.randn(batch_size, *latents.values(), generator=generator(device, 22), device=device)
    prior = made(LatentPrior, schedule_d=10.0, **shape, **latents)
    teacher, of_prior = copy.deepcopy(prior).requires_grad_(False), PriorConfig()
    loss = prior_loss(lambda z: z, prior.schedule, of_prior.p_self_cond)
    yield Work("train-prior", prior, loss, z_0, prior_flops(prior, latents["latents"], of_prior), compile_trunk)
    student = made(LatentStudent, schedule_d=10.0, **shape, **latents)
    use_plain_attention(student)
    of_student = DistillConfig(tangent_warmup_steps=0)
    meanflow = MeanFlowLoss(lambda z: z, teacher, of_student)
    flops = student_flops(student, latents["latents"], of_student)
    yield Work("distill", student, meanflow, z_0, flops, partial(compile_networks, teacher, of_student))


def plain_loss(model: nn.Module, x: Tensor, rng: BatchRng) -> tuple[Tensor, dict[str, Tensor]]:
    """The base's loss as it is usually written: logits at all positions, of which the masked ones count."""
    x_t, is_masked, _ = masked_batch(x, rng, MASK)
    nll = F.cross_entropy(model(x_t).float().flatten(0, 1), x.flatten(), reduction="none")
    return (nll * is_masked.flatten()).sum() / x.numel(), {}


def _measure(
    work: Work, config: BenchConfig, vocab_size: int, length: int, rate: float, device: torch.device
) -> Report:
    texts = len(work.batch)
    step = _stepper(work, work.loss_fn, config.precision, device)
    plain = None
    if work.stage == "train-mdlm" and fits(PLAIN_BYTES * work.batch.numel() * vocab_size, device):
        plain = _stepper(work, plain_loss, config.precision, device)
    if config.compile:
        work.compile_body(work.model)
        # With an optimiser of its own: the state of the one that is measured counts.
        _stepper(work, work.loss_fn, config.precision, device)()
    with PeakMemory(device) as memory:
        once = seconds(step, device)
    with PeakMemory(device) as plain_memory:
        if plain is not None:
            plain()
    pairs = []
    for _ in range(max(1, min(ROUNDS, int(config.seconds / once)))):
        pairs.append((seconds(step, device), seconds(plain, device) if plain else None))
    took, plain_took = median(a for a, _ in pairs), [b for _, b in pairs if b is not None]
    report: Report = {
        "stage": work.stage,
        "vocab_size": vocab_size,
        "length": length,
        "batch_size": texts,
        "tokens_per_second": texts * length / took,
        "share_of_matmul": work.flops * texts / took / rate,
        "peak_megabytes": megabytes(memory.bytes),
        "width": config.width,
        "layers": config.layers,
        "precision": config.precision,
        "compiled": config.compile,
        "machine": machine(device),
    }
    if (peak := peak_flops(device)) is not None:
        report["mfu"] = work.flops * texts / took / peak
    if plain_took:
        report["speedup_over_plain"] = median(b / a for a, b in pairs if b is not None)
        report["plain_peak_megabytes"] = megabytes(plain_memory.bytes)
    return report


def _stepper(work: Work, loss_fn: LossFn, precision: str, device: torch.device) -> Callable[[], None]:
    """A training step: loss, gradients, optimiser."""
    config: StageConfig = MdlmConfig(optimizer="adamw", learning_rate=1e-4)
    optimizers = build_optimizers(work.model, config, lambda _: LrOverride())
    rng = BatchRng(0, 1, range(len(work.batch)), len(work.batch), device)

    def step() -> None:
        with autocast(device, precision):
            loss, _ = loss_fn(work.model, work.batch, rng)
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return step
