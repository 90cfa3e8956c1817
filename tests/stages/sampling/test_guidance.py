"""Estimates pushed away from those without self-conditioning: in a prior's samples, and in a student's teacher."""

from typing import Any

import pytest
import torch

from diladiff_cli.config import SampleConfig
from diladiff_cli.core.gaussian import expand, velocity
from diladiff_cli.networks.latent import LatentPrior
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.distill import teacher_velocity
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import notes_on

from ...chain import Chain


def draw(chain: Chain, stage: str, guidance: float, steps: int = 0) -> list[dict[str, Any]]:
    sampler = load_sampler(getattr(chain, stage), "cpu")
    return list(generate(sampler, SampleConfig(n=4, guidance=guidance, steps=steps)))


def test_guided_samples_of_a_prior_differ_and_say_so(tiny_chain: Chain) -> None:
    plain, guided = draw(tiny_chain, "prior", 0.0), draw(tiny_chain, "prior", 3.0)
    assert [s["token_ids"] for s in plain] != [s["token_ids"] for s in guided]
    assert ({s["guidance"] for s in plain}, {s["guidance"] for s in guided}) == ({None}, {3.0})


def test_guidance_in_one_latent_step_is_none_and_told(tiny_chain: Chain) -> None:
    assert draw(tiny_chain, "prior", 3.0, steps=1) == draw(tiny_chain, "prior", 0.0, steps=1)
    notes = [notes_on(load_sampler(tiny_chain.prior, "cpu"), SampleConfig(guidance=3.0, steps=n)) for n in (1, 2)]
    assert [any("--guidance 3.0 does nothing in one latent step" in note for note in found) for found in notes] == [
        True,
        False,
    ]


@pytest.mark.parametrize("stage", ["mdlm", "ae", "student"])
def test_guidance_is_for_a_prior(tiny_chain: Chain, stage: str) -> None:
    with pytest.raises(ConfigError, match="it is for a prior"):
        draw(tiny_chain, stage, 3.0)


def test_the_teachers_guided_velocity_is_that_of_its_pushed_estimate() -> None:
    torch.manual_seed(0)
    teacher = LatentPrior(schedule_d=10.0, latents=4, latent_width=3, width=16, layers=2, heads=2)
    torch.nn.init.normal_(teacher.trunk.out.weight, std=0.2)
    z_t, t = torch.randn(8, 4, 3), torch.linspace(0.2, 0.9, 8)
    with torch.no_grad():
        plain = teacher(z_t, t, torch.zeros_like(z_t))
        estimate = teacher(z_t, t, plain)
    level, eps = teacher.schedule(t), torch.randn_like(z_t)
    for guidance in (0.0, 2.0):
        pushed = (1 + guidance) * estimate - guidance * plain
        found = teacher_velocity(teacher, z_t, t, level, guidance)
        torch.testing.assert_close(found, velocity(z_t, pushed, level))
        listed = expand(level.alpha_dot, z_t) * pushed + expand(level.sigma_dot, z_t) * eps
        torch.testing.assert_close(teacher_velocity(teacher, z_t, t, level, guidance, eps), listed)
    assert not torch.allclose(plain, estimate)
