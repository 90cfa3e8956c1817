"""Bases that begin with the weights of others: of artifacts, and of published checkpoints."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, sealed
from diladiff_cli.runtime.artifacts import content_hash, load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.info import describe
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm

from ..chain import LENGTH, WORDS, Chain, ae_config, mdlm_config, write_text
from ..networks.test_public_checkpoint import HEADS, published_logits, random_weights

TAKEN_OVER = mdlm_config(max_steps=1, learning_rate=0.0)
CONFIG = {"model_type": "mdlm", "n_heads": HEADS, "model_length": 64, "time_conditioning": False}


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_artifact(folder, "mdlm").state_dict()


def tokenizer_of_words(folder: Path) -> Path:
    """A tokenizer without a mask token, which then is the last of what ``encode`` makes of it."""
    names = ["[UNK]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    kinds = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(kinds))
    return folder


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a tokenizer of words."""
    root = tmp_path_factory.mktemp("words")
    write_text(root / "text.txt")
    tokenizer = tokenizer_of_words(root / "tokenizer")
    config = EncodeConfig(tokenizer=str(tokenizer), length=LENGTH, valid_share=0.25)
    encode_text(config, text=[str(root / "text.txt")], out=root / "data")
    return root / "data"


def published(folder: Path, vocab: int = len(WORDS) + 3, **changes: Any) -> Path:
    """A checkpoint in the published format, with random weights."""
    folder.mkdir()
    save_file(random_weights(vocab), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    return folder


def test_a_base_begins_with_a_published_checkpoint(words: Path, tmp_path: Path) -> None:
    checkpoint = published(tmp_path / "checkpoint")
    train_mdlm(TAKEN_OVER, data=words, init=checkpoint, out=tmp_path / "base")
    base = load_artifact(tmp_path / "base", "mdlm")
    assert (base.training["norm"], base.training["qk_norm"], base.training["width"]) == ("layernorm", False, 32)
    x = open_tokens(words).split("valid").gather(range(4)).clone()
    x[:, ::2] = len(WORDS) + 2
    wanted = published_logits(random_weights(len(WORDS) + 3), x)[..., :-1]
    torch.testing.assert_close(build(base)(x)[..., :-1], wanted, rtol=1e-4, atol=1e-4)
    assert describe(tmp_path / "base")["init"]["source"] == str(checkpoint)
    assert f"began with the weights of `{checkpoint}`" in (tmp_path / "base" / "README.md").read_text()


def test_an_auto_encoder_is_made_from_a_published_checkpoint(words: Path, tmp_path: Path) -> None:
    train_mdlm(TAKEN_OVER, data=words, init=published(tmp_path / "checkpoint"), out=tmp_path / "base")
    found = train_ae(ae_config(max_steps=2), base=tmp_path / "base", out=tmp_path / "ae")
    assert found["step"] == 2


def test_a_base_goes_on_from_another(tiny_chain: Chain, tmp_path: Path) -> None:
    train_mdlm(replace(TAKEN_OVER, width=32), data=tiny_chain.data, init=tiny_chain.mdlm, out=tmp_path / "same")
    before, after = weights_of(tiny_chain.mdlm), weights_of(tmp_path / "same")
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert load_artifact(tmp_path / "same").training["width"] == 16
    first = train_mdlm(mdlm_config(max_steps=1), data=tiny_chain.data, out=tmp_path / "scratch")
    further = train_mdlm(mdlm_config(max_steps=1), data=tiny_chain.data, init=tiny_chain.mdlm, out=tmp_path / "on")
    assert further["nll"] < first["nll"]


def test_a_run_goes_on_only_with_what_it_began_with(chain_copy: Chain, tmp_path: Path) -> None:
    config = mdlm_config(max_steps=2, width=32)  # which the other's network is not
    shutil.copytree(chain_copy.mdlm, tmp_path / "first")
    begun: dict[str, Any] = {"data": chain_copy.data, "init": tmp_path / "first", "out": tmp_path / "base"}
    train_mdlm(config, **begun)
    longer = replace(config, max_steps=3)
    shutil.copytree(tmp_path / "base", tmp_path / "second")
    with pytest.raises(UserError, match=r"made from something else \(initial weights \w+ -> None\)"):
        train_mdlm(longer, **begun | {"init": None}, resume=True)
    with pytest.raises(
        UserError, match=rf"initial weights .*; give --init as it was, {tmp_path / 'first'}, to continue"
    ):
        train_mdlm(config, **begun | {"init": None})
    with pytest.raises(UserError, match=r"made from something else \(initial weights \w+ -> \w+\)"):
        train_mdlm(longer, **begun | {"init": tmp_path / "second"}, resume=True)
    assert train_mdlm(longer, **begun, resume=True)["step"] == 3
    in_one = train_mdlm(longer, **begun | {"out": tmp_path / "in one"})
    assert in_one["nll"] == pytest.approx(describe(tmp_path / "base")["validation"]["nll"], rel=1e-6)


def test_a_base_does_not_replace_what_it_begins_with(chain_copy: Chain) -> None:
    before = weights_of(chain_copy.mdlm)
    for dry_run in (True, False):
        with pytest.raises(UserError, match="is the folder of --out, which would replace it; choose another --out"):
            given: dict[str, Any] = {"data": chain_copy.data, "init": chain_copy.mdlm, "out": chain_copy.mdlm}
            train_mdlm(TAKEN_OVER, **given, resume=False, dry_run=dry_run)
    assert all(torch.equal(weight, before[name]) for name, weight in weights_of(chain_copy.mdlm).items())


def test_a_plan_says_what_a_base_begins_with(tiny_chain: Chain, tmp_path: Path) -> None:
    plan = train_mdlm(TAKEN_OVER, data=tiny_chain.data, init=tiny_chain.mdlm, out=tmp_path / "b", dry_run=True)
    assert plan["init"] == {"source": str(tiny_chain.mdlm), "hash": load_artifact(tiny_chain.mdlm).hash}
    assert not (tmp_path / "b").exists()


def other_length(chain: Chain, length: int, out: Path) -> Path:
    config = EncodeConfig(tokenizer=str(chain.mdlm), length=length, valid_share=0.25)
    encode_text(config, text=[str(chain.text)], out=out)
    return out


def test_learned_positions_are_taken_as_far_as_texts_go(tiny_chain: Chain, tmp_path: Path) -> None:
    train_mdlm(TAKEN_OVER, data=other_length(tiny_chain, 8, tmp_path / "8"), init=tiny_chain.mdlm, out=tmp_path / "b")
    found = weights_of(tmp_path / "b")["position"]
    assert torch.equal(found, weights_of(tiny_chain.mdlm)["position"][:8])
    longer = other_length(tiny_chain, 20, tmp_path / "20")
    with pytest.raises(UserError, match=r"learned positions for 16 tokens.*--length 16 or less"):
        train_mdlm(TAKEN_OVER, data=longer, init=tiny_chain.mdlm, out=tmp_path / "c")


def test_the_vocabulary_must_be_that_of_the_data(tiny_chain: Chain, words: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"has vocab_size 40, and .* {len(WORDS) + 3}; encode the text with"):
        train_mdlm(TAKEN_OVER, data=words, init=published(tmp_path / "larger", 40), out=tmp_path / "base")
    with pytest.raises(UserError, match=rf"has vocab_size \d+, and .*--tokenizer {tiny_chain.mdlm}"):
        train_mdlm(TAKEN_OVER, data=words, init=tiny_chain.mdlm, out=tmp_path / "base")
    write_text(tmp_path / "other.txt", seed=5, words=100)
    config = EncodeConfig(tokenizer="train:300", length=LENGTH, valid_share=0.25)
    encode_text(config, text=[str(tmp_path / "other.txt")], out=tmp_path / "other")
    vocab_size = open_tokens(tiny_chain.data).vocab_size
    assert open_tokens(tmp_path / "other").vocab_size == vocab_size
    with pytest.raises(UserError, match=rf"has another tokenizer than .*--tokenizer {tiny_chain.mdlm}"):
        train_mdlm(TAKEN_OVER, data=tmp_path / "other", init=tiny_chain.mdlm, out=tmp_path / "base")
    with pytest.raises(UserError, match=rf"has mask_id {vocab_size - 1}, and .* 1; encode the text with"):
        train_mdlm(
            TAKEN_OVER, data=tiny_chain.data, init=published(tmp_path / "as large", vocab_size), out=tmp_path / "b"
        )


def test_what_is_no_base_is_refused_in_one_line(words: Path, tiny_chain: Chain, tmp_path: Path) -> None:
    def refused(init: Path | str, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            train_mdlm(TAKEN_OVER, data=words, init=init, out=tmp_path / "base")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "base").exists()

    refused(tmp_path / "nothing", "there is no folder .*nothing; give a base, which train-mdlm writes")
    refused(tiny_chain.ae, "auto-encoder")
    refused(
        published(tmp_path / "timed", time_conditioning=True), "not a checkpoint of MDLM: it is conditioned on time"
    )
    torn = published(tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((torn / "model.safetensors").read_bytes()[:1000])
    refused(torn, r"torn/model.safetensors cannot be read")
    (torn / "model.safetensors").unlink()
    refused(torn, r"torn/model.safetensors cannot be read \(")
    (torn / "config.json").write_text("{")
    refused(torn, r"torn/config.json cannot be read \(")
    odd = published(tmp_path / "odd")
    weights = load_file(odd / "model.safetensors")
    save_file(weights | {"blocks.0.norm1.weight": torch.ones(7)}, odd / "model.safetensors")
    refused(odd, "not a checkpoint of MDLM: ")
    save_file({"wte": torch.ones(2, 2)}, odd / "model.safetensors")
    refused(odd, "it has not the weights of one")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty")


@pytest.mark.parametrize("bad", [None, "shipped", {}, {"source": 3, "hash": "a"}, {"source": "a"}])
def test_a_record_of_the_begin_that_is_none_is_damage(chain_copy: Chain, bad: object) -> None:
    file = chain_copy.mdlm / "config.json"
    config = json.loads(file.read_text()) | {"init": bad}
    file.write_text(sealed({k: v for k, v in config.items() if k != CHECKSUM}))
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load_artifact(chain_copy.mdlm)


def test_arguments_that_an_artifact_does_not_spell_are_those_of_its_class(chain_copy: Chain, tmp_path: Path) -> None:
    file = chain_copy.mdlm / "config.json"
    config = json.loads(file.read_text())
    del config["network"]["positions"], config["network"]["tie_embeddings"]
    names = ("stage", "network", "files", "tokenizer")
    config["hash"] = content_hash(*(config[name] for name in names))
    file.write_text(sealed({k: v for k, v in config.items() if k != CHECKSUM}))
    other = replace(TAKEN_OVER, positions="rotary", tie_embeddings=True)
    train_mdlm(other, data=chain_copy.data, init=chain_copy.mdlm, out=tmp_path / "base")
    assert load_artifact(tmp_path / "base").network["tie_embeddings"] is False
    assert torch.equal(weights_of(tmp_path / "base")["position"], weights_of(chain_copy.mdlm)["position"])


def validated(folder: Path) -> list[int]:
    """The steps after which a run was validated."""
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl") if line["split"] == "valid"]


@pytest.mark.parametrize("eval_every", [0, 3])
def test_what_a_run_begins_with_is_validated_first(tiny_chain: Chain, tmp_path: Path, eval_every: int) -> None:
    config = mdlm_config(max_steps=6, eval_every=eval_every)
    train_mdlm(config, data=tiny_chain.data, out=tmp_path / "new", init=tiny_chain.mdlm)
    found = [line for line in read_metrics(tmp_path / "new" / "metrics.jsonl") if line["split"] == "valid"]
    assert [line["step"] for line in found] == [0, *([3] if eval_every else []), 6]
    own = [line for line in read_metrics(tiny_chain.mdlm / "metrics.jsonl") if line["split"] == "valid"][-1]
    assert found[0]["nll"] == pytest.approx(own["nll"])
    train_mdlm(config, data=tiny_chain.data, out=tmp_path / "scratch")
    assert validated(tmp_path / "scratch") == [*([3] if eval_every else []), 6]
    longer = replace(config, max_steps=8)
    train_mdlm(longer, data=tiny_chain.data, out=tmp_path / "new", init=tiny_chain.mdlm, resume=True)
    assert validated(tmp_path / "new") == [*(line["step"] for line in found), 8]
