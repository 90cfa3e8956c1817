from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diladiff_cli.networks.autoencoder import AutoEncoder
from diladiff_cli.networks.encoder import LatentEncoder

LENGTH, FEATURES = 32, 10
SHAPE: dict[str, Any] = {"feature_width": FEATURES, "length": LENGTH, "width": 32, "layers": 2, "heads": 2}


def build(latents: int = 16, channels: int = 6, **options: Any) -> LatentEncoder:
    torch.manual_seed(0)
    return LatentEncoder(**SHAPE | {"latents": latents, "latent_width": channels} | options)


def features(batch: int = 3) -> Tensor:
    return torch.randn(batch, LENGTH, FEATURES, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("compression", [1, 2, 4, 8, 16, 32])
def test_every_compression_gives_latents_of_unit_rms(compression: int) -> None:
    z = build(LENGTH // compression)(5 * features())
    assert z.shape == (3, LENGTH // compression, 6)
    # The epsilons of the norms show where a vector begins small.
    torch.testing.assert_close(z.square().mean(-1).sqrt(), torch.ones(z.shape[:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("local", [True, False])
def test_masked_features_have_no_influence_and_visible_ones_have(local: bool) -> None:
    model, x = build(local_attention=local), features()
    mask = (torch.arange(LENGTH) % 3 > 0).expand(3, -1)
    first = model(x, mask)
    assert torch.equal(model(torch.where(mask[..., None], x, 100 * torch.randn_like(x)), mask), first)
    assert not torch.allclose(model(torch.where(mask[..., None], -x, x), mask), first, atol=1e-3)


def test_an_example_without_visible_features_stays_finite_and_leaves_the_others_alone() -> None:
    model, x = build(), features()
    mask = torch.ones(3, LENGTH, dtype=torch.bool)
    mask[1] = False
    z = model(x, mask)
    assert z.isfinite().all()
    torch.testing.assert_close(z[[0, 2]], model(x)[[0, 2]], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def attention_of_first_block(model: LatentEncoder, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """(N, L) attention of latents to features in the first block, averaged over heads and examples."""
    seen: list[Tensor] = []
    plain = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        seen.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1))
        return plain(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model(features(16))
    return seen[0][..., :LENGTH].mean((0, 1))


@pytest.mark.parametrize("latents", [32, 16, 8])
def test_attention_starts_local_with_the_nearest_features_on_top(latents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = attention_of_first_block(build(latents, width=128), monkeypatch)
    places = (torch.arange(latents) + 0.5) * LENGTH / latents - 0.5
    distance = (torch.arange(LENGTH) - places[:, None]).abs()
    by_distance = torch.stack([weights[(distance >= d) & (distance < d + 1)].mean() for d in range(LENGTH // 2)])
    assert int(by_distance.argmax()) == 0
    assert (by_distance[0] > by_distance[2:].max() * 1.3) & (by_distance[0] > 1.5 * weights.mean())


def test_position_free_attention_starts_even(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = attention_of_first_block(build(16, width=128, local_attention=False), monkeypatch)
    by_place = weights.mean(0)  # of each feature, over the latents
    assert float(by_place.max() / by_place.min()) < 2


@torch.no_grad()
def test_encoding_and_restoring_undo_the_statistics() -> None:
    decoder = {"vocab_size": 7, "mask_id": 6, "length": LENGTH, "width": 16, "layers": 2, "heads": 2}
    latent = {"latents": 8, "latent_width": 6}
    torch.manual_seed(0)
    model = AutoEncoder(encoder=SHAPE | latent, decoder=decoder | latent | {"cross_layers": (0, 1)})
    for parameter in model.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    raw = 3 * features(64) + 2
    model.feature_moments.collect(raw)
    model.feature_moments.commit()
    model.latent_moments.collect(model.encoder(model.feature_moments.standardise(raw)))
    model.latent_moments.commit()
    z_0 = model.encode(raw)
    assert model.latent_shape == (8, 6)
    torch.testing.assert_close(z_0.mean(0), torch.zeros(8, 6), rtol=0, atol=1e-3)
    torch.testing.assert_close(z_0.std(0, correction=0), torch.ones(8, 6), rtol=1e-3, atol=1e-3)
    wanted = model.encoder(model.feature_moments.standardise(raw))
    torch.testing.assert_close(model.latents_for_decoder(z_0), wanted, rtol=1e-4, atol=1e-5)


def test_latents_are_collected_in_training_only_and_before_their_corruption() -> None:
    decoder = {"vocab_size": 7, "mask_id": 6, "length": LENGTH, "width": 16, "layers": 1, "heads": 2}
    latent = {"latents": 8, "latent_width": 6}
    model = AutoEncoder(encoder=SHAPE | latent, decoder=decoder | latent | {"cross_layers": (0,)})
    x_t, select = torch.zeros(3, LENGTH, dtype=torch.long), torch.ones(3, LENGTH, dtype=torch.bool)

    def corrupt(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full_like(z, 9.0), torch.ones(z.shape[:2], dtype=torch.bool)

    model.eval()(features(), None, x_t, select, corrupt)
    model.latent_moments.commit()
    assert float(model.latent_moments.weight) == 0
    assert model.train()(features(), None, x_t, select, corrupt).shape == (3 * LENGTH, 7)
    model.latent_moments.commit()
    torch.testing.assert_close(model.latent_moments.mean, model.encoder(features()).mean(0), rtol=1e-4, atol=1e-5)
