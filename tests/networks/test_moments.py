import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diladiff_cli.networks.moments import RunningMoments

SHAPE = (3, 4)


def data(count: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    scale = torch.rand(SHAPE, generator=source) * 3 + 0.1
    return torch.randn(count, *SHAPE, generator=source) * scale + torch.randn(SHAPE, generator=source)


def fitted(x: Tensor, momentum: float | None = None) -> RunningMoments:
    moments = RunningMoments(SHAPE, momentum)
    moments.collect(x)
    moments.commit()
    return moments


def test_equal_weights_give_the_mean_and_deviation_of_everything_seen() -> None:
    x, moments = data(300), RunningMoments(SHAPE)
    for part in torch.split(x, [100, 7, 1, 192]):
        moments.collect(part)
        moments.commit()
    torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.std(), x.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_with_momentum_the_moments_of_a_steady_stream_are_found() -> None:
    moments = RunningMoments(SHAPE, 0.02)
    source = torch.Generator().manual_seed(0)
    for _ in range(400):
        moments.collect(torch.randn(64, *SHAPE, generator=source) * 2 + 5)
        moments.commit()
    assert (moments.mean - 5).abs().max() < 0.12
    assert (moments.std() / 2 - 1).abs().max() < 0.05


def test_momentum_weighs_commits_by_their_age_without_a_pull_to_the_start() -> None:
    moments, m = RunningMoments((), 0.25), 0.25
    values = [2.0, -1.0, 4.0]
    for value in values:
        moments.collect(torch.full((5,), value))
        moments.commit()
    weights = [m * (1 - m) ** age for age in (2, 1, 0)]
    wanted = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    assert float(moments.mean) == pytest.approx(wanted, rel=1e-6)


@given(cuts=st.lists(st.integers(0, 60), max_size=5), momentum=st.sampled_from([None, 0.1]))
@settings(deadline=None)  # a busy machine
def test_a_commit_does_not_depend_on_its_micro_batches(cuts: list[int], momentum: float | None) -> None:
    x, moments = data(60), RunningMoments(SHAPE, momentum)
    edges = [0, *sorted(cuts), 60]
    for start, end in itertools.pairwise(edges):
        moments.collect(x[start:end])
    moments.commit()
    whole = fitted(x, momentum)
    torch.testing.assert_close(moments.mean, whole.mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(moments.variance, whole.variance, rtol=1e-5, atol=1e-5)
    assert float(moments.weight) == float(whole.weight)


def test_leading_dimensions_are_all_averaged_over() -> None:
    x = data(60)
    assert torch.equal(fitted(x.reshape(5, 4, 3, *SHAPE)).mean, fitted(x).mean)


def test_restoring_inverts_standardising() -> None:
    x = data(50)
    moments = fitted(x)
    z = moments.standardise(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(SHAPE), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(SHAPE), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moments.restore(z), x, rtol=1e-5, atol=1e-5)


def test_before_any_commit_data_passes_unchanged() -> None:
    moments, x = RunningMoments(SHAPE, 0.1), data(4)
    moments.collect(x)
    assert torch.equal(moments.standardise(x), x)
    assert torch.equal(moments.restore(x), x)


def test_a_constant_entry_gives_finite_values() -> None:
    x = torch.ones(10, *SHAPE)
    assert fitted(x).standardise(x).abs().max() < 1e-3


def test_reset_forgets_committed_and_pending_values() -> None:
    moments, x = fitted(data(20, seed=1) + 50, 0.01), data(30)
    moments.collect(data(20) + 1e6)
    moments.reset()
    moments.collect(x)
    moments.commit()
    torch.testing.assert_close(moments.mean, fitted(x).mean)
    torch.testing.assert_close(moments.std(), fitted(x).std())


def test_a_batch_that_is_not_finite_leaves_the_moments_alone() -> None:
    moments, x = fitted(data(20), 0.1), data(8)
    before = {name: value.clone() for name, value in moments.state_dict().items()}
    x[3, 1, 2] = torch.nan
    moments.collect(x)
    moments.commit()
    assert all(torch.equal(before[name], value) for name, value in moments.state_dict().items())
    moments.collect(data(8, seed=2))
    moments.commit()
    assert moments.mean.isfinite().all()


def test_moments_survive_a_round_trip_through_the_state_dict() -> None:
    first, second = fitted(data(20), 0.1), RunningMoments(SHAPE, 0.1)
    second.load_state_dict(first.state_dict())
    for moments in (first, second):
        moments.collect(data(9, seed=3))
        moments.commit()
    assert torch.equal(first.mean, second.mean)
    assert torch.equal(first.std(), second.std())
