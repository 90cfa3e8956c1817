import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.draw import BLOCK, draw_tokens, inverse_cdf, next_uniform
from diladiff_cli.core.textbook import gumbel_draw, keep_nucleus

NEVER = -torch.inf
LARGEST = 1 - 2.0**-53  # the largest double below 1


def uniform(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def p_value(tokens: Tensor, probabilities: Tensor) -> float:
    """Chi-square of tokens against probabilities; those of probability zero must not occur."""
    counts, possible = tokens.bincount(minlength=len(probabilities)), probabilities > 0
    assert not counts[~possible].any()
    expected = len(tokens) * probabilities[possible].double()
    return float(stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue)


LOGITS = torch.randn(12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_follow_the_tempered_distribution(temperature: float) -> None:
    tokens, _ = draw_tokens(LOGITS.expand(50_000, 12), uniform(50_000, seed=1), temperature)
    assert p_value(tokens, (LOGITS.double() / temperature).softmax(-1)) > 1e-3
    assert p_value(tokens, (LOGITS.double() / (1.1 * temperature)).softmax(-1)) < 1e-6


@pytest.mark.parametrize("top_p", [0.6, 0.9])
def test_tokens_follow_the_renormalised_nucleus(top_p: float) -> None:
    probabilities = LOGITS.double().softmax(-1)
    ordered, order = probabilities.sort(descending=True)
    size = int((ordered.cumsum(0) < top_p).sum()) + 1  # with the one that crosses
    kept = torch.zeros_like(probabilities).scatter(0, order[:size], ordered[:size])
    tokens, _ = draw_tokens(LOGITS.expand(50_000, 12), uniform(50_000, seed=2), top_p=top_p)
    assert p_value(tokens, kept / kept.sum()) > 1e-3


def test_bounds_between_blocks_of_tokens_are_those_of_a_sum_in_float64() -> None:
    logits = torch.randn(1, 4096, generator=torch.Generator().manual_seed(6))
    weights = logits.softmax(-1).double()[0]
    cumulative = weights.cumsum(0) / weights.sum()
    last = range(BLOCK - 1, 4095, BLOCK)
    beside = torch.stack([cumulative[k] + side for k in last for side in (-1e-12, 1e-12)])
    tokens, _ = draw_tokens(logits.expand(len(beside), -1), beside)
    assert tokens.tolist() == [k + following for k in last for following in (0, 1)]


def test_each_row_has_its_own_distribution() -> None:
    logits = torch.full((4, 4), NEVER)
    logits[range(4), [2, 0, 3, 1]] = 1.0
    tokens, probability = draw_tokens(logits, uniform(4, seed=3))
    assert tokens.tolist() == [2, 0, 3, 1]
    assert probability.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("top_p", [1.0, 0.99])
@pytest.mark.parametrize("impossible", [[0], [3], [5], [0, 1, 4, 5], [1, 2, 3, 4]])
def test_impossible_tokens_are_never_drawn(impossible: list[int], top_p: float) -> None:
    logits = torch.randn(2000, 6, generator=torch.Generator().manual_seed(4))
    logits[:, impossible] = NEVER
    edges = torch.tensor([0.0, 2.0**-53, LARGEST, 1.0], dtype=torch.float64).repeat(250)
    tokens, _ = draw_tokens(logits, torch.cat([edges, uniform(1000, seed=5)]), top_p=top_p)
    assert not torch.isin(tokens, torch.tensor(impossible)).any()
    possible = [token for token in range(6) if token not in impossible]
    if top_p == 1.0:
        assert set(tokens.tolist()) == set(possible)
        assert tokens[:4].tolist() == [possible[0], possible[0], possible[-1], possible[-1]]


def test_tail_beyond_single_precision_is_reached() -> None:
    logits = torch.tensor([[0.0, -23.0]]).expand(2, 2)  # the second has the probability 1.03e-10
    points = torch.tensor([1 - 1e-10, 1 - 1.1e-10], dtype=torch.float64)
    assert draw_tokens(logits, points)[0].tolist() == [1, 0]


@pytest.mark.parametrize("size", [BLOCK, 3 * BLOCK])
@pytest.mark.parametrize("place", [0, 100, BLOCK - 1])
def test_a_rare_token_among_many_is_drawn_as_often_as_it_should_be(size: int, place: int) -> None:
    logits = torch.randn(size, generator=torch.Generator().manual_seed(9))
    logits[place] = -20.0  # far below the rounding of the others' sum in single precision

    def first_point_beyond(token: int) -> float:
        low, high = 0.0, 1.0  # tokens do not fall as the point rises
        for _ in range(60):
            middle = (low + high) / 2
            drawn, _ = draw_tokens(logits[None], torch.tensor([middle], dtype=torch.float64))
            low, high = (low, middle) if drawn > token else (middle, high)
        return high

    share = first_point_beyond(place) - (first_point_beyond(place - 1) if place else 0.0)
    assert share == pytest.approx(float(logits.double().softmax(-1)[place]), rel=1e-3, abs=0)


def test_probability_is_the_tempered_probability_of_the_drawn_token_before_the_nucleus() -> None:
    rows = LOGITS.expand(200, 12)
    tokens, probability = draw_tokens(rows, uniform(200, seed=6), temperature=0.7, top_p=0.8)
    torch.testing.assert_close(probability, (LOGITS.double() / 0.7).softmax(-1)[tokens])
    assert len(set(tokens.tolist())) > 2


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_rows_give_no_tokens(temperature: float) -> None:
    tokens, probability = draw_tokens(torch.empty(0, 5), torch.empty(0, dtype=torch.float64), temperature, 0.9)
    assert tokens.shape == probability.shape == (0,)


def test_temperature_zero_takes_the_likeliest_token() -> None:
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(7))
    tokens, probability = draw_tokens(logits, uniform(50, seed=8), temperature=0.0)
    assert torch.equal(tokens, logits.argmax(-1))
    torch.testing.assert_close(probability, logits.double().softmax(-1).max(-1).values)


def test_the_smallest_temperature_draws_the_likeliest_token() -> None:
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(17))
    assert torch.equal(draw_tokens(logits, uniform(50, seed=18), 1e-300)[0], logits.argmax(-1))


PROBABILITIES = torch.tensor([[0.125, 0.25, 0.5, 0.125]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [
        (1e-6, [0, 0, 0.5, 0]),
        (0.5, [0, 0, 0.5, 0]),  # the first reaches it
        (0.51, [0, 0.25, 0.5, 0]),  # the second crosses it
        (0.75, [0, 0.25, 0.5, 0]),
        (0.76, [0.125, 0.25, 0.5, 0.125]),  # two that tie cross it together
    ],
)
def test_nucleus_keeps_the_tokens_that_cross(top_p: float, kept: list[float]) -> None:
    tokens, _ = draw_tokens(PROBABILITIES.log().expand(500, 4), uniform(500, seed=9), top_p=top_p)
    assert set(tokens.tolist()) == {token for token in range(4) if kept[token]}


def test_the_textbooks_nucleus_keeps_the_likeliest_and_of_those_that_tie_as_many_as_it_takes() -> None:
    for top_p, wanted in ((1e-6, [0.5]), (0.5, [0.5]), (0.51, [0.5, 0.25]), (0.76, [0.5, 0.25, 0.125])):
        kept = keep_nucleus(PROBABILITIES, top_p)
        assert sorted(kept[kept > 0].tolist(), reverse=True) == wanted
        assert torch.equal(kept[kept > 0], PROBABILITIES[kept > 0])


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_rows_have_their_own_nucleus_in_a_large_vocabulary(top_p: float) -> None:
    logits = 2 * torch.randn(400, 300, generator=torch.Generator().manual_seed(10))
    kept = keep_nucleus(logits.double().softmax(-1), top_p)
    found = {int(token) for seed in range(20) for token in draw_tokens(logits, uniform(400, seed), top_p=top_p)[0]}
    for seed in range(20):
        tokens, _ = draw_tokens(logits, uniform(400, seed), top_p=top_p)
        assert (kept.gather(1, tokens[:, None]) > 0).all()
    assert len(found) > 50


def test_a_draw_within_the_nucleus_is_the_same_with_and_without_it() -> None:
    rows = LOGITS.expand(2000, 12)
    free, _ = draw_tokens(rows, uniform(2000, seed=11))
    held, _ = draw_tokens(rows, uniform(2000, seed=11), top_p=0.6)
    inside = (keep_nucleus(LOGITS.double().softmax(-1)[None], 0.6)[0] > 0)[free]
    assert torch.equal(free[inside], held[inside])
    assert not inside.all()


def test_the_sequence_of_uniform_numbers_is_uniform_and_does_not_follow_the_first() -> None:
    first = torch.linspace(0.9, 1 - 2.0**-53, 50_000, dtype=torch.float64)  # as those that fall outside a nucleus
    second = next_uniform(first)
    third = next_uniform(second)
    for numbers in (second, third):
        assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-3
        assert 0 <= float(numbers.min()) <= float(numbers.max()) < 1
    for pair in ((first, second), (second, third), (first, third)):
        assert abs(stats.spearmanr(*(x.numpy() for x in pair)).statistic) < 0.02


def test_hash_of_uniform_numbers_is_splitmix64() -> None:
    mask, wanted = (1 << 64) - 1, []
    numbers = [0.0, 0.5, 0.1, LARGEST]
    for number in numbers:
        x = (int(torch.tensor(number, dtype=torch.float64).view(torch.int64)) + 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        wanted.append(((x ^ (x >> 31)) >> 11) * 2.0**-53)
    assert next_uniform(torch.tensor(numbers, dtype=torch.float64)).tolist() == wanted


def test_points_at_the_ends_find_tokens_of_positive_weight() -> None:
    cumulative = torch.tensor([[0.0, 0.1, 0.1, 0.4, 0.4]], dtype=torch.float64).repeat(3, 1)
    points = torch.tensor([[0.0], [0.4 * LARGEST], [0.4]], dtype=torch.float64)
    assert inverse_cdf(cumulative, points).tolist() == [[1], [3], [3]]


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, BLOCK + 1, 1000, 4 * BLOCK])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_a_vocabulary_find_what_one_sum_over_all_of_it_finds(size: int, dtype: torch.dtype) -> None:
    logits = 3 * torch.randn(3000, size, generator=torch.Generator().manual_seed(13), dtype=dtype)
    logits[:, ::3] = NEVER
    points = uniform(3000, seed=14)
    cumulative = logits.double().softmax(-1).cumsum(-1)
    wanted = torch.searchsorted(cumulative, points[:, None] * cumulative[:, -1:], right=True).squeeze(-1)
    tokens, probability = draw_tokens(logits, points)
    assert (tokens != wanted).sum() <= 1  # a point within rounding of a border
    exact = logits.double().softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(probability, exact, rtol=1e-6, atol=0.0)  # that of single float32 weights


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logits_of_half_precision_are_weighed_in_single_precision(temperature: float) -> None:
    logits = 8 * torch.randn(200, 12, generator=torch.Generator().manual_seed(15)).bfloat16()
    tokens, probability = draw_tokens(logits, uniform(200, seed=16), temperature)
    exact = (logits.double() / temperature).softmax(-1).gather(-1, tokens[:, None]).squeeze(-1)
    torch.testing.assert_close(probability, exact, rtol=1e-5, atol=0.0)


def test_blocks_of_no_weight_are_never_drawn_from() -> None:
    logits = torch.full((5, 4 * BLOCK), NEVER)
    logits[:, BLOCK + 3] = 0.0
    points = torch.tensor([0.0, 2.0**-53, 0.5, LARGEST, 1.0], dtype=torch.float64)
    assert draw_tokens(logits, points, top_p=0.9)[0].tolist() == 5 * [BLOCK + 3]


def test_gumbel_draws_follow_the_distribution() -> None:
    probabilities = LOGITS.double().softmax(-1)
    tokens = gumbel_draw(probabilities.expand(50_000, 12), torch.Generator().manual_seed(12))
    assert p_value(tokens, probabilities) > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(bad: float, temperature: float) -> None:
    logits = torch.zeros(3, 2 * BLOCK)
    logits[1, 5] = bad
    with pytest.raises(FloatingPointError, match="logits are not finite"):
        draw_tokens(logits, uniform(3, seed=17), temperature, top_p=0.9)
