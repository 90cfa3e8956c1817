from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.splitmix import mix
from diladiff_cli.core.splitmix import splitmix64 as numbers_at
from diladiff_cli.core.times import low_discrepancy
from diladiff_cli.runtime.randomness import BatchRng, SampleRng, _unit, generator

CPU = torch.device("cpu")


def batch_rng(places: range, seed: int = 1, step: int = 2) -> BatchRng:
    return BatchRng(seed, step, places, 8, CPU)


DRAWS: dict[str, Callable[[BatchRng], Tensor]] = {
    "uniform": lambda rng: rng.uniform(3, 2),
    "normal": lambda rng: rng.normal(5),
    "scalar": lambda rng: rng.uniform(),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_the_numbers_of_an_example_do_not_depend_on_its_micro_batch(kind: str) -> None:
    draw = DRAWS[kind]
    whole = draw(batch_rng(range(8)))
    parts = [draw(batch_rng(range(start, start + 2))) for start in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), whole)


def test_what_a_micro_batch_shares_is_the_same_in_all_of_them() -> None:
    first, second = batch_rng(range(4)), batch_rng(range(4, 8))
    assert torch.equal(first.shared_uniform(), second.shared_uniform())
    assert torch.equal(torch.cat([first.positions, second.positions]), torch.arange(8))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_a_share_of_the_places_is_spread_evenly_over_micro_batches(share: float) -> None:
    whole = BatchRng(1, 2, range(80), 80, CPU).some(share).tolist()
    assert len(whole) == round(80 * share)
    parts = [BatchRng(1, 2, range(start, start + 16), 80, CPU).some(share).tolist() for start in range(0, 80, 16)]
    assert [16 * i + row for i, part in enumerate(parts) for row in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("share", [0.01, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 8])
def test_a_share_is_one_over_steps_however_small_the_batch(share: float, batch_size: int) -> None:
    rngs = [BatchRng(1, step, range(batch_size), batch_size, CPU) for step in range(1000)]
    counts = [len(rng.some(share)) for rng in rngs]
    assert abs(sum(counts) - share * 1000 * batch_size) <= 1
    assert max(counts) - min(counts) <= 1
    whole = BatchRng(1, 0, range(10 * batch_size), 10 * batch_size, CPU).some(share).tolist()
    assert [batch_size * step + row for step in range(10) for row in rngs[step].some(share).tolist()] == whole


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_times_of_a_share_of_the_places_have_the_law_of_all(share: float) -> None:
    found = []
    for step in range(250):
        rng = batch_rng(range(8), step=step)
        found.append(low_discrepancy(rng.shared_uniform(), rng.positions, 8)[rng.some(share)])
    assert stats.kstest(torch.cat(found).numpy(), "uniform").pvalue > 1e-3


def test_seed_step_and_place_each_change_the_numbers() -> None:
    draws = torch.stack(
        [batch_rng(range(8), seed, step).uniform(4)[place] for seed in (1, 2) for step in (2, 3) for place in (0, 1)]
    )
    assert len(torch.unique(draws, dim=0)) == 8
    assert not torch.equal(batch_rng(range(2)).shared_uniform(), batch_rng(range(2), step=3).shared_uniform())


def test_two_draws_of_one_example_differ() -> None:
    rng = batch_rng(range(2))
    assert not torch.equal(rng.uniform(4), rng.uniform(4))


MANY = 1 << 18


def correlations(*columns: Tensor) -> np.ndarray:
    """Between all pairs of different columns, in standard deviations of those of independent numbers."""
    found = np.corrcoef(torch.stack(columns).double().numpy())
    return np.abs(found[np.triu_indices(len(columns), 1)]) * len(columns[0]) ** 0.5


def test_two_draws_of_each_example_are_uncorrelated() -> None:
    rng = BatchRng(1, 2, range(MANY), MANY, CPU)
    draws = [draw() for draw in (rng.uniform, rng.uniform, rng.normal, rng.normal, rng.uniform)]
    assert correlations(*draws).max() < 4
    assert correlations(*[(draw - draw.mean()) ** 2 for draw in draws]).max() < 4


@pytest.mark.parametrize("name", ["uniform", "normal", "shared_uniform"])
def test_consecutive_draws_of_one_example_are_uncorrelated(name: str) -> None:
    rng = batch_rng(range(3, 4))
    draws = torch.stack([getattr(rng, name)().squeeze() for _ in range(4000)])
    assert correlations(draws[:-2], draws[1:-1], draws[2:]).max() < 4


@pytest.mark.parametrize("count", [2, 6])
def test_normals_of_one_draw_are_uncorrelated_and_so_are_their_squares(count: int) -> None:
    """The two of a pair share a radius and an angle."""
    columns = BatchRng(1, 2, range(MANY), MANY, CPU).normal(count).unbind(1)
    squares = [column**2 for column in columns]
    assert correlations(*columns, *squares).max() < 4


@pytest.mark.parametrize("shape", [(), (1,), (5,), (3, 3), (7, 1, 3)])
def test_an_odd_count_of_normals_has_its_shape_and_its_law(shape: tuple[int, ...]) -> None:
    found = BatchRng(1, 2, range(3000), 3000, CPU).normal(*shape)
    assert found.shape == (3000, *shape)
    assert len(found.unique()) > 0.999 * found.numel()
    assert stats.kstest(found.flatten().numpy(), "norm").pvalue > 1e-3
    last = found.reshape(3000, -1)[:, -1]
    assert stats.kstest(last.numpy(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 1 << 40])
def test_many_normals_have_the_moments_and_the_law_of_normal_ones(seed: int) -> None:
    found = BatchRng(seed, 7, range(512), 512, CPU).normal(MANY // 512).double().flatten().numpy()
    bounds = {"mean": 1.0, "variance": 2.0, "skewness": 6.0, "kurtosis": 24.0}  # variances of the estimates, times n
    errors = (found.mean(), found.var() - 1, stats.skew(found), stats.kurtosis(found))
    for (name, variance), error in zip(bounds.items(), errors, strict=True):
        assert abs(error) < 4 * (variance / MANY) ** 0.5, name
    assert 4.2 < np.abs(found).max() < 6.7
    assert stats.kstest(found, "norm").pvalue > 1e-3


@pytest.mark.parametrize("seed", [0, 1, 1 << 40])
def test_many_uniforms_lie_in_their_interval_and_have_their_law(seed: int) -> None:
    found = BatchRng(seed, 7, range(512), 512, CPU).uniform(MANY // 512).flatten()
    assert 0 <= found.min() < 1e-4
    assert 1 - 1e-4 < found.max() < 1
    assert stats.kstest(found.double().numpy(), "uniform").pvalue > 1e-3


def test_all_bits_of_a_number_give_a_uniform_below_one() -> None:
    bits = torch.tensor([0, (1 << 40) - 1, 1 << 40, (1 << 63) - 1, -(1 << 63), -1])
    grid = 2.0**-24
    assert _unit(bits).tolist() == [0.0, 0.0, grid, 0.5 - grid, 0.5, 1 - grid]


def splitmix64(seed: int, count: int) -> list[int]:
    """The first numbers of the generator, as it was published."""
    mask, found = (1 << 64) - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        found.append(z ^ (z >> 31))
    return found


def signed(number: int) -> int:
    return int(np.array(number, dtype=np.uint64).astype(np.int64))


def unsigned(numbers: Tensor) -> list[int]:
    found: list[int] = numbers.numpy().view(np.uint64).tolist()
    return found


PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
KEYS = [0, 1, 1234567, 0x9E3779B97F4A7C15, (1 << 63) - 1, 1 << 63, (1 << 63) + 12345, (1 << 64) - 1]


def test_streams_have_the_published_numbers_of_splitmix64() -> None:
    assert splitmix64(1234567, 5) == PUBLISHED
    assert unsigned(numbers_at(1234567, torch.arange(5))) == PUBLISHED


@pytest.mark.parametrize("key", KEYS)
def test_streams_are_those_of_splitmix64(key: int) -> None:
    wanted = splitmix64(key, 1000)
    assert unsigned(numbers_at(signed(key), torch.arange(1000))) == wanted
    assert unsigned(numbers_at(torch.tensor([signed(key)]), torch.arange(1000))) == wanted
    assert unsigned(numbers_at(signed(key), torch.tensor([999, 0, 500]))) == [wanted[999], wanted[0], wanted[500]]


def test_streams_of_several_keys_are_drawn_at_once() -> None:
    found = numbers_at(torch.tensor([[signed(key)] for key in KEYS]), torch.arange(7))
    assert [unsigned(row) for row in found] == [splitmix64(key, 7) for key in KEYS]


def test_numbers_over_steps_and_places_have_their_laws() -> None:
    uniforms, normals, shared = [], [], []
    for step in range(250):
        rng = batch_rng(range(8), step=step)
        uniforms.append(rng.uniform())
        normals.append(rng.normal())
        shared.append(rng.shared_uniform())
    assert stats.kstest(torch.cat(uniforms).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(torch.cat(normals).numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(torch.stack(shared).numpy(), "uniform").pvalue > 1e-3
    grid = torch.stack(uniforms)  # (steps, places): neighbours must not move together
    assert abs(stats.pearsonr(grid[:-1].flatten(), grid[1:].flatten()).statistic) < 0.08
    assert abs(stats.pearsonr(grid[:, :-1].flatten(), grid[:, 1:].flatten()).statistic) < 0.08


def test_hashes_spread_evenly_and_do_not_collide() -> None:
    hashes = [mix(seed, step, place) for seed in range(10) for step in range(100) for place in range(-1, 20)]
    assert len(set(hashes)) == len(hashes)
    assert all(0 <= h < 1 << 63 for h in hashes)
    for shift in (0, 20, 59):
        counts = torch.bincount(torch.tensor([(h >> shift) & 15 for h in hashes]), minlength=16)
        assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert mix(1, 2) != mix(2, 1)


def test_a_generator_is_made_of_its_parts() -> None:
    draws = [torch.rand(3, generator=generator(CPU, *parts)) for parts in ((1, 2), (1, 2), (1, 3))]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_numbers_of_a_sample_do_not_depend_on_the_others() -> None:
    whole, part = SampleRng(3, range(6)), SampleRng(3, range(2, 4))
    for kind in (SampleRng.REVEAL, SampleRng.TOKEN):
        assert torch.equal(whole.uniform(kind, 5)[2:4], part.uniform(kind, 5))
    assert torch.equal(whole.normal(SampleRng.START, 2, 3)[2:4], part.normal(SampleRng.START, 2, 3))
    assert whole.normal(SampleRng.START, 2).dtype == torch.float64


def test_kinds_samples_and_seeds_have_streams_of_their_own() -> None:
    rng = SampleRng(3, range(2))
    first = rng.uniform(SampleRng.REVEAL, 4)
    rng.normal(SampleRng.START, 7)
    assert torch.equal(rng.uniform(SampleRng.REVEAL, 4), first)
    others = [rng.uniform(SampleRng.TOKEN, 4), SampleRng(4, range(2)).uniform(SampleRng.REVEAL, 4)]
    assert len(torch.unique(torch.cat([first, *others]), dim=0)) == 6


def test_more_steps_leave_the_first_numbers_of_a_stream_alone() -> None:
    rng = SampleRng(0, range(3))
    short, long = rng.normal(SampleRng.GAMMA, 2, 5), rng.normal(SampleRng.GAMMA, 4, 5)
    assert torch.equal(long[:, :2], short)


def test_numbers_over_samples_have_their_laws() -> None:
    rng = SampleRng(5, range(1500))
    assert stats.kstest(rng.uniform(SampleRng.TOKEN, 2).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(rng.normal(SampleRng.START, 2).flatten().numpy(), "norm").pvalue > 1e-3
