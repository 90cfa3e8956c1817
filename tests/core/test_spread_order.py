import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.times import spread_times
from diladiff_cli.core.unmask import Decoding, unmask

from .test_unmask import DRAWS, JOINT, LENGTH, MASK, TABLES, Denoiser, p_value


def times(examples: int, length: int, seed: int = 0) -> Tensor:
    uniform = torch.rand(examples, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return spread_times(uniform)


def steps_of(reveal_times: Tensor, steps: int) -> Tensor:
    """The number of the step, counted from the end, that reveals each position."""
    return (reveal_times * steps).floor().long()


@pytest.mark.parametrize("position", [0, 1, 7, 63])
def test_the_time_of_each_position_is_uniform(position: int) -> None:
    assert stats.kstest(times(20_000, 64)[:, position].numpy(), "uniform").pvalue > 1e-3


def test_each_example_has_an_offset_and_a_direction_of_its_own() -> None:
    found = times(1000, 16)
    turns = torch.remainder(found.diff(dim=1), 1.0).round(decimals=6)
    assert (turns == turns[:, :1]).all()
    assert turns.unique().tolist() == pytest.approx([0.381966, 0.618034])
    assert 400 < int((turns[:, 0] < 0.5).sum()) < 600
    assert found[:, 0].unique().numel() == 1000


@pytest.mark.parametrize("length", [64, 100, 1024])
@pytest.mark.parametrize("steps", [2, 4, 8, 16, 32])
def test_a_step_reveals_distant_positions_and_its_share_of_all(length: int, steps: int) -> None:
    for row in steps_of(times(50, length), steps):
        for step in range(steps):
            positions = (row == step).nonzero().flatten()
            assert abs(len(positions) - length / steps) < 3
            assert (positions.diff() > steps / math.sqrt(5) * 0.99).all()


def test_a_text_of_one_token_is_revealed() -> None:
    found = times(1000, 1)
    assert found.shape == (1000, 1)
    assert stats.kstest(found[:, 0].numpy(), "uniform").pvalue > 1e-3


def test_one_token_a_step_with_exact_conditionals_gives_the_joint_law() -> None:
    denoiser = Denoiser(TABLES["exact"])
    reveal, uniform = (
        torch.rand(DRAWS, LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in (60, 61)
    )
    steps = 5  # positions at distances 1 and 2 are 0.38 and 0.24 apart in time, more than a step
    masked = torch.full((DRAWS, LENGTH), MASK)
    x = unmask(denoiser.body, denoiser.head, masked, MASK, reveal, uniform, Decoding(steps, order="spread"))
    assert p_value(x, JOINT) > 1e-3
    assert denoiser.heads == DRAWS * LENGTH


def test_the_sampler_reveals_what_the_times_say() -> None:
    seen = list[Tensor]()
    denoiser = Denoiser(TABLES["wrong"])
    uniform = torch.rand(20, LENGTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = torch.full((20, LENGTH), MASK)
    decoding = Decoding(4, order="spread")
    unmask(denoiser.body, denoiser.head, x, MASK, uniform, uniform, decoding, lambda _, x: seen.append(x.clone()))
    for step, tokens in enumerate(seen):
        assert torch.equal(tokens == MASK, spread_times(uniform) < 1 - (step + 1) / 4)
