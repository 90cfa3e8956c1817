"""The four training stages, on the tiny chain."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.config import DistillConfig
from diladiff_cli.core.gaussian import TanSchedule
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.networks.layers import use_plain_attention
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.randomness import BatchRng
from diladiff_cli.stages.distill import MeanFlowLoss, distill, draw_times
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import masked_batch, mdlm_loss, train_mdlm
from diladiff_cli.stages.train_prior import prior_figures, train_prior

from ..chain import Chain, ae_config, distill_config, mdlm_config, prior_config

CPU = torch.device("cpu")


def training_losses(artifact: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(artifact / "metrics.jsonl") if line["split"] == "train"]


def batch_rng(size: int, seed: int = 0, step: int = 0) -> BatchRng:
    return BatchRng(seed, step, range(size), size, CPU)


def test_the_base_learns(tiny_chain: Chain, tmp_path: Path) -> None:
    figures = train_mdlm(mdlm_config(max_steps=60), data=tiny_chain.data, out=tmp_path / "mdlm")
    uniform = torch.tensor(float(open_tokens(tiny_chain.data).vocab_size)).log()
    assert figures["bound"] < 0.75 * float(uniform)


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "muon"}, {"elbo_weight": "exact"}, {"positions": "rotary", "bias": True}, {"positions": "local"}],
)
def test_the_base_trains_with_every_kind_of_option(options: dict[str, Any], tiny_chain: Chain, tmp_path: Path) -> None:
    train_mdlm(mdlm_config(max_steps=20, **options), data=tiny_chain.data, out=tmp_path / "mdlm")
    losses = training_losses(tmp_path / "mdlm")
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize(("weight", "explained"), [("constant", True), ("exact", False)])
def test_the_base_says_what_its_loss_is_a_mean_of(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], weight: str, explained: bool
) -> None:
    train_mdlm(mdlm_config(max_steps=1, elbo_weight=weight), data=tiny_chain.data, out=tmp_path / "mdlm")
    assert ("loss is a mean over all tokens" in capsys.readouterr().err) == explained


@pytest.mark.parametrize(("more", "told"), [(0, False), (1, True)])
def test_batches_that_are_larger_than_the_data_set_are_told(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: int, told: bool
) -> None:
    rows = len(open_tokens(tiny_chain.data).split("train"))
    config = mdlm_config(batch_size=rows + more, max_steps=1)
    train_mdlm(config, data=tiny_chain.data, out=tmp_path / "mdlm")
    line = f"{rows} training blocks are fewer than --batch-size {rows + 1}: a batch has some more than once"
    assert [said for said in capsys.readouterr().err.splitlines() if " are fewer than " in said] == [line] * told


def test_exact_and_constant_weights_differ_by_one_over_t() -> None:
    x = torch.randint(2, 9, (6, 8), generator=torch.Generator().manual_seed(0))
    logits = torch.randn(9, generator=torch.Generator().manual_seed(1))

    def model(x_t: Tensor, select: Tensor, targets: Tensor) -> Tensor:
        return logits.logsumexp(0) - logits[targets]

    x_t, is_masked, t = masked_batch(x, batch_rng(6), mask_id=1)
    assert torch.equal(x_t == 1, is_masked)
    nll = logits.logsumexp(0) - logits[x]
    for exact, weight in ((False, torch.ones(6)), (True, 1 / t)):
        loss, _ = mdlm_loss(1, exact)(model, x, batch_rng(6))  # type: ignore[arg-type]
        torch.testing.assert_close(loss, (nll * is_masked * weight[:, None]).sum() / x.numel())


def test_the_prior_learns_from_stored_latents_as_from_text(tiny_chain: Chain, tmp_path: Path) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents", precision="fp32")
    config = prior_config(max_steps=10)
    train_prior(config, ae=tiny_chain.ae, latents=tmp_path / "latents", out=tmp_path / "stored")
    train_prior(config, ae=tiny_chain.ae, out=tmp_path / "fly")
    # Stored latents are rounded to float16.
    assert training_losses(tmp_path / "stored") == pytest.approx(training_losses(tmp_path / "fly"), rel=1e-2)


def test_a_student_takes_the_latents_of_its_prior_where_they_still_are(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latents, prior = tmp_path / "latents", tmp_path / "prior"
    encode_latents(ae=tiny_chain.ae, out=latents, precision="fp32")
    train_prior(prior_config(), ae=tiny_chain.ae, latents=latents, out=prior)
    for name, given in (("given", latents), ("recorded", None)):
        distill(distill_config(), prior=prior, latents=given, out=tmp_path / name)
    assert f"latents: {latents}, as {prior} was trained on" in capsys.readouterr().err.splitlines()
    assert training_losses(tmp_path / "recorded") == training_losses(tmp_path / "given")
    assert load_artifact(tmp_path / "recorded", "student").data["latents"]
    latents.rename(tmp_path / "elsewhere")
    distill(distill_config(), prior=prior, out=tmp_path / "gone")
    told = f"encoding on the fly: {prior} was trained on stored latents, but there is no folder {latents}"
    assert told in capsys.readouterr().err.splitlines()
    assert load_artifact(tmp_path / "gone", "student").data["latents"] is None
    assert training_losses(tmp_path / "gone") == pytest.approx(training_losses(tmp_path / "given"), rel=0.05)


def test_a_student_that_began_on_the_fly_goes_on_so(tiny_chain: Chain, tmp_path: Path) -> None:
    latents, prior, out = tmp_path / "latents", tmp_path / "prior", tmp_path / "student"
    encode_latents(ae=tiny_chain.ae, out=latents, precision="fp32")
    train_prior(prior_config(), ae=tiny_chain.ae, latents=latents, out=prior)
    latents.rename(tmp_path / "away")
    distill(distill_config(), prior=prior, out=out)
    (tmp_path / "away").rename(latents)
    assert distill(distill_config(), prior=prior, out=out)["step"] == 3  # finished, and not refused
    assert load_artifact(out, "student").data["latents"] is None


def test_latents_of_another_auto_encoder_are_refused(tiny_chain: Chain, tmp_path: Path) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents")
    for name in ("config.json", "plan.json"):
        stored = json.loads((tmp_path / "latents" / name).read_text())
        del stored["checksum"]
        (tmp_path / "latents" / name).write_text(json.dumps(stored | {"ae_hash": "another"}))
    with pytest.raises(UserError, match="latents of another auto-encoder"):
        train_prior(prior_config(), ae=tiny_chain.ae, latents=tmp_path / "latents", out=tmp_path / "prior")


def test_an_untrained_prior_has_the_error_of_white_latents() -> None:
    prior = LatentPrior(schedule_d=10.0, latents=4, latent_width=3, width=16, layers=1, heads=2)
    z_0 = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(0))
    for level in prior_figures(prior, prior.schedule, [z_0])["by_noise"]:
        assert level["loss"] == pytest.approx(level["white"], rel=0.03)


@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
def test_a_student_has_the_positions_of_its_prior(tiny_chain: Chain, tmp_path: Path, positions: str) -> None:
    train_prior(prior_config(positions=positions), ae=tiny_chain.ae, out=tmp_path / "prior")
    distill(distill_config(), prior=tmp_path / "prior", out=tmp_path / "student")
    for stage in ("prior", "student"):
        artifact = load_artifact(tmp_path / stage)
        assert artifact.network["positions"] == positions
        assert ("trunk.places" in artifact.state_dict()) == (positions == "learned")


def test_the_trained_prior_beats_white_latents(tiny_chain: Chain, tmp_path: Path) -> None:
    figures = train_prior(prior_config(max_steps=150, learning_rate=3e-3), ae=tiny_chain.ae, out=tmp_path / "prior")
    assert figures["share_of_white"] < 0.95


def test_times_of_distillation_follow_their_law() -> None:
    config = DistillConfig(p_uniform=0.5, p_zero=0.15, p_equal=0.25, p_jumps=0.0)
    t, r = draw_times(batch_rng(20_000), config, TanSchedule())
    assert bool((r >= 0).all() and (r <= t).all() and (t <= 1).all() and (t > 0).all())
    assert float((t == r).float().mean()) == pytest.approx(0.25, abs=0.015)
    assert float((r == 0).float().mean()) == pytest.approx(0.75 * 0.15, abs=0.01)
    published = replace(config, p_uniform=0.0, p_zero=0.0)
    t, r = draw_times(batch_rng(20_000), published, TanSchedule())
    logit = torch.cat([t[t > r], r[t > r]]).logit()
    assert float(logit.mean()) == pytest.approx(-1.0, abs=0.03)
    assert float(logit.std()) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(("p_jumps", "p_equal"), [(0.3, 0.0), (0.7, 0.25)])
def test_some_times_of_distillation_lie_in_jumps(p_jumps: float, p_equal: float) -> None:
    config = DistillConfig(p_uniform=1.0, p_zero=0.0, p_jumps=p_jumps, p_equal=p_equal)
    t, r = draw_times(batch_rng(20_000), config, TanSchedule())
    assert bool((r >= 0).all() and (r <= t).all() and (t <= 1).all() and (t > 0).all())
    assert float((t == r).float().mean()) == pytest.approx(p_equal, abs=0.01)
    last = sum(1 / steps for steps in range(1, 6)) / 5  # of all jumps, those that end at 0 without gamma
    alone = float((r == 0).float().mean()) / (1 - p_equal)
    assert p_jumps * last < alone < 1.2 * p_jumps * last  # a gamma near 1 leads to 0 as well


def meanflow(config: DistillConfig) -> tuple[MeanFlowLoss, LatentStudent, Tensor]:
    trunk = {"latents": 4, "latent_width": 3, "width": 16, "layers": 2, "heads": 2}
    torch.manual_seed(0)
    teacher, student = LatentPrior(schedule_d=10.0, **trunk), LatentStudent(schedule_d=10.0, **trunk)
    torch.nn.init.normal_(teacher.trunk.out.weight, std=0.2)
    student.load_state_dict(teacher.state_dict(), strict=False)
    use_plain_attention(student)
    z_0 = torch.randn(64, 4, 3, generator=torch.Generator().manual_seed(1))
    return MeanFlowLoss(lambda batch: batch, teacher, config), student, z_0


def squared_error(loss_fn: MeanFlowLoss, student: LatentStudent, z_0: Tensor, step: int = 0) -> float:
    rng = batch_rng(len(z_0))
    rng.step = step
    return float(loss_fn(student, z_0, rng)[1]["squared_error"].detach())


def test_a_student_of_teacher_weights_has_no_loss_on_its_teachers_own_velocity() -> None:
    # r = t everywhere and no self-conditioning in the student: u(z, t, t, 0) is the teacher's first estimate.
    loss_fn, student, z_0 = meanflow(distill_config(p_equal=1.0, p_self_cond=0.0))
    with torch.no_grad():  # a teacher that ignores its self-conditioning, so that both of its calls agree
        loss_fn.teacher.trunk.inputs.weight[:, 3:] = 0
        student.trunk.inputs.weight[:, 3:] = 0
    assert squared_error(loss_fn, student, z_0) < 1e-8
    assert squared_error(*meanflow(distill_config(p_equal=0.0, p_self_cond=0.0))) > 1e-4


def test_the_tangent_factor_rises_over_the_warm_up() -> None:
    def error_at(step: int, warmup: int) -> float:
        config = distill_config(p_equal=0.0, p_self_cond=0.0, tangent_warmup_steps=warmup)
        return squared_error(*meanflow(config), step=step)

    assert error_at(100, 100) == pytest.approx(error_at(0, 0), rel=1e-6)
    assert error_at(50, 100) != pytest.approx(error_at(100, 100), rel=1e-3)


def test_the_student_trains_with_either_velocity(tiny_chain: Chain, tmp_path: Path) -> None:
    losses = {}
    for velocity in ("ode", "sampled"):
        distill(distill_config(velocity=velocity, log_every=1), prior=tiny_chain.prior, out=tmp_path / velocity)
        lines = read_metrics(tmp_path / velocity / "metrics.jsonl")
        losses[velocity] = [line["loss"] for line in lines if line["split"] == "train"]
    assert all(math.isfinite(loss) for values in losses.values() for loss in values)
    assert all(ode != sampled for ode, sampled in zip(losses["ode"], losses["sampled"], strict=True))


@pytest.mark.slow
def test_distillation_brings_the_student_nearer_to_its_teacher(tiny_chain: Chain, tmp_path: Path) -> None:
    train_prior(prior_config(max_steps=300, learning_rate=3e-3), ae=tiny_chain.ae, out=tmp_path / "prior")
    begin = distill(distill_config(max_steps=1, learning_rate=0.0), prior=tmp_path / "prior", out=tmp_path / "begin")
    settled = distill_config(max_steps=300, learning_rate=2e-3, lr_schedule="linear", ema_decay=0.98)
    end = distill(settled, prior=tmp_path / "prior", out=tmp_path / "end")
    for steps in (1, 2, 5):
        assert end[f"student_{steps}_steps"] < 0.9 * begin[f"student_{steps}_steps"]


def test_a_run_goes_on_only_from_the_same_settings_parent_and_data(chain_copy: Chain) -> None:
    chain = chain_copy
    before = load_artifact(chain.prior).hash
    train_prior(prior_config(), ae=chain.ae, out=chain.prior)  # finished
    assert load_artifact(chain.prior).hash == before
    with pytest.raises(UserError, match="other settings .*max_steps 5 -> 6"):
        train_prior(prior_config(max_steps=6), ae=chain.ae, out=chain.prior)
    encode_latents(ae=chain.ae, out=chain.root / "latents")
    with pytest.raises(UserError, match="made from something else .*stored latents False -> True"):
        train_prior(prior_config(), ae=chain.ae, latents=chain.root / "latents", out=chain.prior)
    train_ae(ae_config(seed=1), base=chain.mdlm, out=chain.ae, resume=False)
    with pytest.raises(UserError, match="made from something else .*ae artifact"):
        train_prior(prior_config(), ae=chain.ae, out=chain.prior, dry_run=True)
    train_prior(prior_config(), ae=chain.ae, out=chain.prior, resume=False)
    assert load_artifact(chain.prior).hash != before


def test_a_dry_run_checks_and_writes_nothing(tiny_chain: Chain, tmp_path: Path) -> None:
    plans = [
        train_mdlm(mdlm_config(), data=tiny_chain.data, out=tmp_path / "x", dry_run=True),
        train_ae(ae_config(), base=tiny_chain.mdlm, out=tmp_path / "x", dry_run=True),
        train_prior(prior_config(), ae=tiny_chain.ae, out=tmp_path / "x", dry_run=True),
        distill(distill_config(), prior=tiny_chain.prior, out=tmp_path / "x", dry_run=True),
    ]
    assert [plan["stage"] for plan in plans] == ["mdlm", "ae", "prior", "student"]
    assert all(json.dumps(plan) for plan in plans)
    assert not (tmp_path / "x").exists()


def test_what_is_not_trained_to_its_end_is_told_where_something_is_made_from_it(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short: dict[str, Any] = {"max_steps": 5, "max_minutes": 1e-9}
    train_mdlm(mdlm_config(**short), data=tiny_chain.data, out=tmp_path / "mdlm")
    train_ae(ae_config(**short), base=tiny_chain.mdlm, out=tmp_path / "ae")
    train_prior(prior_config(**short), ae=tiny_chain.ae, out=tmp_path / "prior")
    capsys.readouterr()
    out = tmp_path / "new"
    for folder, told in ((tmp_path, True), (tiny_chain.root / "ckpt", False)):
        for parent, make in (
            ("mdlm", lambda path: train_ae(ae_config(), base=path, out=out, dry_run=True)),
            ("ae", lambda path: train_prior(prior_config(), ae=path, out=out, dry_run=True)),
            ("ae", lambda path: encode_latents(ae=path, out=out, dry_run=True)),
            ("prior", lambda path: distill(distill_config(), prior=path, out=out, dry_run=True)),
        ):
            make(folder / parent)
            said = f"{folder / parent} is at step 1 of 5; what is made from it now"
            assert (said in capsys.readouterr().err) is told
