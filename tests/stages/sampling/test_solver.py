"""The published way of a prior from noise to latents, beside the usual one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.model import load
from diladiff_cli.settings import ConfigError, flag
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.points import Point, plan_points
from diladiff_cli.stages.bench.tables import frontier_table
from diladiff_cli.stages.evaluation.sets import group_samples
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import complete, notes_on

from ...chain import Chain


def draw(chain: Chain, stage: str, solver: str) -> list[dict[str, Any]]:
    return list(
        generate(
            load_sampler(getattr(chain, stage), "cpu"),
            SampleConfig(n=4, steps=0 if stage == "mdlm" else 3, solver=solver),
        )
    )


def test_samples_of_another_solver_differ_and_say_so(tiny_chain: Chain) -> None:
    usual, euler = draw(tiny_chain, "prior", "ddim"), draw(tiny_chain, "prior", "euler")
    assert [s["token_ids"] for s in usual] != [s["token_ids"] for s in euler]
    assert ({s["solver"] for s in usual}, {s["solver"] for s in euler}) == ({None}, {"euler"})
    assert len(group_samples([*usual, *euler])) == 2


@pytest.mark.parametrize("stage", ["mdlm", "ae", "student"])
def test_solvers_are_for_a_prior(tiny_chain: Chain, stage: str) -> None:
    with pytest.raises(ConfigError, match=r"solver is euler.*it is for a prior"):
        draw(tiny_chain, stage, "euler")


@pytest.mark.parametrize(
    ("stage", "steps", "solver", "told"),
    [
        ("student", 6, "ddim", "measured with"),
        ("student", 5, "ddim", None),
        ("prior", 6, "ddim", None),
        ("prior", 49, "euler", "49 steps of --solver euler leave noise in latents"),
        ("prior", 50, "euler", None),
        ("prior", 0, "euler", None),
    ],
)
def test_numbers_of_latent_steps_that_do_no_good_are_told(
    tiny_chain: Chain, stage: str, steps: int, solver: str, told: str | None
) -> None:
    sampler = load_sampler(getattr(tiny_chain, stage), "cpu")
    notes = notes_on(sampler, SampleConfig(steps=steps, decode_steps=4, solver=solver))
    assert len(notes) == (told is not None)
    assert all(str(told) in note for note in notes)


@pytest.mark.parametrize(("solver", "steps"), [("ddim", 50), ("euler", 200)])
def test_a_solver_takes_its_usual_number_of_steps(tiny_chain: Chain, solver: str, steps: int) -> None:
    assert complete(load_sampler(tiny_chain.prior, "cpu"), SampleConfig(solver=solver)).steps == steps


@pytest.mark.parametrize("stage", ["prior", "student"])
def test_given_latents_have_no_way_of_being_drawn(tiny_chain: Chain, stage: str) -> None:
    model = load(getattr(tiny_chain, stage))
    z_0 = torch.zeros(2, *model.sampler.require_autoencoder().latent_shape)
    drawing: dict[str, Any] = {"n": 2, "steps": 3, "gamma": 0.5, "self_cond": "jump", "guidance": 1.0}
    drawing["solver"] = "euler"
    with pytest.raises(ConfigError) as refused:
        model.decode(z_0, **drawing)
    assert [problem.split()[0] for problem in refused.value.problems] == [flag(name) for name in drawing]
    decoded = model.decode(z_0, decode_steps=4, latent_until=0.2)  # less than a step
    assert {s[name] for s in decoded for name in ("steps", "gamma", "guidance", "solver", "latent_until")} == {None}


def test_a_point_of_another_solver_is_another_and_says_so() -> None:
    points = [Point("ckpt/prior", "prior", ("hash",), SampleConfig(steps=5, solver=s)) for s in ("ddim", "euler")]
    assert points[0].key(0) != points[1].key(0)
    assert ["solver euler" in point.title for point in points] == [False, True]


def test_bench_takes_the_steps_that_sample_takes(tiny_chain: Chain) -> None:
    shared: dict[str, Any] = {"decode_steps": "2", "seeds": "0", "n": 2, "scorer": "none"}
    for solver, steps in ("ddim", 50), ("euler", 200):
        plan = plan_points(BenchConfig(**shared, solver=solver), [tiny_chain.prior], None)
        assert [point.settings.steps for point in plan.points] == [steps]


def test_bench_measures_with_a_solver_and_refuses_it_without_a_prior(tiny_chain: Chain, tmp_path: Path) -> None:
    config = BenchConfig(
        decode_steps="2", steps="1", prior_steps="2", seeds="0", n=2, scorer="none", precision="fp32", solver="euler"
    )
    with pytest.raises(ConfigError, match=r"solver is euler, but none of the models is a prior"):
        list(bench_frontier(config, [tiny_chain.student], tmp_path / "student"))
    reports = list(bench_frontier(config, [tiny_chain.prior, tiny_chain.student], tmp_path / "both"))
    assert [(r["stage"], r["solver"]) for r in reports] == [("prior", "euler"), ("student", None)]
    assert "solver euler" in str(frontier_table(reports).caption)
