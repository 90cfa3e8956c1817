import pytest
import torch
from torch import Tensor

from diladiff_cli.core.augment import augment_features, augment_latents

B, N, C = 2000, 16, 8
HALF = torch.arange(B) % 2 == 0
ALL, NONE = torch.ones(B, dtype=torch.bool), torch.zeros(B, dtype=torch.bool)
MEAN = torch.linspace(-3, 3, N * C).reshape(N, C)
STD = torch.linspace(0.2, 2, N * C).reshape(N, C)


def draws(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values, uniform and normal draws of shape (B, N, C)."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(B, N, C, generator=generator)
    return values, torch.rand(B, N, C, generator=generator), torch.randn(B, N, C, generator=generator)


def features(
    first: Tensor, seed: int = 0, sigma_feat: float = 0.5, p_feat_mask: float = 0.7, unit: str = "position"
) -> tuple[Tensor, Tensor, Tensor]:
    """The features, the augmented ones and their visibility."""
    values, uniform, noise = draws(seed)
    out, visible = augment_features(
        values,
        first=first,
        uniform=uniform,
        noise=noise,
        sigma_feat=sigma_feat,
        p_feat_mask=p_feat_mask,
        unit=unit,
    )
    return values, out, visible


def latents(
    first: Tensor, seed: int = 0, p_latent_drop: float = 0.75, p_latent_mask: float = 0.7, unit: str = "position"
) -> tuple[Tensor, Tensor, Tensor]:
    """The latents, the augmented ones and their visibility."""
    values, uniform, noise = draws(seed)
    out, visible = augment_latents(
        values,
        first=first,
        drop=torch.rand(B, generator=torch.Generator().manual_seed(seed + 100)),
        uniform=uniform,
        noise=noise,
        mean=MEAN,
        std=STD,
        p_latent_drop=p_latent_drop,
        p_latent_mask=p_latent_mask,
        unit=unit,
    )
    return values, out, visible


@pytest.mark.parametrize("rate", [0.3, 0.7])
def test_feature_positions_are_masked_at_the_rate_zeroed_and_hidden(rate: float) -> None:
    values, out, visible = features(ALL, p_feat_mask=rate)
    assert float((~visible).double().mean()) == pytest.approx(rate, abs=0.01)
    assert torch.equal(out, values * visible[..., None])


def test_feature_noise_preserves_variance_and_has_its_own() -> None:
    values, out, visible = features(NONE, sigma_feat=0.6)
    assert visible.all()
    assert float(out.var()) == pytest.approx(1, abs=0.02)
    added = out - 0.8 * values
    assert float(added.std()) == pytest.approx(0.6, abs=0.01)
    assert float((added * values).mean()) == pytest.approx(0, abs=0.01)


def test_each_example_gets_one_of_the_two_feature_corruptions() -> None:
    _, masked, masked_visible = features(ALL)
    _, noisy, _ = features(NONE)
    _, out, visible = features(HALF)
    assert torch.equal(out[HALF], masked[HALF])
    assert torch.equal(out[~HALF], noisy[~HALF])
    assert torch.equal(visible[HALF], masked_visible[HALF])
    assert visible[~HALF].all()


def test_elements_are_masked_one_by_one_and_a_vector_stays_visible_while_any_is_left() -> None:
    for values, out, visible in (
        features(ALL, p_feat_mask=0.7, unit="element"),
        latents(NONE, p_latent_mask=0.7, unit="element"),
    ):
        kept = out != 0
        assert torch.equal(out[kept], values[kept])
        assert float(kept.double().mean()) == pytest.approx(0.3, abs=0.01)
        assert torch.equal(visible, kept.any(-1))
        assert float((~visible).double().mean()) == pytest.approx(0.7**C, abs=0.01)


def test_one_uniform_per_position_is_enough() -> None:
    values, uniform, noise = draws(0)
    narrow, _ = augment_features(
        values, first=ALL, uniform=uniform[..., :1], noise=noise, sigma_feat=0.5, p_feat_mask=0.7
    )
    assert torch.equal(narrow, features(ALL)[1])


@pytest.mark.parametrize("rate", [0.5, 0.75])
def test_latents_are_dropped_at_the_rate_and_stay_visible(rate: float) -> None:
    values, out, visible = latents(ALL, p_latent_drop=rate)
    dropped = (out != values).all(-1).all(-1)
    assert torch.equal(out[~dropped], values[~dropped])
    assert float(dropped.double().mean()) == pytest.approx(rate, abs=0.04)
    assert visible.all()


def test_dropped_latents_have_the_running_mean_and_deviation() -> None:
    _, out, _ = latents(ALL, p_latent_drop=1.0)
    torch.testing.assert_close(out.mean(0), MEAN, rtol=0, atol=0.2)
    torch.testing.assert_close(out.std(0) / STD, torch.ones(N, C), rtol=0, atol=0.1)
    white = (out - MEAN) / STD
    assert float(white.mean()) == pytest.approx(0, abs=0.01)
    assert float(white.std()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("rate", [0.4, 0.7])
def test_latent_positions_of_the_other_half_are_masked_never_dropped(rate: float) -> None:
    values, out, visible = latents(NONE, p_latent_mask=rate, p_latent_drop=1.0)
    assert float((~visible).double().mean()) == pytest.approx(rate, abs=0.01)
    assert torch.equal(out, values * visible[..., None])


def test_each_example_gets_one_of_the_two_latent_corruptions() -> None:
    _, out, visible = latents(HALF)
    _, dropped, _ = latents(ALL)
    _, masked, masked_visible = latents(NONE)
    assert torch.equal(out, torch.where(HALF[:, None, None], dropped, masked))
    assert torch.equal(visible, HALF[:, None] | masked_visible)


@pytest.mark.parametrize("unit", ["position", "element"])
def test_masking_everything_hides_whole_rows_and_masking_nothing_changes_nothing(unit: str) -> None:
    hidden = (features(ALL, p_feat_mask=1.0, unit=unit), latents(NONE, p_latent_mask=1.0, unit=unit))
    assert all(not visible.any() and not out.any() for _, out, visible in hidden)
    untouched = (
        features(ALL, p_feat_mask=0.0, unit=unit),
        features(NONE, sigma_feat=0.0, unit=unit),
        latents(NONE, p_latent_mask=0.0, unit=unit),
        latents(ALL, p_latent_drop=0.0, unit=unit),
    )
    assert all(visible.all() and torch.equal(out, values) for values, out, visible in untouched)
