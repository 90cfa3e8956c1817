import math

import pytest

from diladiff_cli.metrics.frontier import interpolated, spread

LINE = [{"entropy": 4.0, "genppl": 100.0, "mauve": 0.8}, {"entropy": 3.0, "genppl": 25.0, "mauve": 0.4}]


def test_genppl_is_interpolated_in_its_logarithm_and_mauve_linearly() -> None:
    assert interpolated(LINE, "genppl", 3.5) == pytest.approx(50.0)
    assert interpolated(LINE, "mauve", 3.25) == pytest.approx(0.5)


@pytest.mark.parametrize("point", LINE)
def test_a_measured_point_is_itself(point: dict[str, float]) -> None:
    assert interpolated(LINE, "genppl", point["entropy"]) == pytest.approx(point["genppl"])


@pytest.mark.parametrize("entropy", [2.9, 4.1])
def test_nothing_is_said_outside_of_what_was_measured(entropy: float) -> None:
    assert interpolated(LINE, "genppl", entropy) is None
    assert interpolated([], "genppl", entropy) is None


def test_the_nearest_neighbours_count_and_points_without_the_figure_do_not() -> None:
    points = [*LINE, {"entropy": 3.5, "genppl": 1.0, "mauve": None}]
    assert interpolated(points, "genppl", 3.25) == pytest.approx(5.0)
    assert interpolated(points, "mauve", 3.5) == pytest.approx(0.6)
    assert interpolated(points, "latent_agreement", 3.5) is None


def test_spread_is_mean_and_deviation_over_seeds() -> None:
    assert spread([2.0]) == (2.0, None)
    assert spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)))
