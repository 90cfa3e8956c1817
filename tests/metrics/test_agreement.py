import pytest
import torch

from diladiff_cli.metrics.agreement import agreement_figures, chance_agreement, latent_agreement


def test_agreement_counts_equal_tokens_at_equal_positions() -> None:
    first, second = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 3, 2], [4, 5, 9]])
    assert latent_agreement(first, second) == pytest.approx(3 / 6)
    assert latent_agreement(first, first) == 1


def test_chance_agreement_pairs_different_latents() -> None:
    tokens = torch.tensor([[1, 2], [1, 3], [1, 4]])
    assert chance_agreement(tokens, tokens) == pytest.approx(1 / 2)


def test_decodings_must_pair_up() -> None:
    with pytest.raises(ValueError, match="pair"):
        latent_agreement(torch.zeros(2, 3), torch.zeros(2, 4))


def test_all_pairs_of_a_latents_decodings_count() -> None:
    decodings = torch.tensor([[[1, 1], [1, 1], [1, 2]], [[3, 3], [3, 3], [3, 4]]])
    figures = agreement_figures(decodings)
    assert figures["latent_agreement"] == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert figures["chance_agreement"] == 0
    assert (figures["latents"], figures["decodings"]) == (2, 3)


def test_a_single_latent_has_no_chance_and_a_single_decoding_no_agreement() -> None:
    assert agreement_figures(torch.ones(1, 2, 3))["chance_agreement"] is None
    with pytest.raises(ValueError, match="two decodings"):
        agreement_figures(torch.ones(4, 1, 3))
