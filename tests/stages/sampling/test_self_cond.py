"""``--self-cond``: what the latent steps of a student look at."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.core.ode import SELF_COND, average_velocity_steps
from diladiff_cli.networks.latent import LatentStudent
from diladiff_cli.runtime.randomness import SampleRng
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.points import Point
from diladiff_cli.stages.bench.tables import frontier_table
from diladiff_cli.stages.evaluation.sets import group_samples
from diladiff_cli.stages.sampling.sample import draw_latents, generate
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import complete, notes_on

from ...chain import CHANNELS, LATENTS, Chain

JUMP = SampleConfig(n=4, self_cond="jump", gamma=0.0)


def draw(chain: Chain, stage: str, **settings: Any) -> list[dict[str, Any]]:
    return list(generate(load_sampler(getattr(chain, stage), "cpu"), SampleConfig(n=4, **settings)))


def test_samples_say_that_their_latents_looked_at_jumps(tiny_chain: Chain) -> None:
    usual, jump = (draw(tiny_chain, "student", steps=3, self_cond=c) for c in SELF_COND)
    assert ({s["self_cond"] for s in usual}, {s["self_cond"] for s in jump}) == ({None}, {"jump"})
    assert len(group_samples([*usual, *jump])) == 2


@pytest.mark.parametrize("way", SELF_COND)
def test_latents_come_from_steps_that_look_at_what_is_asked_for(tiny_chain: Chain, way: str) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    student = sampler.latent
    assert isinstance(student, LatentStudent)
    chance = torch.Generator().manual_seed(0)
    for parameter in student.parameters():  # a tiny training leaves estimates nearly alike
        torch.nn.init.normal_(parameter, std=0.3, generator=chance)
    z = SampleRng(0, range(3)).normal(SampleRng.START, LATENTS, CHANNELS).float()
    with torch.no_grad():
        wanted, other = (
            average_velocity_steps(student, z, student.schedule, 3, self_cond=each)
            for each in (way, next(each for each in SELF_COND if each != way))
        )
    found = draw_latents(sampler, range(3), complete(sampler, replace(JUMP, steps=3, self_cond=way)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("stage", ["mdlm", "ae", "prior"])
def test_it_is_for_a_student(tiny_chain: Chain, stage: str) -> None:
    with pytest.raises(ConfigError, match=r"self_cond is jump.*it is for a student, leave it out"):
        draw(tiny_chain, stage, self_cond="jump")


def test_in_one_step_it_does_nothing_and_that_is_told(tiny_chain: Chain) -> None:
    sampler = load_sampler(tiny_chain.student, "cpu")
    notes = notes_on(sampler, replace(JUMP, steps=1, decode_steps=4))
    assert notes == ["--self-cond jump does nothing in one latent step"]
    assert notes_on(sampler, replace(JUMP, steps=2, decode_steps=4)) == []
    assert complete(sampler, replace(JUMP, steps=1)).self_cond == "network"
    assert {s["self_cond"] for s in draw(tiny_chain, "student", steps=1, self_cond="jump")} == {None}


def test_a_point_of_another_way_is_another_and_says_so() -> None:
    points = [Point("ckpt/student", "student", ("hash",), SampleConfig(steps=2, self_cond=c)) for c in SELF_COND]
    assert points[0].key(0) != points[1].key(0)
    assert ["estimates of jumps" in point.title for point in points] == [False, True]


def test_bench_measures_with_it_and_refuses_it_without_a_student(tiny_chain: Chain, tmp_path: Path) -> None:
    config = BenchConfig(
        decode_steps="2", steps="2", prior_steps="2", seeds="0", n=2, scorer="none", precision="fp32", self_cond="jump"
    )
    with pytest.raises(ConfigError, match=r"self_cond is jump, but none of the models is a student"):
        list(bench_frontier(config, [tiny_chain.mdlm, tiny_chain.prior], tmp_path / "none"))
    reports = list(bench_frontier(config, [tiny_chain.prior, tiny_chain.student], tmp_path / "both"))
    assert [(r["stage"], r["self_cond"]) for r in reports] == [("prior", None), ("student", "jump")]
    assert "self-conditioning on the jump" in str(frontier_table(reports).caption)
