"""The cards of artifacts and bundles."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from diladiff_cli.integrity import read_json
from diladiff_cli.runtime.card import FIGURES, model_card
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.export import export
from diladiff_cli.stages.train_ae import train_ae

from ..chain import LENGTH, Chain, ae_config


def config_of(path: Path) -> dict[str, Any]:
    return read_json(path / "config.json")


def test_the_card_has_licence_and_languages_and_keeps_them(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.mdlm, tmp_path / "plain")
    export(tiny_chain.mdlm, tmp_path / "told", license="cc-by-sa-4.0", language="no,pt-BR")
    export(tmp_path / "told", tmp_path / "again", "fp32", language="en")

    def metadata(name: str) -> dict[str, Any]:
        return yaml.safe_load((tmp_path / name / "README.md").read_text().split("---\n")[1])

    assert not {"license", "language"} & metadata("plain").keys()
    assert (metadata("told")["license"], metadata("told")["language"]) == ("cc-by-sa-4.0", ["no", "pt-BR"])
    assert (metadata("again")["license"], metadata("again")["language"]) == ("cc-by-sa-4.0", ["en"])
    assert config_of(tmp_path / "again")["export"]["precision"] == "fp32"


def test_a_licence_is_spelled_as_the_hub_does(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.mdlm, tmp_path / "bundle", license="MIT")
    assert config_of(tmp_path / "bundle")["export"]["license"] == "mit"


def test_parents_keep_the_licence_that_they_have(chain_copy: Chain, tmp_path: Path) -> None:
    export(chain_copy.mdlm, tmp_path / "base", "fp32", license="cc-by-sa-4.0")
    shutil.rmtree(chain_copy.mdlm)
    shutil.move(tmp_path / "base", chain_copy.mdlm)
    train_ae(ae_config(max_steps=1), base=chain_copy.mdlm, data=chain_copy.data, out=tmp_path / "ae")
    export(tmp_path / "ae", tmp_path / "plain")
    export(tmp_path / "ae", tmp_path / "told", license="no")
    licences = [
        [config_of(tmp_path / name / part)["export"].get("license") for part in ("", "parents/mdlm")]
        for name in ("plain", "told")
    ]
    assert licences == [[None, "cc-by-sa-4.0"], ["no", "cc-by-sa-4.0"]]
    assert yaml.safe_load((tmp_path / "told" / "README.md").read_text().split("---\n")[1])["license"] == "no"


@pytest.mark.parametrize("bad", [{"license": "mine: [all]"}, {"license": ""}, {"language": "english, german"}])
def test_a_licence_or_language_that_is_none_is_refused(tiny_chain: Chain, tmp_path: Path, bad: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(bad))} is .*; give "):
        export(tiny_chain.mdlm, tmp_path / "bundle", **bad)
    assert not (tmp_path / "bundle").exists()


def test_the_card_shows_how_to_sample(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle")
    card = (tmp_path / "bundle" / "README.md").read_text()
    assert "diladiff sample --model PATH" in card
    assert 'diladiff_cli.load("PATH")' in card
    assert "stored in bf16" in card
    assert "- ae: `parents/ae`" in card
    export(tiny_chain.ae, tmp_path / "ae", "fp32")
    assert 'model.decode(model.encode(["Some text."]))' in (tmp_path / "ae" / "README.md").read_text()


@pytest.mark.parametrize("stage", ["mdlm", "ae", "prior", "student"])
def test_the_card_has_the_figures_in_words_and_the_limits(tiny_chain: Chain, stage: str) -> None:
    path = getattr(tiny_chain, stage)
    card = (path / "README.md").read_text()
    figures = {k: v for k, v in config_of(path)["progress"]["validation"].items() if isinstance(v, float)}
    assert len(figures) >= 2
    for name, value in figures.items():
        assert f"| {FIGURES[name]} | {value:.4g} |" in card.splitlines()
    assert f"texts of {LENGTH} tokens" in card.split("## Limits")[1].split("## Made from")[0]
    assert f"\nSteps: {config_of(path)['progress']['step']:,}, in " in card
    progress = config_of(path)["progress"]
    assert f", by the validation after step {progress.get('validated_step', progress['step']):,}:" in card
    task = None if stage == "ae" else "text-generation"
    assert yaml.safe_load(card.split("---\n")[1]).get("pipeline_tag") == task
    assert "curves" not in card
    assert "by_noise" not in card


def test_a_card_has_only_figures_that_are_numbers(tiny_chain: Chain) -> None:
    config = config_of(tiny_chain.mdlm)
    odd = {"nll": float("nan"), "bound": None, "recovery": float("inf"), "curves": [1.0]}
    for validation in ({}, odd):
        assert "## Figures" not in model_card(config | {"progress": {"step": 1, "validation": validation}})
    card = model_card(config | {"progress": {"step": 9, "validated_step": 7, "validation": odd | {"loss": 0.5}}})
    assert card.split("## Figures")[1].split("## Training")[0].count("\n| ") == 3
    assert "by the validation after step 7:" in card


def test_a_card_asks_for_no_more_steps_than_there_are_tokens(tiny_chain: Chain) -> None:
    for stage in ("mdlm", "prior", "student"):
        config = config_of(getattr(tiny_chain, stage))
        assert f"--decode-steps {LENGTH}\n" in model_card(config)
        longer = config | {"data": config["data"] | {"length": 512}}
        assert f"--decode-steps {64 if stage == 'mdlm' else 16}\n" in model_card(longer)
