from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.times import low_discrepancy
from diladiff_cli.runtime.randomness import BatchNoise, SampleNoise, generator, mix

CPU = torch.device("cpu")


def batch_noise(places: range, seed: int = 1, step: int = 2) -> BatchNoise:
    return BatchNoise(seed, step, places, 8, CPU)


DRAWS: dict[str, Callable[[BatchNoise], Tensor]] = {
    "uniform": lambda noise: noise.uniform(3, 2),
    "normal": lambda noise: noise.normal(5),
    "scalar": lambda noise: noise.uniform(),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_the_numbers_of_an_example_do_not_depend_on_its_micro_batch(kind: str) -> None:
    draw = DRAWS[kind]
    whole = draw(batch_noise(range(8)))
    parts = [draw(batch_noise(range(start, start + 2))) for start in range(0, 8, 2)]
    assert torch.equal(torch.cat(parts), whole)


def test_what_a_micro_batch_shares_is_the_same_in_all_of_them() -> None:
    first, second = batch_noise(range(4)), batch_noise(range(4, 8))
    assert torch.equal(first.shared_uniform(), second.shared_uniform())
    assert torch.equal(torch.cat([first.positions, second.positions]), torch.arange(8.0))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_a_share_of_the_places_is_spread_evenly_over_micro_batches(share: float) -> None:
    whole = BatchNoise(1, 2, range(80), 80, CPU).some(share).tolist()
    assert len(whole) == round(80 * share)
    parts = [BatchNoise(1, 2, range(start, start + 16), 80, CPU).some(share).tolist() for start in range(0, 80, 16)]
    assert [16 * i + row for i, part in enumerate(parts) for row in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_times_of_a_share_of_the_places_have_the_law_of_all(share: float) -> None:
    found = []
    for step in range(250):
        noise = batch_noise(range(8), step=step)
        found.append(low_discrepancy(noise.shared_uniform(), noise.positions, 8)[noise.some(share)])
    assert stats.kstest(torch.cat(found).numpy(), "uniform").pvalue > 1e-3


def test_seed_step_and_place_each_change_the_numbers() -> None:
    draws = torch.stack(
        [batch_noise(range(8), seed, step).uniform(4)[place] for seed in (1, 2) for step in (2, 3) for place in (0, 1)]
    )
    assert len(torch.unique(draws, dim=0)) == 8
    assert not torch.equal(batch_noise(range(2)).shared_uniform(), batch_noise(range(2), step=3).shared_uniform())


def test_two_draws_of_one_example_differ() -> None:
    noise = batch_noise(range(2))
    assert not torch.equal(noise.uniform(4), noise.uniform(4))


def test_numbers_over_steps_and_places_have_their_laws() -> None:
    uniforms, normals, shared = [], [], []
    for step in range(250):
        noise = batch_noise(range(8), step=step)
        uniforms.append(noise.uniform())
        normals.append(noise.normal())
        shared.append(noise.shared_uniform())
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
    whole, part = SampleNoise(3, range(6)), SampleNoise(3, range(2, 4))
    for kind in (SampleNoise.REVEAL, SampleNoise.TOKEN):
        assert torch.equal(whole.uniform(kind, 5)[2:4], part.uniform(kind, 5))
    assert torch.equal(whole.normal(SampleNoise.START, 2, 3)[2:4], part.normal(SampleNoise.START, 2, 3))
    assert whole.normal(SampleNoise.START, 2).dtype == torch.float64


def test_kinds_samples_and_seeds_have_streams_of_their_own() -> None:
    noise = SampleNoise(3, range(2))
    first = noise.uniform(SampleNoise.REVEAL, 4)
    noise.normal(SampleNoise.START, 7)
    assert torch.equal(noise.uniform(SampleNoise.REVEAL, 4), first)
    others = [noise.uniform(SampleNoise.TOKEN, 4), SampleNoise(4, range(2)).uniform(SampleNoise.REVEAL, 4)]
    assert len(torch.unique(torch.cat([first, *others]), dim=0)) == 6


def test_more_steps_leave_the_first_numbers_of_a_stream_alone() -> None:
    noise = SampleNoise(0, range(3))
    short, long = noise.normal(SampleNoise.GAMMA, 2, 5), noise.normal(SampleNoise.GAMMA, 4, 5)
    assert torch.equal(long[:, :2], short)


def test_numbers_over_samples_have_their_laws() -> None:
    noise = SampleNoise(5, range(1500))
    assert stats.kstest(noise.uniform(SampleNoise.TOKEN, 2).flatten().numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(noise.normal(SampleNoise.START, 2).flatten().numpy(), "norm").pvalue > 1e-3
