"""Parents, tokenizers and data replaced behind an artifact's back, and numbers that JSON lacks."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.errors import UserError
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.export import export
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm
from diladiff_cli.stages.train_prior import train_prior

from ..chain import LENGTH, Chain, ae_config, mdlm_config, prior_config, write_text
from ..command_line import Cli
from .forging import forge


def other_tokenizer(folder: Path) -> None:
    """Another token for the number of one."""
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text())
    vocabulary = values["model"]["vocab"]
    (a, first), (b, second), *_ = [pair for pair in vocabulary.items() if len(pair[0]) > 1 and pair[1] > 1]
    vocabulary |= {a: second, b: first}
    file.write_text(json.dumps(values))


def test_another_tokenizer_makes_another_artifact(chain_copy: Chain) -> None:
    other_tokenizer(chain_copy.ae)
    forge(chain_copy.ae)  # a whole artifact, with the same weights
    assert load_artifact(chain_copy.ae).stage == "ae"
    for use in (lambda: load(chain_copy.student, "cpu"), lambda: load_artifact(chain_copy.prior).parent("ae")):
        with pytest.raises(UserError, match="was made with another version of .*ckpt/ae"):
            use()


@pytest.mark.parametrize("place", ["data", "ckpt/mdlm", "ckpt/ae"])
def test_a_tokenizer_that_was_replaced_is_not_passed_on(chain_copy: Chain, tmp_path: Path, place: str) -> None:
    other_tokenizer(chain_copy.root / place)
    training: dict[str, Any] = {
        "data": lambda: train_mdlm(mdlm_config(), data=chain_copy.data, out=tmp_path / "new"),
        "ckpt/mdlm": lambda: train_ae(ae_config(), base=chain_copy.mdlm, out=tmp_path / "new"),
        "ckpt/ae": lambda: train_prior(prior_config(), ae=chain_copy.ae, out=tmp_path / "new"),
    }
    with pytest.raises(UserError, match=rf"{place}/tokenizer\.json is damaged"):
        training[place]()
    assert not (tmp_path / "new" / "config.json").exists()


@pytest.mark.parametrize("change", ["removed", "added"])
def test_a_file_more_or_less_in_a_tokenizer_is_noticed(chain_copy: Chain, tmp_path: Path, change: str) -> None:
    folder = chain_copy.mdlm
    name = "tokenizer_config.json" if change == "removed" else "added_tokens.json"
    if change == "removed":
        (folder / name).unlink()
    else:
        (folder / name).write_text('{"[ELSE]": 1}')
    for use in (lambda: load(chain_copy.mdlm, "cpu"), lambda: export(chain_copy.mdlm, tmp_path / "bundle")):
        with pytest.raises(UserError, match=rf"{name} (is missing|was not there)"):
            use()


def test_a_tokenizer_that_was_lost_is_named_with_the_remedy(chain_copy: Chain) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (chain_copy.mdlm / name).unlink()
    with pytest.raises(UserError, match=r"ckpt/mdlm/tokenizer(_config)?\.json is missing; restore it, or make"):
        load(chain_copy.mdlm, "cpu")


def test_a_finished_run_with_damaged_weights_is_not_called_finished(chain_copy: Chain) -> None:
    os.truncate(chain_copy.mdlm / "model.safetensors", 1000)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged: .*; restore it, or train again with --fresh"):
        train_mdlm(mdlm_config(), data=chain_copy.data, out=chain_copy.mdlm)
    assert train_mdlm(mdlm_config(), data=chain_copy.data, out=chain_copy.mdlm, resume=False)["step"] == 5
    assert len(load(chain_copy.mdlm, "cpu").sample(n=1)) == 1


def test_a_stage_that_others_were_made_with_is_not_trained_further(
    chain_copy: Chain, capsys: pytest.CaptureFixture[str]
) -> None:
    longer, copy = mdlm_config(max_steps=7), chain_copy.mdlm.with_name("mdlm-longer")
    (chain_copy.mdlm.parent / "notes").mkdir()
    (chain_copy.mdlm.parent / "notes" / "config.json").write_text('{"parents": ["of another program"]}')
    for resume in (None, True):
        with pytest.raises(
            UserError, match=re.escape(f"(max_steps 5 -> 7), and what was made with it ({chain_copy.ae})")
        ):
            train_mdlm(longer, data=chain_copy.data, out=chain_copy.mdlm, resume=resume)
    assert train_mdlm(mdlm_config(max_steps=4), data=chain_copy.data, out=chain_copy.mdlm, resume=True)["step"] == 5
    assert len(load(chain_copy.student, "cpu").sample(n=1)) == 1
    shutil.copytree(chain_copy.mdlm, copy)
    assert train_mdlm(longer, data=chain_copy.data, out=copy, resume=True)["step"] == 7
    assert f"what was made with {copy} and lies elsewhere than beside it" in capsys.readouterr().err
    train_mdlm(longer, data=chain_copy.data, out=chain_copy.mdlm, resume=False, dry_run=True)
    assert f"{chain_copy.ae} will not accept the new {chain_copy.mdlm}\n" in capsys.readouterr().err
    train_mdlm(longer, data=chain_copy.data, out=chain_copy.mdlm, resume=False)
    longest = mdlm_config(max_steps=8)  # what is out of date already keeps nothing from going on
    assert train_mdlm(longest, data=chain_copy.data, out=chain_copy.mdlm, resume=True)["step"] == 8


def test_an_unfinished_stage_that_others_were_made_with_is_not_trained_further(chain_copy: Chain) -> None:
    config, folder = mdlm_config(max_minutes=1e-9), chain_copy.root / "new"
    assert train_mdlm(config, data=chain_copy.data, out=folder / "mdlm")["step"] == 1
    train_ae(ae_config(max_steps=1), base=folder / "mdlm", out=folder / "ae")
    told = rf"mdlm is not finished, and what was made with it \({folder}/ae\) could not use it trained further; delete"
    with pytest.raises(UserError, match=told):
        train_mdlm(config, data=chain_copy.data, out=folder / "mdlm")
    assert len(load(folder / "ae", "cpu").sample(n=1)) == 1
    shutil.rmtree(folder / "ae")
    assert train_mdlm(mdlm_config(), data=chain_copy.data, out=folder / "mdlm")["step"] == 5


def test_a_folder_whose_replacement_was_cut_off_is_there(cli: Cli, chain_copy: Chain) -> None:
    for folder in (chain_copy.data, chain_copy.mdlm):
        folder.rename(folder.with_name(f".{folder.name}.old"))
    commands = (("train-mdlm", "--data", chain_copy.data), ("train-ae", "--base", chain_copy.mdlm))
    for command in commands:
        found = cli(*command, "--out", chain_copy.root / "new", "--dry-run")
        assert found.status == 0, found.err


def test_a_data_set_called_tokenizer_is_compared_as_any(chain_copy: Chain) -> None:
    home = chain_copy.mdlm / "tokenizer"  # inside of an artifact, of all places
    chain_copy.data.rename(home)
    assert len(load_tokenizer(home)) > 2
    other_tokenizer(home)
    with pytest.raises(UserError, match=r"mdlm/tokenizer/tokenizer\.json is damaged"):
        load_tokenizer(home)


def test_data_that_were_replaced_are_used_only_by_name(cli: Cli, chain_copy: Chain, tmp_path: Path) -> None:
    write_text(chain_copy.text, seed=1)
    config = EncodeConfig(tokenizer=str(chain_copy.mdlm), length=LENGTH, valid_share=0.25)
    encode_text(config, text=[str(chain_copy.text)], out=chain_copy.data, resume=False)
    commands: list[tuple[str | Path, ...]] = [
        ("train-ae", "--base", chain_copy.mdlm, "--out", tmp_path / "ae", "--dry-run"),
        ("train-prior", "--ae", chain_copy.ae, "--out", tmp_path / "prior", "--dry-run"),
        ("distill", "--prior", chain_copy.prior, "--out", tmp_path / "student", "--dry-run"),
        ("encode", "--ae", chain_copy.ae, "--out", tmp_path / "latents"),
        ("sample", "--model", chain_copy.ae, "--n", "1"),
        ("eval", chain_copy.mdlm, "--batches", "1"),
    ]
    for command in commands:
        found = cli(*command)
        assert (found.status, found.out) == (1, "")
        assert f"{chain_copy.data} is not what {chain_copy.root}/ckpt/" in found.error
        assert f"or use this with --data {chain_copy.data}" in found.error
        found = cli(*command, "--data", chain_copy.data)
        assert found.status == 0, found.err


def test_numbers_that_json_lacks_are_null_without_a_checksum(tiny_chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(tiny_chain.root, tmp_path / "old")
    config = tmp_path / "old" / "ckpt" / "mdlm" / "config.json"
    values = json.loads(config.read_text())
    values["progress"]["validation"] = {"perplexity_bound": float("inf"), "nll": float("nan")}
    config.write_text(json.dumps(values))
    with pytest.raises(UserError, match="it was changed"):
        load_artifact(config.parent)
    del values["checksum"]
    config.write_text(json.dumps(values))
    assert load_artifact(config.parent).config["progress"]["validation"] == {"perplexity_bound": None, "nll": None}


@pytest.mark.parametrize("content", ["[1]", '{"tokenizer": 1, "epsilon": Infinity}', "no JSON"])
def test_a_tokenizer_beside_the_config_of_something_else_is_used(
    tiny_chain: Chain, tmp_path: Path, content: str
) -> None:
    load_tokenizer(tiny_chain.data).save_pretrained(tmp_path / "mine")
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "text.txt").write_text("a dog\n\n" * 400)
    config = EncodeConfig(tokenizer=str(tmp_path / "mine"), length=LENGTH, valid_share=0.2)
    record = encode_text(config, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    assert record["splits"]["train"]["rows"] > 0
