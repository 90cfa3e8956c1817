import pytest
import torch
from torch import Tensor

from diladiff_cli.core.static import RevealPlan, StaticStep, can_be_static, draws_at_most, first_inside, padded_width
from diladiff_cli.core.unmask import Decoding, unmask

MASK, KINDS, WIDTH = 0, 50, 8
SHAPE = (5, 16)
CPU = torch.device("cpu")


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


TABLE = torch.randn(KINDS, WIDTH, generator=generator(0))


def body(x: Tensor) -> Tensor:
    return torch.tanh(TABLE[x] + TABLE[x].mean(1, keepdim=True))


def head(hidden: Tensor) -> Tensor:
    logits = 2 * hidden @ TABLE.T
    logits[..., MASK] = -torch.inf
    return logits


def inputs(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A batch with a prompt in one of its texts, reveal times and uniform draws."""
    x = torch.full(SHAPE, MASK)
    x[0, :5] = 7
    times, uniform = (torch.rand(SHAPE, generator=generator(seed + i), dtype=torch.float64) for i in (1, 2))
    return x, times, uniform


@pytest.mark.parametrize("order", ["random", "spread"])
@pytest.mark.parametrize("steps", [1, 3, 16, 40])
@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 0.9), (1.0, 0.6), (0.0, 0.9)])
def test_steps_of_one_shape_reveal_the_tokens_of_unmask(
    order: str, steps: int, temperature: float, top_p: float
) -> None:
    decoding = Decoding(steps, temperature, top_p, order)
    x, times, uniform = inputs(seed=steps)
    wanted = unmask(lambda x, rows, select: body(x)[select], head, x, MASK, times, uniform, decoding)
    (plan,) = RevealPlan.of(x, MASK, times, uniform, decoding)
    step = StaticStep(body, head, SHAPE, plan.width, MASK, decoding, CPU)
    step.x.copy_(x)
    for places, numbers in zip(plan.places, plan.uniform, strict=True):
        step.places.copy_(places)
        step.uniform.copy_(numbers)
        step()
    assert torch.equal(step.x, wanted)
    assert not step.outside


def test_a_plan_has_every_masked_position_once_in_the_step_that_reveals_it() -> None:
    x, times, uniform = inputs(seed=3)
    (plan,) = RevealPlan.of(x, MASK, times, uniform, Decoding(4))
    real = plan.places < x.numel()
    assert torch.equal(plan.places[real].sort().values, (x.flatten() == MASK).nonzero().squeeze(1))
    assert torch.equal(plan.uniform[real][:, 0], uniform.flatten()[plan.places[real]])
    for number, places in zip(plan.numbers, plan.places, strict=True):
        found = times.flatten()[places[places < x.numel()]]
        assert ((found >= 1 - (number + 1) / 4) & (found < 1 - number / 4)).all()


def test_what_is_never_revealed_and_steps_without_work_are_left_out_of_a_plan() -> None:
    x, times, uniform = inputs(seed=4)
    times[:] = -1.0
    times[2, 3], times[4, 1] = 0.9, 0.1
    (plan,) = RevealPlan.of(x, MASK, times, uniform, Decoding(10))
    assert plan.numbers == [0, 8]
    assert [places[places < x.numel()].tolist() for places in plan.places] == [[2 * 16 + 3], [4 * 16 + 1]]


def test_widths_are_few_and_not_much_too_large() -> None:
    widths = {count: padded_width(count) for count in range(1, 5000)}
    assert all(count <= width for count, width in widths.items())
    assert all(width <= max(count + 15, 1.125 * count + 1) for count, width in widths.items())
    assert len(set(widths.values())) < 60


def test_orders_that_look_at_predictions_cannot_be_planned() -> None:
    x, times, uniform = inputs(seed=0)
    with pytest.raises(ValueError, match="confidence"):
        RevealPlan.of(x, MASK, times, uniform, Decoding(4, order="confidence"))
    assert not can_be_static(Decoding(4, order="confidence"))
    assert can_be_static(Decoding(4, top_p=0.9))
    assert not can_be_static(Decoding(4, top_p=0.1))
    assert can_be_static(Decoding(4, top_p=0.1, temperature=0.0))


def test_the_draws_make_a_token_outside_of_the_nucleus_as_rare_as_said() -> None:
    for top_p in (0.5, 0.9, 0.99):
        draws = draws_at_most(Decoding(4, top_p=top_p))
        assert (1 - top_p) ** draws <= 1e-9 < (1 - top_p) ** (draws - 1)
    assert draws_at_most(Decoding(4)) == draws_at_most(Decoding(4, temperature=0.0, top_p=0.5)) == 1


def test_a_row_whose_draws_are_all_outside_of_the_nucleus_is_told() -> None:
    logits = torch.tensor([[5.0, 0.0, 0.0]]).expand(400, -1)
    uniform = torch.rand(400, 1, generator=generator(5), dtype=torch.float64)
    tokens, outside = first_inside(logits, uniform, Decoding(1, top_p=0.5))
    assert outside.any()
    assert torch.equal(outside, tokens != 0)
