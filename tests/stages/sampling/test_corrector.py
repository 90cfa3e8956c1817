"""``--corrector``: the last decoding steps draw tokens anew."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.core.unmask import SWEEP, corrector_step_of
from diladiff_cli.runtime.randomness import SampleRng
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.kept import bench_plan
from diladiff_cli.stages.bench.lines import Line
from diladiff_cli.stages.bench.points import plan_points
from diladiff_cli.stages.bench.tables import frontier_table
from diladiff_cli.stages.evaluation.sets import group_samples
from diladiff_cli.stages.sampling import graphs, trace
from diladiff_cli.stages.sampling.sample import _redraws, decode, draw_latents, generate
from diladiff_cli.stages.sampling.sampler import Sampler, load_sampler
from diladiff_cli.stages.sampling.settings import complete, corrector_steps, notes_on, origin_of
from diladiff_cli.stages.sampling.trace import record

from ...chain import LENGTH, Chain
from .test_prompts import shown_on_terminal

STAGES = ("mdlm", "ae", "prior", "student")
Samples = list[dict[str, Any]]


@pytest.fixture(scope="module")
def samplers(tiny_chain: Chain) -> dict[str, Sampler]:
    return {stage: load_sampler(getattr(tiny_chain, stage), "cpu") for stage in STAGES}


def config_for(stage: str, **settings: Any) -> SampleConfig:
    steps = {"steps": 3} if stage == "prior" else {}
    return SampleConfig(**{"n": 6, "decode_steps": 8, "corrector": 0.5, "temperature": 2.0} | steps | settings)


def draw(sampler: Sampler, **settings: Any) -> Samples:
    return list(generate(sampler, config_for(sampler.stage, **settings)))


def ids(samples: Samples) -> torch.Tensor:
    return torch.tensor([sample["token_ids"] for sample in samples])


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["random", "spread", "confidence", "threshold", "entropy"])
def test_the_last_steps_change_what_they_come_to_and_nothing_else(
    samplers: dict[str, Sampler], stage: str, order: str
) -> None:
    sampler = samplers[stage]
    found, before = draw(sampler, order=order), draw(sampler, order=order, corrector=0.0, decode_steps=4)
    times = SampleRng(0, range(6)).uniform(SampleRng.REDRAW, 1, LENGTH)[:, 0]
    reached = corrector_step_of(times, 0) < 4
    changed = ids(found) != ids(before)
    assert changed.any()
    assert not (changed & ~reached).any()
    assert {sample["corrector"] for sample in found} == {0.5}
    assert {sample["corrector"] for sample in before} == {None}


@pytest.mark.parametrize("stage", STAGES)
def test_corrected_texts_depend_neither_on_the_batch_size_nor_on_replays(
    samplers: dict[str, Sampler], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"decode_steps": 16, "corrector": 0.8, "order": "spread"}
    wanted = draw(samplers[stage], **settings)
    assert draw(samplers[stage], batch_size=4, **settings) == wanted
    monkeypatch.setattr(graphs, "replays_pay", lambda device: True)
    assert draw(samplers[stage], **settings) == wanted
    assert samplers[stage].replays._kept


def test_what_is_given_is_not_drawn_anew(samplers: dict[str, Sampler]) -> None:
    for sample in draw(samplers["student"], prompt="the old dog", suffix=" home", decode_steps=16):
        assert sample["text"].startswith("the old dog")
        assert sample["text"].endswith(" home")


def test_the_base_corrects_where_it_takes_over(samplers: dict[str, Sampler]) -> None:
    sampler = samplers["student"]
    together = draw(sampler, latent_until=0.5)
    assert ids(together).tolist() != ids(draw(sampler)).tolist()
    first = record(sampler, config_for("student", latent_until=0.5))
    alone = record(sampler, config_for("student", corrector=0.0, decode_steps=4))
    assert (first.pieces, first.revealed) == (alone.pieces, alone.revealed)
    assert first.sample == together[0]


@pytest.mark.parametrize(
    ("share", "steps", "wanted"), [(0.5, 16, 8), (0.5, 1, 0), (0.99, 64, 63), (0.99, 200, 198), (0.3, 10, 3), (0, 9, 0)]
)
def test_a_share_of_the_steps_corrects(share: float, steps: int, wanted: int) -> None:
    assert corrector_steps(SampleConfig(corrector=share, decode_steps=steps)) == wanted


def test_a_share_that_is_less_than_a_step_is_told_and_leaves_all_as_it_is(samplers: dict[str, Sampler]) -> None:
    sampler, config = samplers["mdlm"], SampleConfig(corrector=0.05, decode_steps=16)
    assert notes_on(sampler, config) == ["--corrector 0.05 does nothing: it is less than one of 16 steps"]
    assert complete(sampler, config) == complete(sampler, replace(config, corrector=0.0))
    assert notes_on(sampler, replace(config, corrector=0.0625)) == []
    assert origin_of(sampler, config) != origin_of(sampler, replace(config, corrector=0.5))


def test_corrected_texts_are_a_way_of_sampling(samplers: dict[str, Sampler]) -> None:
    drawn = [draw(samplers["mdlm"], corrector=corrector) for corrector in (0.0, 0.5, 0.25)]
    assert group_samples(sample for each in drawn for sample in each) == drawn


def test_turns_and_tokens_have_random_numbers_of_their_own() -> None:
    rng = SampleRng(3, [4, 5])
    found = _redraws(rng, 2, LENGTH)
    assert found is not None
    kinds = (SampleRng.REDRAW, SampleRng.REDRAWN_TOKEN)
    for drawn, kind in zip((found.times, found.uniform), kinds, strict=True):
        assert torch.equal(drawn[1], rng.uniform(kind, 2, LENGTH)[:, 1])
    assert len({kind for name, kind in vars(SampleRng).items() if name.isupper()}) == 6
    assert _redraws(rng, 0, LENGTH) is None


@pytest.mark.parametrize(
    ("order", "steps", "told"),
    [
        ("random", 2 * LENGTH, 0),
        ("random", 2 * LENGTH + 2, 1),
        ("threshold", 2 * LENGTH, 1),
        ("entropy", 2 * LENGTH + 2, 2),
    ],
)
def test_steps_beyond_the_tokens_are_told_of_those_that_reveal(
    samplers: dict[str, Sampler], order: str, steps: int, told: int
) -> None:
    notes = notes_on(samplers["mdlm"], SampleConfig(order=order, decode_steps=steps, corrector=0.5))
    assert len(notes) == told
    if steps > 2 * LENGTH:
        assert notes[0].startswith(
            f"--decode-steps {steps}, of which {steps // 2} reveal, is more than the {LENGTH} tokens"
        )
    if order != "random":
        assert notes[-1] == f"--corrector 0.5: {steps // 2} steps follow however soon all is revealed"


@pytest.mark.parametrize(("steps", "told"), [(1, False), (4, True), (7, False), (8, False)])
def test_few_steps_that_are_left_to_reveal_are_told(samplers: dict[str, Sampler], steps: int, told: bool) -> None:
    notes = notes_on(samplers["mdlm"], SampleConfig(decode_steps=steps, corrector=0.5))
    assert any("leaves 2 of 4 steps to reveal a text, which costs more" in note for note in notes) == told


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("order", ["spread", "threshold"])
def test_the_trace_shows_corrections(samplers: dict[str, Sampler], stage: str, order: str) -> None:
    config = config_for(stage, order=order, decode_steps=4 + SWEEP, corrector=SWEEP / (4 + SWEEP))
    found = record(samplers[stage], config)
    assert found.sample == next(generate(samplers[stage], config))
    assert [correction.step for correction in found.corrections] == list(range(5, 5 + SWEEP))
    assert max(found.revealed) <= 4
    texts = [found.pieces, *(correction.pieces for correction in found.corrections)]
    assert "".join(texts[-1]) == found.sample["text"]
    for (before, after), correction in zip(pairwise(texts), found.corrections, strict=True):
        if not any(correction.changed):
            assert before == after
    seen: list[torch.Tensor] = []
    config, z_0 = complete(samplers[stage], config), None
    if stage != "mdlm":
        z_0 = draw_latents(samplers[stage], range(1), config)
    decode(samplers[stage], range(1), config, z_0, lambda _, x: seen.append(x[0].clone()))
    changed = [(a != b).tolist() for a, b in pairwise(seen[3:])]
    assert [correction.changed for correction in found.corrections] == changed
    assert any(map(any, changed))


def test_steps_that_are_taken_once_more_count_as_they_are_in_the_end(
    samplers: dict[str, Sampler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a GPU finds at the end that a token lies outside of the nucleus."""
    sampler, config = samplers["mdlm"], config_for("mdlm", n=1, decode_steps=8)
    wanted = record(sampler, config)

    def twice(*args: Any) -> torch.Tensor:
        given, on_step = args[:-1], args[-1]
        decode(*given[:2], replace(given[2], seed=9), *given[3:], on_step)
        return decode(*args)

    monkeypatch.setattr(trace, "decode", twice)
    found = record(sampler, config)
    assert (found.sample, found.pieces, found.corrections) == (wanted.sample, wanted.pieces, wanted.corrections)


def test_traces_without_a_corrector_have_no_corrections(samplers: dict[str, Sampler]) -> None:
    assert record(samplers["student"], config_for("student", corrector=0.0)).corrections == []


def test_bench_has_a_line_for_each_share(tiny_chain: Chain, tmp_path: Path) -> None:
    config = BenchConfig(
        decode_steps="4", corrector="0,0.5", temperatures="1.0,0.5", seeds="0", steps="1", n=4, scorer="none"
    )
    reports = list(bench_frontier(config, [tiny_chain.mdlm, tiny_chain.student], tmp_path))
    assert [r["corrector"] for r in reports] == [None, None, 0.5, 0.5] * 2
    assert len({Line.of(r) for r in reports}) == 8
    (of_student,) = (r for r in reports if r["stage"] == "student" and r["temperature"] == 0.5 and r["corrector"])
    assert {name: one["corrector"] for name, one in of_student["at_equal_entropy"].items()} == {
        str(tiny_chain.mdlm): None,
        f"{tiny_chain.mdlm}, corrector 0.5": 0.5,
    }
    points = plan_points(config, [tiny_chain.mdlm], None).points
    assert [", corrector 0.5, 4 decoding" in point.title for point in points] == [False, False, True, True]
    planned = bench_plan(config, [tiny_chain.mdlm], tmp_path)["points"]
    assert [point["corrector"] for point in planned] == [None, None, 0.5, 0.5]
    table = shown_on_terminal(frontier_table(reports))
    assert "latent │ corrector" in table.replace("┃", "│")
    assert "corrector 0.5" in shown_on_terminal(frontier_table([r for r in reports if r["corrector"]]))
