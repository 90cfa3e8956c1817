import math

import pytest
import torch
from scipy import integrate, stats

from diladiff_cli.core.times import logit_normal, low_discrepancy, ordered_pair, sampling_grid, scattering_stride


def uniform(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_low_discrepancy_has_one_time_in_each_stratum(batch_size: int) -> None:
    positions = torch.arange(batch_size, dtype=torch.float64)
    for offset in uniform(50, seed=0):
        t = low_discrepancy(offset, positions, batch_size)
        assert torch.equal((t * batch_size).ceil().sort().values, positions + 1)
        gaps = t.sort().values.diff()
        torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / batch_size))


@pytest.mark.parametrize("position", [0, 3, 7])
def test_low_discrepancy_times_are_each_uniform(position: int) -> None:
    offsets = uniform(5000, seed=position)
    t = torch.cat([low_discrepancy(offset, torch.tensor([position]), 8) for offset in offsets])
    assert stats.kstest(t.numpy(), "uniform").pvalue > 1e-3


def test_low_discrepancy_times_lie_in_the_half_open_interval() -> None:
    for offset in (0.0, 0.25, 1 - 2**-24):
        t = low_discrepancy(torch.tensor(offset), torch.arange(4), 4)
        assert (t > 0).all()
        assert (t <= 1).all()


def test_splitting_a_batch_over_processes_does_not_change_its_times() -> None:
    positions = torch.arange(12)
    whole = low_discrepancy(0.37, positions, 12)
    parts = [low_discrepancy(0.37, positions[rank::3], 12) for rank in range(3)]
    assert all(torch.equal(part, whole[rank::3]) for rank, part in enumerate(parts))
    assert torch.equal(torch.cat([low_discrepancy(0.37, p, 12) for p in positions.split(5)]), whole)


@pytest.mark.parametrize(("mean", "std"), [(-1.0, 1.0), (0.5, 0.3)])
def test_logit_normal_has_its_moments(mean: float, std: float) -> None:
    normal = torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = logit_normal(normal, mean, std)
    assert float(t.logit().mean()) == pytest.approx(mean, abs=0.01)
    assert float(t.logit().std()) == pytest.approx(std, abs=0.01)
    for power in (1, 2):
        wanted = integrate.quad(
            lambda n, power=power: stats.norm.pdf(n) / (1 + math.exp(-mean - std * n)) ** power, -10, 10
        )[0]
        assert float((t**power).mean()) == pytest.approx(wanted, abs=0.003)


def test_published_law_of_times_hardly_reaches_the_start_of_sampling() -> None:
    quantiles = (torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000
    t = logit_normal(torch.special.ndtri(quantiles), -1.0, 1.0)
    assert float((t > 0.95).double().mean()) == pytest.approx(4.0e-5, abs=0.1e-5)


def test_pair_is_ordered_and_keeps_both_times() -> None:
    first, second = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0.7, 0.1, 0.5])
    t, r = ordered_pair(first, second)
    assert torch.equal(t, torch.tensor([0.7, 0.9, 0.5]))
    assert torch.equal(r, torch.tensor([0.2, 0.1, 0.5]))


@pytest.mark.parametrize("steps", [1, 2, 5, 200])
def test_sampling_grid_falls_evenly_from_one_to_exactly_zero(steps: int) -> None:
    grid = sampling_grid(steps)
    assert grid.dtype == torch.float64
    assert (len(grid), float(grid[0]), float(grid[-1])) == (steps + 1, 1.0, 0.0)
    torch.testing.assert_close(grid.diff(), torch.full((steps,), -1 / steps, dtype=torch.float64))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_every_part_of_a_batch_gets_times_from_all_over_the_interval(parts: int) -> None:
    positions = torch.arange(512)
    for part in positions.chunk(parts):
        t = low_discrepancy(0.3, part, 512)
        assert float(t.mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("size", range(1, 65))
def test_scattering_reaches_every_stratum_once(size: int) -> None:
    assert len({i * scattering_stride(size) % size for i in range(size)}) == size
