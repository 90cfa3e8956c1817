"""What sampling needs of an artifact: its networks, loaded with those of its ancestors that take part."""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from diladiff_cli.core.times import scattering_stride
from diladiff_cli.core.unmask import ADAPTIVE_ORDERS, Body, Head
from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.data.tokens import TokenSplit
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import file_hash
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser, with_bf16_matrices
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import Artifact, load_artifact
from diladiff_cli.runtime.model_paths import name_of
from diladiff_cli.runtime.precision import has_float64
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.stages.common import compile_method, open_recorded_data
from diladiff_cli.stages.feature_sources import TextEncoder, text_encoder
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.sampling.graphs import Replays

LATENT_STEPS = {"prior": 50, "student": 5}  # the default N_cont
EULER_STEPS = 200  # that of a prior's Euler steps, as published
LOOKED_AT = 16  # entries of a tensor that tell whether it changed
MIN_EULER_STEPS = 50  # that leave next to no noise on the tan-10 schedule: 0.035 of it


N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Sampler:
    """The loaded networks of an artifact.

    Attributes:
        name: The artifact's path as the user gave it; ``shipped``, or below it, of what ships.
        artifact: The artifact itself.
        decoder: The auto-encoder's, or an ``mdlm`` itself.
        autoencoder: Encoder, decoder and latent statistics; None for an ``mdlm``.
        latent: The network that draws latents; None for ``mdlm`` and ``ae``.
        tokenizer: Of the artifact.
        device: Where all of it lives.
        data: Data set whose held-out blocks an ``ae`` encodes; None for the recorded one.
    """

    name: str
    artifact: Artifact
    decoder: TokenDenoiser
    autoencoder: AutoEncoder | None
    latent: LatentPrior | LatentStudent | None
    tokenizer: Any
    device: torch.device
    data: Path | None = None

    @property
    def stage(self) -> str:
        """One of "mdlm", "ae", "prior", "student"."""
        return self.artifact.stage

    @property
    def latent_scale(self) -> float:
        """The factor on drawn latents that the artifact asks for; 1 where it asks for none."""
        return float(self.artifact.config.get("sampling", {}).get("latent_scale", 1.0))

    def decoder_in(self, precision: str, compiled: bool = False) -> TokenDenoiser:
        """The decoder as ``precision`` runs it: for "bf16" matrices are cast once; on demand the body is compiled."""
        return self._variant("decoder", precision, compiled)

    def base_in(self, precision: str, compiled: bool = False) -> TokenDenoiser:
        """The base that an auto-encoder was made from, as :meth:`decoder_in`; a UserError where it is missing."""
        return self._variant("base", precision, compiled)

    def latent_in(self, compiled: bool) -> LatentPrior | LatentStudent | None:
        """The network that draws latents; on demand a prior's is compiled, which has many steps."""
        return self._compiled_prior if compiled and isinstance(self.latent, LatentPrior) else self.latent

    @cached_property
    def _compiled_prior(self) -> LatentPrior:
        assert isinstance(self.latent, LatentPrior)
        return _compiled(self.latent, "forward", "the prior", self.device)

    def _variant(self, name: str, precision: str, compiled: bool) -> TokenDenoiser:
        key = (name, precision, compiled)
        if precision == "bf16" and self._is_stale(name):
            self.replays.clear()  # which hold the matrices as they were
            for other in [key for key in self._variants if key[:2] == (name, precision)]:
                del self._variants[other]
        if key not in self._variants:
            if compiled:
                denoiser = with_compiled_blocks(self._variant(name, precision, False))
            elif precision == "bf16":
                denoiser = with_bf16_matrices(self._variant(name, "fp32", False))
            else:
                denoiser = self.decoder if name == "decoder" else self._base()
            self._variants[key] = denoiser
        return self._variants[key]

    def _is_stale(self, name: str) -> bool:
        """Whether weights changed since their matrices were last cast, as where a caller trains them further.

        Some of each tensor are looked at, besides torch's own count of changes, which has none that pass by ``.data``.
        """
        before, network = self._seen.get(name), self._variant(name, "fp32", False)
        counts = [0 if w.is_inference() else w._version for w in network.parameters()]
        some = [w.detach().flatten()[:: max(1, w.numel() // LOOKED_AT)] for w in network.parameters()]
        self._seen[name] = (counts, torch.cat(some).tolist())
        return before not in (None, self._seen[name])

    @cached_property
    def _seen(self) -> dict[str, tuple[list[int], list[float]]]:
        return {}

    @cached_property
    def _variants(self) -> dict[tuple[str, str, bool], TokenDenoiser]:
        return {}

    @cached_property
    def replays(self) -> Replays:
        """What was captured of it as CUDA graphs."""
        return Replays()

    def _base(self) -> TokenDenoiser:
        base: TokenDenoiser = build(autoencoder_of(self.artifact).parent("mdlm"), self.device)
        return base

    @cached_property
    def encoder(self) -> TextEncoder:
        """Clean tokens -> standardised latents, loaded on first use: drawing from a prior does without."""
        return text_encoder(autoencoder_of(self.artifact), self.require_autoencoder(), self.device)

    @cached_property
    def held_out(self) -> TokenSplit:
        """The validation blocks of the data set; a UserError where it is missing."""
        return open_recorded_data(self.artifact, self.data).split("valid")

    def blocks(self, numbers: range, seed: int = 0) -> torch.Tensor:
        """Held-out blocks (B, L) of those numbers, below their count; neighbours in number lie far apart in text.

        Other seeds begin with other blocks, those of neighbouring seeds far apart in number as well.
        """
        total = len(self.held_out)
        stride = scattering_stride(total)
        return self.held_out.gather([(number + seed * stride) * stride % total for number in numbers])

    def require_autoencoder(self) -> AutoEncoder:
        """The auto-encoder; a UserError where there is none."""
        if self.autoencoder is None:
            raise UserError(f"{self.name} is of stage mdlm, which has no latents", "use an ae, prior or student")
        return self.autoencoder


def load_sampler(path: Path | str, device: torch.device | str | None = None, data: Path | None = None) -> Sampler:
    """Load what sampling from an artifact needs; of its ancestors only the auto-encoder.

    Args:
        path: Artifact of any stage.
        device: None for this process's GPU where there is one, else the CPU.
        data: As in :class:`Sampler`.

    Raises:
        UserError: The artifact or its auto-encoder is missing, changed or damaged, or the device cannot be used.
    """
    artifact = load_artifact(path)
    device = sampling_device() if device is None else _usable(device)
    latent = build(artifact, device) if artifact.stage in LATENT_STEPS else None
    autoencoder = None if artifact.stage == "mdlm" else build(autoencoder_of(artifact), device)
    return Sampler(
        name=name_of(Path(path)),
        artifact=artifact,
        decoder=build(artifact, device) if autoencoder is None else autoencoder.decoder,
        autoencoder=autoencoder,
        latent=latent,
        tokenizer=load_tokenizer(artifact.path),
        device=device,
        data=data,
    )


def with_compiled_blocks(decoder: TokenDenoiser) -> TokenDenoiser:
    """A copy that shares the weights, whose blocks compile when they are first called, which a line on stderr says."""
    return _compiled(decoder, "states", "the decoder", decoder.embedding.weight.device)


def _compiled(network: N, method: str, title: str, device: torch.device) -> N:
    """A copy of which a method is compiled: on a CPU for batches of any size; on a GPU a graph's never change."""
    say(f"compiling {title}, for half a minute or more")
    network = copy.copy(network)  # which shares the weights
    compile_method(method, network, dynamic=True if device.type == "cpu" else None)
    return network


def decoding_functions(decoder: TokenDenoiser, z: Tensor | None = None) -> tuple[Body, Head]:
    """Body and float32 head of a decoder as :func:`unmask` wants them, with the cross-attention to z cached.

    Args:
        decoder: A base, or with latents z (B, N, C) an auto-encoder's decoder.
        z: Latents of the whole batch.
    """
    caches = None if z is None else decoder.latent_caches(z)

    def body(x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        chosen = caches
        if caches is not None and z is not None and len(rows) < len(z):
            chosen = [None if cache is None else cache.select(rows) for cache in caches]
        return decoder.body(x_t, chosen, select) if chosen else body_of_different(decoder, x_t, select)

    return body, decoder.float32_logits


def body_of_different(decoder: TokenDenoiser, x_t: Tensor, select: Tensor) -> Tensor:
    """Hidden states (M, D) of a base at the selected positions; texts in which all is masked are computed as one.

    Before the first step all texts are such.
    """
    unwritten = (x_t == decoder.mask_id).all(1)  # (B,)
    if int(unwritten.sum()) < 2:
        return decoder.body(x_t, None, select)
    others = ~unwritten
    x_of_call = torch.cat([torch.full_like(x_t[:1], decoder.mask_id), x_t[others]])  # (1 + others, L)
    select_of_call = torch.cat([select[unwritten].any(0, keepdim=True), select[others]])
    hidden = decoder.body(x_of_call, None, select_of_call)
    index_in_hidden = select_of_call.flatten().cumsum(0).view_as(select_of_call) - 1  # (1 + others, L)
    row_in_call = torch.where(unwritten, 0, others.cumsum(0))  # (B,)
    return hidden[index_in_hidden[row_in_call][select]]


def autoencoder_of(artifact: Artifact) -> Artifact:
    """The auto-encoder itself, or that of a prior or student."""
    return artifact if artifact.stage == "ae" else artifact.parent("ae")


def content_of(sampler: Sampler) -> tuple[str, ...]:
    """Hashes of the artifact, its parents and its tokenizer, and of the blocks that an auto-encoder encodes."""
    artifact = sampler.artifact
    hashes = [artifact.hash, *(link["hash"] for _, link in sorted(artifact.config["parents"].items()))]
    hashes.append(file_hash(artifact.place / "tokenizer.json"))
    if sampler.stage == "ae":
        hashes.append(open_recorded_data(artifact, sampler.data).fingerprint)
    return tuple(hashes)


def sampling_device() -> torch.device:
    """This process's device; the CPU where that has no float64, in which tokens are drawn, as Apple's GPUs."""
    device: torch.device = process_state().device
    return device if has_float64(device) else torch.device("cpu")


def _usable(device: torch.device | str) -> torch.device:
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen).tolist()  # nothing of the device "meta" can be read
    except (RuntimeError, AssertionError, ImportError, TypeError) as error:  # torch has one for each way to lack it
        raise UserError(f"the device {device} cannot be used here", "leave it out, or take cpu") from error
    if not has_float64(chosen):
        raise UserError(f"the device {device} has no float64, in which tokens are drawn", "leave it out, or take cpu")
    return chosen


def default_decode_steps(sampler: Sampler, order: str) -> int:
    """N_disc where none is given: a quarter of the length; the length where the order ends when it is done."""
    length = sampler.decoder.length
    return length if order in ADAPTIVE_ORDERS else max(1, length // 4)
