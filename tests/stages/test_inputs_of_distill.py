"""What distillation reads of the chain it builds on, and the operations that its steps are said to take."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from diladiff_cli.errors import UserError
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.common import trunk_flops
from diladiff_cli.stages.distill import distill
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.train_prior import train_prior

from ..chain import Chain, distill_config, prior_config


def test_stored_latents_are_all_that_it_needs_of_base_and_encoder(chain_copy: Chain) -> None:
    latents, config = chain_copy.root / "latents", distill_config(max_steps=2)
    encode_latents(ae=chain_copy.ae, out=latents)
    shutil.rmtree(chain_copy.mdlm)
    found = distill(config, prior=chain_copy.prior, latents=latents, out=chain_copy.root / "student")
    assert found["step"] == 2
    with pytest.raises(UserError, match="which is missing"):
        distill(config, prior=chain_copy.prior, data=chain_copy.data, out=chain_copy.root / "other")


def test_what_a_step_does_not_call_is_not_compiled(chain_copy: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = list[str]()
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function.__name__) or function)
    config = replace(distill_config(max_steps=1), compile=True)
    distill(replace(config, p_self_cond=0.0), prior=chain_copy.prior, out=chain_copy.root / "without")
    assert compiled == ["forward", "along_ode"]
    distill(replace(config, p_self_cond=0.5), prior=chain_copy.prior, out=chain_copy.root / "self")
    assert compiled[2:] == ["forward", "forward", "along_ode"]


def test_a_prior_takes_the_auto_encoder_that_made_its_latents(chain_copy: Chain) -> None:
    latents = chain_copy.root / "latents"
    encode_latents(ae=chain_copy.ae, out=latents)
    train_prior(prior_config(max_steps=1), latents=latents, out=chain_copy.root / "new")
    made = load_artifact(chain_copy.root / "new", "prior")
    assert made.parent("ae").hash == load_artifact(chain_copy.ae).hash
    shutil.copytree(latents, chain_copy.root / "far" / "away")
    with pytest.raises(UserError, match=r"that made .*away, .*, is missing; name it with --ae"):
        train_prior(prior_config(max_steps=1), latents=chain_copy.root / "far" / "away", out=chain_copy.root / "new")
    with pytest.raises(ConfigError, match="ae is missing; name an auto-encoder, or latents"):
        train_prior(prior_config(max_steps=1), out=chain_copy.root / "none")


@pytest.mark.parametrize("p_self_cond", [0.0, 0.5])
def test_an_estimate_that_a_student_was_never_trained_with_changes_nothing(
    tiny_chain: Chain, tmp_path: Path, p_self_cond: float
) -> None:
    distill(distill_config(p_self_cond=p_self_cond, max_steps=3), prior=tiny_chain.prior, out=tmp_path / "student")
    artifact = load_artifact(tmp_path / "student")
    model, shape = build(artifact), [artifact.network[name] for name in ("latents", "latent_width")]
    z_t, z_self = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9])
    with torch.no_grad():
        changes = not torch.equal(model(z_t, t, t / 2, z_self), model(z_t, t, t / 2, torch.zeros_like(z_self)))
    assert changes == (p_self_cond > 0)


@pytest.mark.parametrize("kind", [LatentPrior, LatentStudent])
def test_operations_of_a_latent_network_are_those_that_torch_counts(kind: type[LatentPrior]) -> None:
    model = kind(schedule_d=5.0, latents=8, latent_width=4, width=16, layers=2, heads=2)
    z, t = torch.zeros(3, 8, 4), torch.full((3,), 0.5)
    inputs = (z, t, z) if kind is LatentPrior else (z, t, t / 2, z)
    with FlopCounterMode(display=False) as counter:
        model(*inputs)
    counts = counter.get_flop_counts()["Global"]
    linear = sum(counts.get(kind, 0) for kind in (torch.ops.aten.mm, torch.ops.aten.addmm))
    assert linear == 3 * trunk_flops(model.trunk, 8)
