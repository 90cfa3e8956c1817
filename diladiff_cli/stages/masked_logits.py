"""The networks as the figures of masked text want them: clean tokens -> logits of masked positions."""

import zlib

import torch
from torch import Tensor, nn

from diladiff_cli.metrics.recovery import LogitsFor, MaskedLogits
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import FeatureSource
from diladiff_cli.runtime.randomness import generator

NOISE_SEED = 7  # of the noise on latents; another one for each seed


def base_logits(model: nn.Module) -> LogitsFor:
    """A base without latents."""

    def logits_for(_: Tensor) -> MaskedLogits:
        return lambda x_t, is_masked: model(x_t, select=is_masked)

    return logits_for


def decoder_logits(decoder: TokenDenoiser, z: Tensor) -> MaskedLogits:
    """A decoder given latents (B, N, C), whose keys and values are computed once."""
    caches = decoder.latent_caches(z)
    return lambda x_t, is_masked: decoder.logits(decoder.body(x_t, caches)[is_masked])


def text_noise(x: Tensor, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """(B, *shape) standard normal draws that depend on the seed and each row of ``x`` (B, L), not on its batch."""
    cpu = torch.device("cpu")
    digests = [zlib.crc32(row.tobytes()) for row in x.cpu().numpy()]
    generators = (generator(cpu, NOISE_SEED + seed, digest) for digest in digests)
    draws = [torch.randn(shape, generator=each, dtype=torch.float32, device=cpu) for each in generators]
    return torch.stack(draws).to(x.device)


def autoencoder_logits(autoencoder: AutoEncoder, source: FeatureSource, noise: float = 0.0, seed: int = 0) -> LogitsFor:
    """A decoder given the latent of the clean tokens themselves, without augmentation.

    Args:
        autoencoder: Encoder, decoder and statistics.
        source: Of the encoder's features.
        noise: s of the noise on the standardised latent, z = sqrt(1 - s^2) z_0 + s eps, as the diffusion sees it; the
            same eps for a text whatever s. At 1 the latent carries nothing.
        seed: Of eps.
    """

    def logits_for(x: Tensor) -> MaskedLogits:
        z_0 = autoencoder.encode(source(x))  # (B, N, C)
        if noise > 0:
            z_0 = (1 - noise**2) ** 0.5 * z_0 + noise * text_noise(x, autoencoder.latent_shape, seed)
        return decoder_logits(autoencoder.decoder, autoencoder.latents_for_decoder(z_0))

    return logits_for
