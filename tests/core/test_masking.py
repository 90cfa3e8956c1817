import pytest
import torch
from scipy import stats

from diladiff_cli.core.masking import alpha, apply_mask, draw_mask, elbo_weight


def uniform(*shape: int, seed: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def binomial_p_value(counts: torch.Tensor, n: int, p: float) -> float:
    """Chi-square of counts in 0 to n against Binomial(n, p); every class must be well filled."""
    expected = len(counts) * stats.binom.pmf(range(n + 1), n, p)
    assert expected.min() >= 5
    return float(stats.chisquare(counts.bincount(minlength=n + 1).numpy(), expected).pvalue)


@pytest.mark.parametrize("time", [0.3, 0.5, 0.7])
def test_masked_counts_are_binomial(time: float) -> None:
    masked = draw_mask(torch.full((40_000,), time), uniform(40_000, 6, seed=0))
    assert binomial_p_value(masked.sum(1), 6, time) > 1e-3
    assert binomial_p_value(masked.sum(1), 6, time + 0.02) < 1e-6


def test_reveal_counts_of_a_reverse_step_are_binomial() -> None:
    time, earlier, length = 0.8, 0.5, 6
    draws = uniform(100_000, length, seed=1)
    before = draw_mask(torch.full((100_000,), time), draws)
    after = draw_mask(torch.full((100_000,), earlier), draws)
    assert not (after & ~before).any()
    revealed = (before & ~after).sum(1)[before.sum(1) == 5]
    assert binomial_p_value(revealed, 5, (time - earlier) / time) > 1e-3
    assert binomial_p_value(revealed, 5, (time - earlier) / time + 0.01) < 1e-6


def test_everything_is_masked_at_one_and_nothing_at_zero() -> None:
    draws = torch.stack([torch.zeros(3), torch.full((3,), 1 - 2**-24)]).T
    assert draw_mask(torch.tensor([1.0, 1.0, 1.0]), draws).all()
    assert not draw_mask(torch.tensor([0.0, 0.0, 0.0]), draws).any()


def test_elbo_weight_is_the_rate_of_alpha_over_the_share_masked() -> None:
    t = torch.linspace(0.05, 1, 20, requires_grad=True)
    rate = torch.autograd.grad(alpha(t).sum(), t)[0]
    torch.testing.assert_close(elbo_weight(t), -rate / (1 - alpha(t)))


def test_only_masked_tokens_are_replaced() -> None:
    x, is_masked = torch.tensor([[5, 6, 7]]), torch.tensor([[True, False, True]])
    assert apply_mask(x, is_masked, 9).tolist() == [[9, 6, 9]]
    assert x.tolist() == [[5, 6, 7]]
