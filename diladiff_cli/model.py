"""The library: ``load`` gives a model that samples, encodes and decodes."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.autocast import autocast
from diladiff_cli.data.tokenizer import encode_documents, separator_id
from diladiff_cli.errors import UserError
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.encoder import LatentEncoder
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.model_paths import default_model, resolved
from diladiff_cli.settings import shown
from diladiff_cli.stages.sampling.sample import Progress, Sample, decode, describe, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete_for_latents
from diladiff_cli.stages.sampling.trace import Trace, record

TEXTS_AT_ONCE = 64


def load(
    path: Path | str | None = None, device: torch.device | str | None = None, data: Path | str | None = None
) -> "Model":
    """Load an artifact of any stage, with the parts that it builds on.

    Args:
        path: Its folder, ``hf://USER/NAME`` on the Hub, or the text ``shipped``; None for ``./ckpt/student`` where
            there is one, else the model that ships with the package.
        device: None for the GPU where there is one, else the CPU.
        data: Data set whose held-out blocks an auto-encoder samples from; None for the one that it was trained on.

    Raises:
        UserError: The artifact or a parent is missing, changed or damaged, or the device cannot be used.
    """
    folder = default_model()[0] if path is None else resolved(path)
    return Model(load_sampler(folder, device, None if data is None else Path(data).absolute()))


@dataclass(frozen=True, repr=False)
class Model:
    """A loaded model; :func:`load` makes one.

    Attributes:
        sampler: Its networks, as :mod:`diladiff_cli.stages.sampling.sample` takes them.
    """

    sampler: Sampler

    def __repr__(self) -> str:
        """What it is in a line, without its networks."""
        name, device = self.sampler.name, str(self.sampler.device)
        return f"Model({name!r}, stage={self.stage!r}, length={self.length}, device={device!r})"

    @property
    def stage(self) -> str:
        """One of "mdlm", "ae", "prior", "student"."""
        return self.sampler.stage

    @property
    def tokenizer(self) -> Any:
        """The Hugging Face tokenizer."""
        return self.sampler.tokenizer

    @property
    def length(self) -> int:
        """L, the tokens of a text."""
        return self.sampler.decoder.length

    @property
    def encoder(self) -> LatentEncoder | None:
        """E_phi: standardised features -> latents; None for an ``mdlm``. See :meth:`encode` for texts."""
        return None if self.sampler.autoencoder is None else self.sampler.autoencoder.encoder

    @property
    def decoder(self) -> TokenDenoiser:
        """x_theta: masked tokens, and latents where there are any -> logits."""
        return self.sampler.decoder

    @property
    def prior(self) -> LatentPrior | LatentStudent | None:
        """The network that draws latents, of a student its average velocity; None for ``mdlm`` and ``ae``."""
        return self.sampler.latent

    def sample(self, n: int = 64, steps: int = 0, decode_steps: int = 0, seed: int = 0, **options: Any) -> list[Sample]:
        """Draw texts.

        Args:
            n: How many.
            steps: Latent steps (0: 5 for a student, 50 for a prior, 200 with its solver euler).
            decode_steps: Token steps (0: a quarter of the length; in the orders threshold and entropy the length).
            seed: Sample i depends on the seed and i alone.
            options: Other fields of :class:`diladiff_cli.config.SampleConfig`, ``prompt`` and ``order`` among them.

        Returns:
            ``n`` dictionaries with ``id``, ``text``, ``token_ids`` and the settings. Of several processes, which share
            the work and must all call this, the main one has them and the others none.

        Raises:
            ConfigError: An unknown option, or one that makes no sense for this model.
        """
        values = {"n": n, "steps": steps, "decode_steps": decode_steps, "seed": seed}
        return list(self.stream(SampleConfig.from_dict(values | options)))

    def stream(self, config: SampleConfig, progress: Progress | None = None, first: int = 0) -> Iterator[Sample]:
        """Samples as they are drawn, see :func:`diladiff_cli.stages.sampling.sample.generate`."""
        return generate(self.sampler, config, progress, first)

    def trace(self, config: SampleConfig) -> Trace:
        """How sample 0 of :meth:`stream` is decoded, step by step; ``stages.sampling.trace.page`` shows it."""
        return record(self.sampler, config)

    def encode(self, texts: str | Sequence[str]) -> Tensor:
        """Standardised latents z_0 (B, N, C) of texts, cut at ``length`` tokens or filled up with the separator.

        Warns where texts are cut.

        Raises:
            UserError: The model has no latents, or the source of the encoder's features is missing.
            TypeError: Something else than texts.
        """
        shape = self.sampler.require_autoencoder().latent_shape
        texts = [texts] if isinstance(texts, str) else list(texts)
        if odd := [text for text in texts if not isinstance(text, str)]:
            raise TypeError(f"texts holds {shown(odd[0])}, which is not text")
        end = separator_id(self.tokenizer)
        whole = encode_documents(self.tokenizer, texts) if texts else []
        rows = [row[: self.length] for row in whole]
        cut = sum(len(row) > self.length + 1 for row in whole)  # one more is the separator
        if cut:
            warnings.warn(f"texts cut at {self.length} tokens: {cut} of {len(texts)}", stacklevel=2)
        filled = [[*row, *[end] * (self.length - len(row))] for row in rows]
        blocks = torch.tensor(filled, dtype=torch.int64, device=self.sampler.device)
        starts = range(0, len(blocks), TEXTS_AT_ONCE)
        empty = torch.zeros(0, *shape, dtype=torch.float32, device=self.sampler.device)
        with autocast(self.sampler.device, "fp32"):
            return torch.cat([empty, *(self.sampler.encoder(blocks[i : i + TEXTS_AT_ONCE]) for i in starts)])

    def decode(self, latents: Tensor, decode_steps: int = 0, seed: int = 0, **options: Any) -> list[Sample]:
        """Texts decoded from standardised latents z_0 (B, N, C), ``decodings`` of each.

        Args:
            latents: As :meth:`encode` returns them; an array, tensor or list of real numbers.
            decode_steps: Token steps (0: a quarter of the length; in the orders threshold and entropy the length).
            seed: The draws of text i depend on the seed and i alone, of every call; take another for other latents.
            options: Other fields of :class:`diladiff_cli.config.SampleConfig`. A model's own factor on latents is for
                those that it draws: here ``latent_scale`` is 1 unless it is given.

        Raises:
            UserError: The model has no latents, or these are of another shape or not finite.
            ConfigError: An unknown option, or one that makes no sense here.
        """
        shape = self.sampler.require_autoencoder().latent_shape
        latents = _as_latents(latents)
        if latents.shape[1:] != shape:
            raise UserError(
                f"the latents are of shape {tuple(latents.shape)}, wanted (B, {shape[0]}, {shape[1]})",
                "give what encode returns for this model",
            )
        if not bool(latents.isfinite().all()):
            raise UserError("the latents hold NaN or infinity", "give what encode returns for this model")
        config = SampleConfig.from_dict({"decode_steps": decode_steps, "seed": seed} | options)
        config = complete_for_latents(self.sampler, config)
        if len(latents) == 0:
            return []
        ids = range(len(latents) * config.decodings)
        tokens = decode(self.sampler, ids, config, latents.repeat_interleave(config.decodings, 0))
        return describe(self.sampler, ids, config, tokens)


def _as_latents(latents: Any) -> Tensor:
    """Latents as float32; of an array or tensor of real numbers, or a list of them."""
    wanted = "give real numbers of shape (B, N, C), as encode returns them"
    try:
        if isinstance(latents, list | tuple) and any(isinstance(part, Tensor) for part in latents):
            latents = torch.stack([torch.as_tensor(part) for part in latents])
        array = latents if isinstance(latents, Tensor) else np.asarray(latents)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the latents are not an array of numbers ({error})", wanted) from error
    if isinstance(array, Tensor) and not array.is_complex():
        return array.float()
    if isinstance(array, np.ndarray) and array.dtype.kind in "biuf":
        return torch.from_numpy(array.astype(np.float32))
    raise UserError(f"the latents are of type {array.dtype}", wanted)
