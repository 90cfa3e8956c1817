import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from diladiff_cli.core.textbook import keep_nucleus, textbook_unmask
from diladiff_cli.core.unmask import Body, Decoding, Head, Successor, unmask

# Three ternary tokens: every state, with masks, has a number in base four.
LENGTH, KINDS, MASK = 3, 3, 3
STATES = torch.cartesian_prod(*[torch.arange(KINDS + 1)] * LENGTH)  # (64, 3)
PLACES = torch.tensor([16, 4, 1])
CLEAN = (STATES != MASK).all(1)
DRAWS = 30_000


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def conditionals(joint: Tensor) -> Tensor:
    """(64, 3, 3): the exact law of each token given the visible ones of each state."""
    table = torch.zeros(len(STATES), LENGTH, KINDS, dtype=torch.float64)
    clean = STATES[CLEAN]
    for state, row in zip(STATES, table, strict=True):
        agrees = ((clean == state) | (state == MASK)).all(1)
        for position, value in itertools.product(range(LENGTH), range(KINDS)):
            row[position, value] = joint[CLEAN][agrees & (clean[:, position] == value)].sum()
    return table / table.sum(-1, keepdim=True)


JOINT = torch.rand(len(STATES), generator=generator(0), dtype=torch.float64) ** 3 * CLEAN
JOINT /= JOINT.sum()
TABLES = {
    "exact": conditionals(JOINT),
    "wrong": torch.randn(len(STATES), LENGTH, KINDS, generator=generator(1), dtype=torch.float64).softmax(-1),
}


def law(table: Tensor, steps: int, start: tuple[int, ...] = (MASK,) * LENGTH) -> Tensor:
    """(64,): the law of the result, by summing over everything that can happen in each reverse step."""
    found = torch.zeros(len(STATES), dtype=torch.float64)
    found[(torch.tensor(start) * PLACES).sum()] = 1.0
    for step in range(steps):
        stays = 1 - 1 / (steps - step)  # s / t
        after = torch.zeros_like(found)
        for number in found.nonzero().flatten().tolist():
            options = []
            for position, token in enumerate(STATES[number].tolist()):
                drawn = [(value, (1 - stays) * float(table[number, position, value])) for value in range(KINDS)]
                options.append([*drawn, (MASK, stays)] if token == MASK else [(token, 1.0)])
            for outcome in itertools.product(*options):
                weight = float(found[number])
                for _, p in outcome:
                    weight *= p
                after[(torch.tensor([value for value, _ in outcome]) * PLACES).sum()] += weight
        found = after
    return found


class Denoiser:
    """A body and a head that look up a table, and count what is asked of them."""

    def __init__(self, table: Tensor) -> None:
        self.logits = with_mask(table)
        self.rows: list[list[int]] = []
        self.heads = 0

    def body(self, x_t: Tensor, rows: Tensor, select: Tensor) -> Tensor:
        self.rows.append(rows.tolist())
        return self.logits[(x_t * PLACES).sum(-1)][select]

    def head(self, hidden: Tensor) -> Tensor:
        self.heads += len(hidden)
        return hidden


def sample(table: Tensor, steps: int, seed: int, start: Tensor | None = None, top_p: float = 1.0) -> Tensor:
    """(DRAWS, 3) results of the sampler under test."""
    x = torch.full((DRAWS, LENGTH), MASK) if start is None else start.expand(DRAWS, LENGTH)
    denoiser = Denoiser(table)
    reveal_times = torch.rand(x.shape, generator=generator(seed))
    uniform = torch.rand(x.shape, generator=generator(seed + 1), dtype=torch.float64)
    return unmask(denoiser.body, denoiser.head, x, MASK, reveal_times, uniform, Decoding(steps, top_p=top_p))


def textbook(table: Tensor, steps: int, seed: int, top_p: float = 1.0) -> Tensor:
    """Results of the sampler that computes all logits in every step."""
    times = [1 - step / steps for step in range(steps + 1)]
    masked = torch.full((DRAWS, LENGTH), MASK)
    return textbook_unmask(
        lambda x: with_mask(table)[(x * PLACES).sum(-1)], masked, MASK, times, generator(seed), top_p
    )


def with_mask(table: Tensor) -> Tensor:
    """Logits of a table of probabilities, -inf at the mask token."""
    return torch.cat([table.log(), torch.full((*table.shape[:-1], 1), -torch.inf, dtype=torch.float64)], dim=-1)


def counts(x: Tensor) -> Tensor:
    assert not (x == MASK).any()
    return (x * PLACES).sum(-1).bincount(minlength=len(STATES))


def p_value(x: Tensor, wanted: Tensor) -> float:
    """Chi-square of results against a law over states, the rare ones pooled."""
    found, common = counts(x), len(x) * wanted >= 5
    assert not found[wanted == 0].any()
    if not common.all():
        found = torch.cat([found[common], found[~common].sum()[None]])
        wanted = torch.cat([wanted[common], wanted[~common].sum()[None]])
    return float(stats.chisquare(found[wanted > 0].numpy(), (len(x) * wanted[wanted > 0]).numpy()).pvalue)


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("model", TABLES)
def test_sampler_has_the_enumerated_law(model: str, steps: int) -> None:
    wanted = law(TABLES[model], steps)
    x = sample(TABLES[model], steps, seed=10 * steps)
    assert p_value(x, wanted) > 1e-3
    assert p_value(x, law(TABLES[model], 1 if steps > 1 else 3)) < 1e-6


@pytest.mark.parametrize("top_p", [1.0, 0.7])
@pytest.mark.parametrize("steps", [2, 4])
@pytest.mark.parametrize("model", TABLES)
def test_sampler_and_textbook_have_the_same_law(model: str, steps: int, top_p: float) -> None:
    ours = sample(TABLES[model], steps, seed=20, top_p=top_p)
    both = torch.stack([counts(ours), counts(textbook(TABLES[model], steps, seed=21, top_p=top_p))])
    both = both[:, both.sum(0) >= 10]
    assert stats.chi2_contingency(both.numpy()).pvalue > 1e-3


def test_one_token_a_step_with_exact_conditionals_gives_the_joint_law() -> None:
    denoiser = Denoiser(TABLES["exact"])
    ranks = torch.rand(DRAWS, LENGTH, generator=generator(30)).argsort(1)
    uniform = torch.rand(DRAWS, LENGTH, generator=generator(31), dtype=torch.float64)
    masked = torch.full((DRAWS, LENGTH), MASK)
    x = unmask(denoiser.body, denoiser.head, masked, MASK, (ranks + 0.5) / LENGTH, uniform, Decoding(LENGTH))
    assert p_value(x, JOINT) > 1e-3
    assert denoiser.heads == DRAWS * LENGTH


def test_nucleus_enters_the_law_of_the_sampler() -> None:
    kept = keep_nucleus(TABLES["wrong"].flatten(0, 1), 0.7).view(-1, LENGTH, KINDS)
    wanted = law(kept / kept.sum(-1, keepdim=True), 3)
    assert p_value(sample(TABLES["wrong"], 3, seed=40, top_p=0.7), wanted) > 1e-3


def test_prompt_stays_and_conditions_the_rest() -> None:
    x = sample(TABLES["exact"], 3, seed=50, start=torch.tensor([MASK, 2, MASK]))
    assert (x[:, 1] == 2).all()
    assert p_value(x, law(TABLES["exact"], 3, start=(MASK, 2, MASK))) > 1e-3


def test_a_successor_takes_the_last_steps() -> None:
    calls: list[str] = []

    def body(name: str) -> Body:
        def noted(x_t: Tensor, _: Tensor, select: Tensor) -> Tensor:
            calls.append(name)
            return x_t[select][:, None].double()

        return noted

    def head(token: int) -> Head:
        return lambda hidden: torch.full((len(hidden), 4), -torch.inf).index_fill_(1, torch.tensor([token]), 0.0)

    reveal_times = torch.tensor([[0.9, 0.6, 0.4, 0.1]])
    uniform = torch.rand(1, 4, generator=generator(62), dtype=torch.float64)
    for late in range(5):
        calls.clear()
        successor = Successor(4 - late, body("late"), head(2))
        x = torch.full((1, 4), 3)
        done = unmask(body("early"), head(1), x, 3, reveal_times, uniform, Decoding(4), None, successor)
        assert calls == ["early"] * (4 - late) + ["late"] * late
        assert done.tolist() == [[1] * (4 - late) + [2] * late]


def test_revealed_counts_of_each_step_are_binomial() -> None:
    masked: list[Tensor] = [torch.full((20_000,), 6)]
    x, uniform = torch.full((20_000, 6), 1), torch.rand(20_000, 6, generator=generator(60), dtype=torch.float64)
    unmask(
        lambda x_t, _, select: x_t[select][:, None].double(),
        lambda hidden: torch.cat([hidden * 0, hidden * 0 - torch.inf], dim=-1),
        x,
        1,
        torch.rand(20_000, 6, generator=generator(61)),
        uniform,
        Decoding(4),
        on_step=lambda _, x_t: masked.append((x_t == 1).sum(1)),
    )
    for step in range(3):
        before, after = masked[step : step + 2]
        revealed = (before - after)[before == 4] if step else before - after
        n, p = (4 if step else 6), 1 / (4 - step)
        expected = len(revealed) * stats.binom.pmf(range(n + 1), n, p)
        assert stats.chisquare(revealed.bincount(minlength=n + 1).numpy(), expected).pvalue > 1e-3
    assert not masked[-1].any()


def test_only_examples_and_positions_to_be_revealed_are_computed() -> None:
    denoiser = Denoiser(TABLES["wrong"])
    reveal_times = torch.tensor([[0.9, 0.8, 0.95], [0.9, 0.1, 0.2], [0.3, 0.4, 0.45]])
    x = torch.tensor([[MASK, MASK, 1], [MASK, MASK, MASK], [0, 1, 2]])
    uniform = torch.rand(3, 3, generator=generator(70), dtype=torch.float64)
    history: list[Tensor] = []
    given = x.clone()
    out = unmask(
        denoiser.body,
        denoiser.head,
        x,
        MASK,
        reveal_times,
        uniform,
        Decoding(4),
        on_step=lambda step, x_t: history.append(x_t.clone()),
    )
    assert torch.equal(x, given)
    assert denoiser.rows == [[0, 1], [1]]  # the steps to 1/2 and 1/4 reveal nothing
    assert denoiser.heads == 5
    assert [(row == MASK).sum().item() for row in history] == [2, 2, 2, 0]
    assert torch.equal(history[-1], out)
    assert torch.equal(out[2], given[2])


@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold"])
def test_results_do_not_depend_on_the_rest_of_the_batch(order: str) -> None:
    table = TABLES["wrong"]
    x = STATES.clone()
    reveal_times = torch.rand(x.shape, generator=generator(80))
    uniform = torch.rand(x.shape, generator=generator(81), dtype=torch.float64)
    decoding = Decoding(3, order=order, threshold=0.6)

    def run(part: slice) -> Tensor:
        denoiser = Denoiser(table)
        return unmask(denoiser.body, denoiser.head, x[part], MASK, reveal_times[part], uniform[part], decoding)

    whole = run(slice(None))
    assert not (whole == MASK).any()
    assert torch.equal(whole[x != MASK], x[x != MASK])
    assert torch.equal(torch.cat([run(slice(0, 5)), run(slice(5, 64))]), whole)
