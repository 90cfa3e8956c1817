from pathlib import Path

import pytest
import torch
from torch import Tensor

from diladiff_cli.metrics.likelihood import masked_figures
from diladiff_cli.metrics.recovery import recovery_curve
from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.stages.feature_sources import TextEncoder
from diladiff_cli.stages.masked_logits import autoencoder_logits, base_logits
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler

from ..chain import LENGTH, Chain


@pytest.fixture(scope="module")
def sampler(tiny_chain: Chain) -> Sampler:
    return load_sampler(tiny_chain.ae, "cpu")


@pytest.fixture(scope="module")
def encoder(sampler: Sampler) -> TextEncoder:
    """With a decoder that heeds its latents, and latents of unit variance."""
    with torch.no_grad():
        for name, weights in sampler.decoder.named_parameters():
            if ".cross.outer." in name:
                weights.mul_(30)
        moments = sampler.require_autoencoder().latent_moments
        moments.variance.fill_(1.0)
    return sampler.encoder


@pytest.fixture(scope="module")
def x(sampler: Sampler) -> Tensor:
    return sampler.held_out.gather(range(6))


def everywhere(x: Tensor, mask_id: int, part: float) -> tuple[Tensor, Tensor]:
    is_masked = torch.arange(x.shape[1]).expand(x.shape) < part * x.shape[1]
    return torch.where(is_masked, mask_id, x), is_masked


def test_the_base_is_asked_at_the_masked_positions(tiny_chain: Chain) -> None:
    base = load_sampler(tiny_chain.mdlm, "cpu")
    x = base.held_out.gather(range(3))
    x_t, is_masked = everywhere(x, base.decoder.mask_id, 0.5)
    with torch.no_grad():
        found = base_logits(base.decoder)(x)(x_t, is_masked)
        torch.testing.assert_close(found, base.decoder(x_t)[is_masked])


def test_the_decoder_sees_the_latent_of_the_clean_text(sampler: Sampler, encoder: TextEncoder, x: Tensor) -> None:
    autoencoder = encoder.autoencoder
    x_t, is_masked = everywhere(x, sampler.decoder.mask_id, 1.0)
    with torch.no_grad():
        z = autoencoder.encoder(autoencoder.feature_moments.standardise(encoder.features(x)))
        wanted = autoencoder.decoder(x_t, is_masked, z)
        found = autoencoder_logits(autoencoder, encoder.features)(x)(x_t, is_masked)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_noise_keeps_the_variance_and_belongs_to_the_text(sampler: Sampler, encoder: TextEncoder, x: Tensor) -> None:
    seen: list[Tensor] = []

    class Spy(AutoEncoder):
        def latents_for_decoder(self, z_0: Tensor) -> Tensor:
            seen.append(z_0)
            return super().latents_for_decoder(z_0)

    spy = encoder.autoencoder
    kind = spy.__class__
    spy.__class__ = Spy
    try:
        with torch.no_grad():
            for noise in (0.0, 0.6, 1.0):
                autoencoder_logits(spy, encoder.features, noise)(x)
            autoencoder_logits(spy, encoder.features, 1.0)(x[2:])
            z_0 = encoder(x)
    finally:
        spy.__class__ = kind
    clean, noisy, white, rest = seen
    torch.testing.assert_close(clean, z_0)
    torch.testing.assert_close(noisy, 0.8 * z_0 + 0.6 * white)  # one eps for every level
    assert torch.equal(white[2:], rest)  # whatever the batch
    assert not torch.equal(white[0], white[1])
    assert float(white.std()) == pytest.approx(1, abs=0.15)


def test_noise_on_the_latent_changes_what_a_decoder_predicts_that_heeds_it(
    sampler: Sampler, encoder: TextEncoder, x: Tensor
) -> None:
    mask_id = sampler.decoder.mask_id
    curves = [
        recovery_curve(autoencoder_logits(encoder.autoencoder, encoder.features, noise), [x], mask_id, (0.5, 1.0))
        for noise in (0.0, 0.3, 1.0)
    ]
    assert len({curve[1]["nll"] for curve in curves}) == 3


def figures_of(folder: Path) -> dict[str, float]:
    line: dict[str, float] = read_metrics(folder / "metrics.jsonl")[-1]
    return line


def test_training_logs_the_figures_of_the_same_functions(tiny_chain: Chain) -> None:
    base = load_sampler(tiny_chain.mdlm, "cpu")
    logged = figures_of(tiny_chain.mdlm)
    batch = base.held_out.gather(range(min(32, len(base.held_out))))
    found = masked_figures(base_logits(base.decoder), [batch], base.decoder.mask_id)
    assert set(found) <= set(logged)
    for name, value in found.items():
        assert logged[name] == pytest.approx(value, rel=1e-4), name


def test_the_auto_encoder_logs_three_curves(tiny_chain: Chain) -> None:
    line = read_metrics(tiny_chain.ae / "metrics.jsonl")[-1]
    assert set(line["curves"]) == {"autoencoder", "base", "noise_latent"}
    assert {"nll", "bound", "perplexity_bound", "recovery", "base_nll"} <= set(line)
    for name, curve in line["curves"].items():
        assert [point["ratio"] for point in curve] == [i / 10 for i in range(1, 11)]
        assert line[f"recovery_all_masked_{name}"] == curve[-1]["recovery"]
        assert curve[-1]["tokens"] == 32 * LENGTH
