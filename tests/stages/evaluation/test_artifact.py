import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diladiff_cli.config import EvalConfig, SampleConfig
from diladiff_cli.core.gaussian import velocity
from diladiff_cli.errors import UserError
from diladiff_cli.stages.common import open_recorded_data
from diladiff_cli.stages.evaluation.artifact import DEFINITIONS, artifact_table, evaluate_artifact
from diladiff_cli.stages.evaluation.figures import NOISE_STDS, Evaluation, agreement, prior_velocity, student_agreement
from diladiff_cli.stages.evaluation.samples import evaluate_samples
from diladiff_cli.stages.evaluation.scoring import Scoring
from diladiff_cli.stages.export import export
from diladiff_cli.stages.masked_logits import text_noise
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler

from ...chain import LATENTS, LENGTH, Chain

Report = dict[str, Any]
SETTINGS: dict[str, Any] = {"batches": 2, "draws": 4, "seed": 3}


@pytest.fixture(scope="module")
def reports(tiny_chain: Chain) -> dict[str, Report]:
    config = EvalConfig(**SETTINGS)
    found = {stage: evaluate_artifact(config, getattr(tiny_chain, stage)) for stage in ("mdlm", "ae", "student")}
    return found | {"prior": evaluate_artifact(EvalConfig(likelihood=2, **SETTINGS), tiny_chain.prior)}


STAGES = pytest.mark.parametrize("stage", ["mdlm", "ae", "prior", "student"])


@STAGES
def test_a_report_is_plain_json_with_a_definition_of_every_figure(reports: dict[str, Report], stage: str) -> None:
    report = reports[stage]
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["figures"]
    assert report["definitions"] == {name: DEFINITIONS[name] for name in report["figures"]}
    assert report["stage"] == stage
    assert (report["data"]["split"], report["data"]["sequences"], report["data"]["length"]) == ("valid", 32, LENGTH)


@STAGES
def test_the_table_shows_every_figure(reports: dict[str, Report], stage: str) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(artifact_table(reports[stage]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    titles = {
        "masked_text": "masked text",
        "curves": "by masking ratio",
        "robustness": "noise on the latent",
        "prior_loss": "error of the clean estimate",
        "whole_model": "whole model",
        "teacher_distance": "teacher distance",
        "latent_agreement": "latent agreement",
    }
    for name in reports[stage]["figures"]:
        assert titles[name] in text
    assert str(reports[stage]["path"]) in text.replace("\n", "")


def test_a_base_has_a_bound_and_a_curve_and_no_latents(reports: dict[str, Report]) -> None:
    figures = reports["mdlm"]["figures"]
    assert set(figures) == {"masked_text", "curves"}
    bound = figures["masked_text"]["base"]
    assert bound["perplexity"] == pytest.approx(math.exp(bound["nats_per_token"]))
    assert 1 < bound["nats_per_token"] < math.log(300) + 0.5
    assert (bound["sequences"], bound["draws"]) == (32, 4)
    assert 0 < bound["stderr"] < 1
    assert [point["ratio"] for point in figures["curves"]["base"]] == [i / 10 for i in range(1, 11)]


def test_an_auto_encoder_is_measured_beside_its_base_on_the_same_text(reports: dict[str, Report]) -> None:
    ae, base = reports["ae"]["figures"], reports["mdlm"]["figures"]
    assert set(ae) == {"masked_text", "curves", "robustness", "latent_agreement"}
    assert ae["masked_text"]["base"] == base["masked_text"]["base"]
    assert ae["curves"]["base"] == base["curves"]["base"]
    assert set(ae["curves"]) == set(ae["masked_text"]) == {"autoencoder", "base", "noise_latent"}


def test_robustness_runs_from_the_clean_latent_to_noise(reports: dict[str, Report]) -> None:
    figures = reports["ae"]["figures"]
    rows = {(row["std"], row["ratio"]): row for row in figures["robustness"]}
    assert set(rows) == {(std, ratio) for std in NOISE_STDS for ratio in (0.5, 1.0)}
    for std, name in ((0.0, "autoencoder"), (1.0, "noise_latent")):
        for point in figures["curves"][name]:
            if point["ratio"] in (0.5, 1.0):
                assert rows[std, point["ratio"]] == {"std": std, **point}


def test_the_whole_models_bound_is_the_decoders_less_the_latents_density(reports: dict[str, Report]) -> None:
    found = reports["prior"]["figures"]["whole_model"]
    assert found["nats_per_token"] == pytest.approx(found["decoder_nats_per_token"] + found["latent_nats_per_token"])
    assert found["latent_nats_per_token"] * LENGTH == pytest.approx(found["latent_nats_per_entry"] * LATENTS * 8)
    assert found["sequences"] == 2
    assert "perplexity" not in found  # it is not a likelihood of text


def test_the_whole_models_bound_may_be_left_out(tiny_chain: Chain) -> None:
    assert EvalConfig().likelihood == 4
    assert evaluate_artifact(EvalConfig(batches=1), tiny_chain.prior)["figures"]["whole_model"]["sequences"] == 4
    report = evaluate_artifact(EvalConfig(batches=1, likelihood=0), tiny_chain.prior)
    assert "whole_model" not in report["figures"]
    assert report["left_out"]["whole_model"] == "--likelihood is 0"


def test_the_priors_velocity_is_that_of_its_self_conditioned_estimate_and_has_a_gradient(tiny_chain: Chain) -> None:
    prior: Any = load_sampler(tiny_chain.prior, "cpu").latent
    z = torch.randn(2, LATENTS, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    t = torch.tensor([0.2, 0.9])
    first = prior(z, t, torch.zeros_like(z))
    torch.testing.assert_close(prior_velocity(prior)(z, t), velocity(z, prior(z, t, first), prior.schedule(t)))
    (slope,) = torch.autograd.grad(prior_velocity(prior)(z, t).sum(), z)
    assert bool((slope != 0).any())


def test_a_prior_has_its_loss_beside_that_of_white_latents(reports: dict[str, Report]) -> None:
    loss = reports["prior"]["figures"]["prior_loss"]
    assert all(level["white"] == pytest.approx(level["sigma"] ** 2) for level in loss["by_noise"])
    assert loss["loss"] > 0


def test_a_student_is_compared_with_its_prior_and_the_oracle(reports: dict[str, Report]) -> None:
    figures = reports["student"]["figures"]
    names = [*(f"student, {m} steps" for m in (1, 2, 5)), "prior, 50 steps", "oracle", "noise"]
    assert list(figures["latent_agreement"]) == names
    assert figures["latent_agreement"]["student, 5 steps"]["gamma"] == 0.8
    assert all(v["decode_steps"] == LENGTH // 4 for v in figures["latent_agreement"].values())
    prior = reports["prior"]["figures"]["latent_agreement"]
    for name in names[3:]:
        assert figures["latent_agreement"][name] == prior[name]
    distance = figures["teacher_distance"]
    assert {"student_1_steps", "student_2_steps", "student_5_steps", "teacher_5_steps"} <= set(distance)
    assert all(value >= 0 for value in distance.values())


def test_the_prior_beside_a_student_has_the_guidance_that_was_distilled(tiny_chain: Chain) -> None:
    student, prior = (load_sampler(path, "cpu") for path in (tiny_chain.student, tiny_chain.prior))
    trained = student.artifact.config
    guided = replace(student.artifact, config=trained | {"training": trained["training"] | {"guidance": 5.0}})
    tokens, config = open_recorded_data(student.artifact, None), EvalConfig(batches=2, seed=3)
    found = student_agreement(Evaluation(replace(student, artifact=guided), tokens, config))["latent_agreement"]
    plain, wanted = (
        agreement(Evaluation(prior, tokens, config), prior, 50, guidance=guidance) for guidance in (0.0, 5.0)
    )
    assert found["prior, 50 steps"] == wanted
    assert wanted["latent_agreement"] != plain["latent_agreement"]


def evaluation(chain: Chain, sharpness: float, heed: float) -> Evaluation:
    """An auto-encoder with latents of unit variance that its decoder heeds more or less, and a sharper head."""
    sampler = load_sampler(chain.ae, "cpu")
    moments = sampler.require_autoencoder().latent_moments
    with torch.no_grad():
        moments.variance.fill_(1.0)
        for name, weights in sampler.decoder.named_parameters():
            if ".cross.outer." in name:
                weights.mul_(heed)
            elif name.startswith("head."):
                weights.mul_(sharpness)
    tokens = open_recorded_data(sampler.artifact, None)
    return Evaluation(sampler, tokens, EvalConfig(batches=3, draws=1, likelihood=0))


def test_agreement_tells_a_decoder_that_heeds_its_latent_from_one_that_does_not(tiny_chain: Chain) -> None:
    heeding, deaf = (evaluation(tiny_chain, 6.0, heed) for heed in (100.0, 0.0))
    found, none = (agreement(work, work.oracle, white=True) for work in (heeding, deaf))
    assert found["latent_agreement"] > found["chance_agreement"] + 0.1
    assert none["latent_agreement"] == pytest.approx(none["chance_agreement"], abs=0.08)
    assert (found["latents"], found["decodings"], found["decode_steps"], found["top_p"]) == (12, 2, LENGTH // 4, 0.9)


@pytest.mark.parametrize(("stage", "name", "steps"), [("ae", "oracle", 0), ("student", "student, 2 steps", 2)])
def test_agreement_is_that_of_samples_drawn_with_two_decodings(
    tiny_chain: Chain, reports: dict[str, Report], stage: str, name: str, steps: int
) -> None:
    wanted = reports[stage]["figures"]["latent_agreement"][name]
    config = SampleConfig(n=2 * wanted["latents"], steps=steps, decodings=2, seed=SETTINGS["seed"])
    samples = list(generate(load_sampler(getattr(tiny_chain, stage), "cpu"), config))
    found = evaluate_samples(samples, None, Scoring(None))["samples"]
    assert found["latent_agreement"] == pytest.approx(wanted["latent_agreement"], abs=1e-12)
    assert found["chance_agreement"] == pytest.approx(wanted["chance_agreement"], abs=1e-12)


def test_text_is_spread_over_the_split_and_never_more_than_there_is(tiny_chain: Chain) -> None:
    work = evaluation(tiny_chain, 1.0, 1.0)
    split = work.tokens.split("valid")
    assert torch.equal(torch.cat(work.text(10**6)), split.gather(range(len(split))))
    few = torch.cat(work.text(2))
    assert torch.equal(few, split.gather([0, len(split) - 1]))
    assert max(map(len, work.text(40))) == 16


def test_equal_seeds_give_equal_reports_and_other_seeds_others(tiny_chain: Chain) -> None:
    for stage in ("mdlm", "ae", "prior", "student"):
        settings: dict[str, Any] = {"batches": 1, "draws": 2, "likelihood": 1}
        model = getattr(tiny_chain, stage)
        first, again, other = (evaluate_artifact(EvalConfig(**settings, seed=s), model) for s in (0, 0, 1))
        assert first == again
        assert all(first["figures"][name] != other["figures"][name] for name in first["figures"])


def test_another_seed_has_other_noise_on_latents(tiny_chain: Chain) -> None:
    model = load_sampler(tiny_chain.ae, "cpu")
    x = model.blocks(range(2))
    first, again, other = (text_noise(x, model.require_autoencoder().latent_shape, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert abs(float((first * other).mean())) < 0.2


def test_bf16_differs_by_rounding_only(tiny_chain: Chain, reports: dict[str, Report]) -> None:
    report = evaluate_artifact(EvalConfig(precision="bf16", **SETTINGS), tiny_chain.mdlm)
    found = report["figures"]["masked_text"]["base"]
    wanted = reports["mdlm"]["figures"]["masked_text"]["base"]
    assert found["nats_per_token"] != wanted["nats_per_token"]
    assert found["nats_per_token"] == pytest.approx(wanted["nats_per_token"], rel=1e-2)


def test_a_missing_data_set_is_named(tiny_chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder .*none; give a token data set"):
        evaluate_artifact(EvalConfig(), tiny_chain.ae, data=tmp_path / "none")


def test_a_bundle_says_that_it_comes_without_its_data_set(chain_copy: Chain, tmp_path: Path) -> None:
    export(chain_copy.ae, tmp_path / "bundle")
    shutil.rmtree(chain_copy.data)
    with pytest.raises(UserError, match=r"bundle is a bundle, which comes without its data set; name one with --data$"):
        evaluate_artifact(EvalConfig(**SETTINGS), tmp_path / "bundle")


def test_the_oracle_of_a_prior_is_its_auto_encoder(tiny_chain: Chain) -> None:
    work = evaluation(tiny_chain, 1.0, 1.0)
    prior = replace(work, sampler=load_sampler(tiny_chain.prior, "cpu"))
    assert prior.oracle.latent is None
    plain = replace(work, sampler=load_sampler(tiny_chain.ae, "cpu"))
    torch.testing.assert_close(prior.latents[0], plain.latents[0])
