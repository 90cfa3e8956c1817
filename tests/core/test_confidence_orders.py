import math
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.draw import entropies
from diladiff_cli.core.unmask import ORDERS, Decoding, unmask

MASK = 2
CONFIDENCE = [0.6, 0.95, 0.7, 0.9, 0.8, 0.55, 0.85, 0.65]  # of the likelier of two tokens, by position


class Recorder:
    """Binary tokens whose probabilities are fixed by position; keeps the masked positions after each step."""

    def __init__(self, confidence: list[float]) -> None:
        likely = torch.tensor(confidence, dtype=torch.float64)
        self.logits = torch.stack([1 - likely, likely, torch.zeros_like(likely)], dim=-1).log()
        self.calls = 0
        self.masked: list[list[set[int]]] = []

    def body(self, x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        self.calls += 1
        assert len(x_t) == len(rows)
        return self.logits.expand(len(x_t), -1, -1)[select]

    def note(self, step: int, x: Tensor) -> None:
        assert step == len(self.masked)
        self.masked.append([set((row == MASK).nonzero().flatten().tolist()) for row in x])

    def run(self, x: Tensor, decoding: Decoding, uniform: float = 0.99) -> Tensor:
        """A uniform of 0.99 draws the likelier token everywhere, one of 0 the other."""
        points = torch.full(x.shape, uniform, dtype=torch.float64)
        return unmask(self.body, lambda h: h, x, MASK, torch.full(x.shape, 0.5), points, decoding, self.note)


def test_confidence_reveals_the_surest_positions_first() -> None:
    recorder = Recorder(CONFIDENCE)
    out = recorder.run(torch.full((1, 8), MASK), Decoding(4, order="confidence"))
    assert [step[0] for step in recorder.masked] == [{0, 2, 4, 5, 6, 7}, {0, 2, 5, 7}, {0, 5}, set()]
    assert out.tolist() == [[1] * 8]


def test_confidence_is_that_of_the_drawn_token_not_of_the_likeliest() -> None:
    recorder = Recorder(CONFIDENCE)
    out = recorder.run(torch.full((1, 8), MASK), Decoding(8, order="confidence"), uniform=0.0)
    assert recorder.masked[0][0] == set(range(8)) - {5}
    assert out.tolist() == [[0] * 8]


@pytest.mark.parametrize(("steps", "left"), [(2, [2, 0]), (4, [3, 2, 1, 0]), (8, [4, 3, 2, 2, 2, 1, 0, 0])])
def test_confidence_spreads_what_a_prompt_leaves_to_reveal_over_all_steps(steps: int, left: list[int]) -> None:
    x = torch.full((1, 8), MASK)
    x[0, ::2] = 0
    recorder = Recorder(CONFIDENCE)
    recorder.run(x, Decoding(steps, order="confidence"))
    assert [len(step[0]) for step in recorder.masked] == left


def test_confidence_steps_that_reveal_nothing_skip_the_network() -> None:
    recorder = Recorder(CONFIDENCE[:2])
    recorder.run(torch.full((3, 2), MASK), Decoding(10, order="confidence"))
    assert recorder.calls == 2
    assert len(recorder.masked) == 10


def test_confidence_counts_are_kept_for_each_example() -> None:
    x = torch.full((2, 8), MASK)
    x[1, 2:] = 0
    recorder = Recorder(CONFIDENCE)
    recorder.run(x, Decoding(2, order="confidence"))
    assert recorder.masked[0] == [{0, 2, 5, 7}, {0}]
    assert recorder.masked[1] == [set(), set()]


def test_threshold_reveals_everything_surer_and_else_the_surest() -> None:
    recorder = Recorder(CONFIDENCE)
    recorder.run(torch.full((1, 8), MASK), Decoding(8, order="threshold", threshold=0.75))
    masked = [step[0] for step in recorder.masked]
    assert masked[:4] == [{0, 2, 5, 7}, {0, 5, 7}, {0, 5}, {5}]
    assert masked[4:] == [set()] * 4
    assert recorder.calls == 5


def test_threshold_counts_each_example_alone() -> None:
    x = torch.full((2, 8), MASK)
    x[1, [1, 3, 4, 6]] = 1
    recorder = Recorder(CONFIDENCE)
    recorder.run(x, Decoding(8, order="threshold", threshold=0.75))
    assert recorder.masked[0] == [{0, 2, 5, 7}, {0, 5, 7}]


@pytest.mark.parametrize("steps", [1, 3])
def test_threshold_reveals_what_is_left_in_the_last_step(steps: int) -> None:
    recorder = Recorder(CONFIDENCE)
    recorder.run(torch.full((1, 8), MASK), Decoding(steps, order="threshold", threshold=1.0))
    assert [len(step[0]) for step in recorder.masked] == [*range(7, 8 - steps, -1), 0]


@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold"])
def test_a_text_without_masks_needs_no_network(order: str) -> None:
    recorder, x = Recorder(CONFIDENCE), torch.tensor([[0, 1] * 4])
    assert torch.equal(recorder.run(x, Decoding(4, order=order)), x)
    assert recorder.calls == 0


def test_temperature_zero_decodes_greedily() -> None:
    recorder = Recorder([0.6, 0.3, 0.9, 0.2])
    out = recorder.run(torch.full((1, 4), MASK), Decoding(4, temperature=0.0), uniform=0.0)
    assert out.tolist() == [[1, 0, 1, 0]]


def test_entropy_reveals_the_least_uncertain_positions_within_the_bound() -> None:
    recorder = Recorder(CONFIDENCE)
    entropy = [float(e) for e in entropies(recorder.logits)]
    order = sorted(range(8), key=entropy.__getitem__)
    for count in range(1, 9):
        bound = sum(entropy[i] for i in order[: count - 1]) + 1e-9  # of those before the last
        recorder = Recorder(CONFIDENCE)
        recorder.run(torch.full((1, 8), MASK), Decoding(8, order="entropy", entropy_bound=bound))
        assert recorder.masked[0][0] == set(order[count:])


def test_entropy_without_allowance_reveals_one_position_a_step_and_the_rest_at_last() -> None:
    recorder = Recorder(CONFIDENCE)
    recorder.run(torch.full((2, 8), MASK), Decoding(5, order="entropy", entropy_bound=0.0))
    assert [len(step[1]) for step in recorder.masked] == [7, 6, 5, 4, 0]


def test_entropy_counts_each_example_alone() -> None:
    x = torch.full((2, 8), MASK)
    x[1, [1, 3]] = 1
    recorder = Recorder(CONFIDENCE)
    recorder.run(x, Decoding(8, order="entropy", entropy_bound=0.1))  # the surest two have 0.20 and 0.33 nats
    assert recorder.masked[0] == [set(range(8)) - {1}, {0, 2, 4, 5, 7}]


def test_certain_positions_cost_nothing_of_the_bound() -> None:
    recorder = Recorder([1.0, 1.0, 1.0, 0.5])
    recorder.run(torch.full((1, 4), MASK), Decoding(4, order="entropy", entropy_bound=0.0))
    assert recorder.masked[0] == [set()]  # three certain ones, and the first uncertain one


def test_entropies_are_those_of_the_distribution() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, 0.0], [5.0, -torch.inf, -torch.inf, -torch.inf]])
    assert entropies(logits).tolist() == pytest.approx([math.log(3), 0.0])
    logits, p = torch.tensor([[2.0, 0.0]]), 1 / (1 + math.exp(-1))
    assert float(entropies(logits, 2.0)) == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p))


def test_entropy_order_at_temperature_zero_goes_by_the_entropies_at_one() -> None:
    greedy, drawn = Recorder(CONFIDENCE), Recorder(CONFIDENCE)
    for recorder, temperature in ((greedy, 0.0), (drawn, 1.0)):
        decoding = Decoding(8, temperature=temperature, order="entropy", entropy_bound=1.0)
        recorder.run(torch.full((1, 8), MASK), decoding)
    assert greedy.masked == drawn.masked
    assert len(greedy.masked[0][0]) == 4


def test_the_orders_are_those_of_the_configuration() -> None:
    field = next(f for f in fields(SampleConfig) if f.name == "order")
    assert field.metadata["choices"] == ORDERS


@pytest.mark.parametrize(("steps", "order"), [(0, "random"), (4, "surest")])
def test_unusable_decodings_are_refused(steps: int, order: str) -> None:
    with pytest.raises(ValueError, match=f"{steps} steps in order {order}"):
        Decoding(steps, order=order)
