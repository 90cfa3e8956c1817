import math

import pytest

from diladiff_cli.metrics.frontier import interpolated, mean_and_std

LINE = [{"entropy": 4.0, "genppl": 100.0, "mauve": 0.8}, {"entropy": 3.0, "genppl": 25.0, "mauve": 0.4}]


def test_between_two_points_genppl_is_interpolated_in_its_logarithm_and_mauve_linearly() -> None:
    assert interpolated(LINE, "genppl", 3.5) == pytest.approx(50.0)
    assert interpolated(LINE, "mauve", 3.25) == pytest.approx(0.5)


@pytest.mark.parametrize("point", LINE)
def test_a_measured_point_is_itself(point: dict[str, float]) -> None:
    assert interpolated(LINE, "genppl", point["entropy"]) == pytest.approx(point["genppl"])


@pytest.mark.parametrize("entropy", [2.9, 4.1])
def test_nothing_is_said_outside_of_what_was_measured(entropy: float) -> None:
    assert interpolated(LINE, "genppl", entropy) is None
    assert interpolated([], "genppl", entropy) is None


def test_points_without_the_figure_do_not_count_and_an_entropy_counts_once() -> None:
    points = [*LINE, {"entropy": 3.5, "genppl": 1.0, "mauve": None}, {"entropy": 4.0, "genppl": 100.0, "mauve": 0.8}]
    assert interpolated(points, "mauve", 3.5) == pytest.approx(0.6)
    assert interpolated(points, "latent_agreement", 3.5) is None
    assert interpolated(points, "genppl", 3.5) == pytest.approx(1.0)


def test_a_convex_line_is_followed_far_closer_than_by_its_chords() -> None:
    """log GenPPL = (entropy - 3)^2, known at four entropies; a chord is 0.0225 too high in its middle."""
    known = [{"entropy": e, "genppl": math.exp((e - 3.0) ** 2)} for e in (3.1, 3.4, 3.7, 4.0)]
    found = interpolated(known, "genppl", 3.55)
    assert found is not None
    assert math.log(found) == pytest.approx(0.55**2, abs=0.004)


def test_between_points_nothing_beyond_them_is_found() -> None:
    points = [{"entropy": e, "mauve": m} for e, m in ((3.0, 0.2), (3.1, 0.9), (3.5, 0.9), (4.0, 0.1))]
    between = [interpolated(points, "mauve", 3.0 + i / 100) for i in range(101)]
    assert all(value is not None and 0.1 - 1e-9 <= value <= 0.9 + 1e-9 for value in between)


def test_spread_is_mean_and_deviation_over_seeds() -> None:
    assert mean_and_std([2.0]) == (2.0, None)
    assert mean_and_std([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
