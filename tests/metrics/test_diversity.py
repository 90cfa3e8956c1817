import math

import pytest

from diladiff_cli.metrics.diversity import distinct_n, repetition, token_entropy


def test_entropy_is_averaged_over_samples() -> None:
    # Uniform over four tokens, and a half with two quarters.
    assert token_entropy([[1, 2, 3, 4], [7, 7, 8, 9]]) == pytest.approx((math.log(4) + 1.5 * math.log(2)) / 2)
    assert token_entropy([[5, 5, 5]]) == pytest.approx(0)
    assert token_entropy([[], [1, 2]]) == pytest.approx(math.log(2))
    assert token_entropy([[]]) is None


def test_distinct_n_counts_over_all_samples_but_not_across_them() -> None:
    samples = [[1, 2, 1, 2], [1, 2, 3]]
    assert distinct_n(samples, 1) == pytest.approx(3 / 7)
    assert distinct_n(samples, 2) == pytest.approx(3 / 5)  # 12 21 12 | 12 23
    assert distinct_n(samples, 3) == pytest.approx(3 / 3)  # 121 212 | 123
    assert distinct_n(samples, 5) is None


def test_repetition_is_the_share_of_4_grams_seen_before() -> None:
    assert repetition([[1, 2, 3, 4, 5, 6]]) == 0
    assert repetition([[9] * 7]) == pytest.approx(3 / 4)  # four equal 4-grams, three of them repeats
    assert repetition([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition([[9] * 7, [1, 2, 3, 4], [1, 2]]) == pytest.approx(3 / 8)
    assert repetition([[1, 2, 3]]) is None
