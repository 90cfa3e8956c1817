"""Corrector steps: positions that are masked and drawn anew, given all others."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diladiff_cli.core.draw import draw_tokens
from diladiff_cli.core.static import RevealPlan, StaticStep
from diladiff_cli.core.times import spread_times
from diladiff_cli.core.unmask import ORDERS, SWEEP, Decoding, Redraws, Successor, corrector_step_of, unmask

from .test_static import MASK, SHAPE, body, head, inputs
from .test_unmask import DRAWS, JOINT, LENGTH, TABLES, Denoiser, generator, law, p_value
from .test_unmask import MASK as MASK_OF_THREE

CPU = torch.device("cpu")


def redraws(sweeps: int, shape: tuple[int, int], seed: int = 0) -> Redraws:
    times, uniform = (
        torch.rand(sweeps, *shape, generator=generator(seed + i), dtype=torch.float64) for i in (100, 200)
    )
    return Redraws(times, uniform)


def selected(x: Tensor, rows: Tensor, select: Tensor) -> Tensor:
    return body(x)[select]


def corrected(decoding: Decoding, x: Tensor, times: Tensor, uniform: Tensor, more: Redraws) -> list[Tensor]:
    """The tokens after every step."""
    found: list[Tensor] = []
    unmask(selected, head, x, MASK, times, uniform, decoding, lambda _, x: found.append(x.clone()), redraws=more)
    return found


def test_tokens_drawn_without_seeing_one_another_come_to_the_joint_law() -> None:
    shape, sweeps = (DRAWS, LENGTH), 24
    x, times = torch.full(shape, MASK_OF_THREE), torch.rand(shape, generator=generator(0))
    uniform = torch.rand(shape, generator=generator(1), dtype=torch.float64)
    denoiser, more = Denoiser(TABLES["exact"]), redraws(sweeps, shape)
    decoding = Decoding(1 + sweeps * SWEEP, corrector_steps=sweeps * SWEEP)
    found = unmask(denoiser.body, denoiser.head, x, MASK_OF_THREE, times, uniform, decoding, redraws=more)
    assert p_value(found, JOINT) > 1e-3
    alone = unmask(denoiser.body, denoiser.head, x, MASK_OF_THREE, times, uniform, Decoding(1))
    assert p_value(alone, law(TABLES["exact"], 1)) > 1e-3
    assert p_value(alone, JOINT) < 1e-9


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_draws_its_positions_given_all_others_and_leaves_those(order: str) -> None:
    x, times, uniform = inputs(seed=5)
    more, decoding = redraws(2, SHAPE), Decoding(16, 0.8, 0.9, order, corrector_steps=SWEEP + 3)
    steps = corrected(decoding, x, times, uniform, more)
    assert len(steps) == 16
    before, masked = steps[decoding.revealing_steps - 1], x == MASK
    assert not (before == MASK).any()
    for number in range(decoding.corrector_steps):
        sweep, turn = divmod(number, SWEEP)
        again = masked & (corrector_step_of(more.times[sweep], sweep) == turn)
        seen = before.masked_fill(again, MASK)
        wanted = before.clone()
        wanted[again] = draw_tokens(head(body(seen)[again]), more.uniform[sweep][again], 0.8, 0.9)[0]
        assert torch.equal(steps[decoding.revealing_steps + number], wanted)
        before = wanted
    assert torch.equal(before[~masked], x[~masked])


@pytest.mark.parametrize("sweep", range(4))
def test_a_sweep_comes_to_every_position_once_and_to_distant_ones_together(sweep: int) -> None:
    found = corrector_step_of(torch.rand(50, 64, generator=generator(3), dtype=torch.float64), sweep)
    assert found.min() == 0
    assert found.max() == SWEEP - 1
    for row in found:
        for turn in range(SWEEP):
            places = (row == turn).nonzero().squeeze(1)
            assert 6 <= len(places) <= 10  # of 8
            assert places.diff().min() >= 4


@pytest.mark.parametrize(("length", "steps"), [(64, 8), (64, 32), (1024, 32), (1024, 128)])
def test_what_was_drawn_together_is_not_drawn_together_again(length: int, steps: int) -> None:
    def pairs(groups: Tensor) -> Tensor:
        return (groups[:, :, None] == groups[:, None, :]) & ~torch.eye(length, dtype=torch.bool)

    def uniform(seed: int) -> Tensor:
        return torch.rand(10, length, generator=generator(seed), dtype=torch.float64)

    revealed = pairs((spread_times(uniform(0)) * steps).long())
    again = [pairs(corrector_step_of(uniform(1 + sweep), sweep)) for sweep in range(4)]
    for sweep in range(4):
        assert again[sweep][revealed].float().mean() < 0.2  # an eighth by chance
    for first, second in pairwise(again):
        assert second[first].float().mean() < 0.2
    assert torch.stack(again).all(0)[revealed].float().mean() < 0.02


@pytest.mark.parametrize("order", ["random", "spread"])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 0.9), (0.0, 0.9)])
def test_steps_of_one_shape_correct_as_unmask_does(order: str, temperature: float, top_p: float) -> None:
    x, times, uniform = inputs(seed=6)
    decoding, more = Decoding(20, temperature, top_p, order, corrector_steps=12), redraws(2, SHAPE)
    wanted = corrected(decoding, x, times, uniform, more)
    plans = RevealPlan.of(x, MASK, times, uniform, decoding, more)
    assert [plan.numbers[-1] for plan in plans] == [7, 19]
    for plan in plans:
        step = StaticStep(body, head, SHAPE, plan.width, MASK, decoding, CPU)
        step.x.copy_(x)
        for number, places, numbers in zip(plan.numbers, plan.places, plan.uniform, strict=True):
            step.places.copy_(places)
            step.uniform.copy_(numbers)
            step()
            assert torch.equal(step.x, wanted[number])
        assert not step.outside
        x = step.x.clone()


def test_steps_that_reveal_are_no_wider_than_they_need_to_be_where_others_correct() -> None:
    shape, generator_ = (32, 1024), generator(9)
    times, uniform = (torch.rand(shape, generator=generator_, dtype=torch.float64) for _ in range(2))
    decoding, more = Decoding(128, order="spread", corrector_steps=64), redraws(8, shape)
    reveal, correct = RevealPlan.of(torch.full(shape, MASK), MASK, times, uniform, decoding, more)
    (alone,) = RevealPlan.of(torch.full(shape, MASK), MASK, times, uniform, Decoding(64, order="spread"))
    assert reveal.width == alone.width < 600
    assert 4096 <= correct.width < 4700


def test_the_last_networks_correct() -> None:
    x, times, uniform = inputs(seed=7)
    decoding, more, called = Decoding(6, corrector_steps=2), redraws(1, SHAPE), list[str]()

    def noted(name: str, x: Tensor, select: Tensor) -> Tensor:
        called.append(name)
        return selected(x, torch.arange(len(x)), select)

    successor = Successor(4, lambda x, rows, select: noted("late", x, select), head)
    unmask(
        lambda x, rows, select: noted("early", x, select),
        head, x, MASK, times, uniform, decoding, successor=successor, redraws=more,
    )  # fmt: skip
    assert called == ["early"] * 4 + ["late"] * 2


def test_corrector_steps_need_random_numbers_and_steps_to_correct() -> None:
    x, times, uniform = inputs(seed=8)
    decoding = Decoding(20, corrector_steps=SWEEP + 1)
    for more in (None, redraws(1, SHAPE)):
        with pytest.raises(ValueError, match="9 corrector steps need 2 sweeps"):
            unmask(selected, head, x, MASK, times, uniform, decoding, redraws=more)
        with pytest.raises(ValueError, match="9 corrector steps need 2 sweeps"):
            RevealPlan.of(x, MASK, times, uniform, decoding, more)
    for wrong in (4, 5, -1):
        with pytest.raises(ValueError, match="leave 1 or more that reveal"):
            Decoding(4, corrector_steps=wrong)
