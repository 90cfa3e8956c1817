"""An auto-encoder on the features of a Hugging Face encoder, from training to latents."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import Artifact, load_artifact
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.export import export, hub_encoder, usage
from diladiff_cli.stages.feature_sources import encoder_features, recorded_source, text_encoder
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm
from diladiff_cli.tokenizer_files import read_tokenizer

from ..chain import CHANNELS, LATENTS, LENGTH, Chain, ae_config, mdlm_config, write_text
from ..real_encoder import encoder_folder, needs_encoder


def write_encoder(folder: Path, chain: Chain, seed: int = 0) -> Path:
    """A random BERT with the vocabulary and the tokenizer of the chain's data."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config: Any = BertConfig(
        vocab_size=open_tokens(chain.data).vocab_size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=LENGTH,
    )
    build_encoder: Any = BertModel
    build_encoder(config, add_pooling_layer=False).save_pretrained(folder)  # as published encoders come at times
    for name, content in read_tokenizer(chain.data).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def trained(tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An auto-encoder on an encoder that was named by a relative path."""
    write_encoder(tmp_path / "encoder", tiny_chain)
    monkeypatch.chdir(tmp_path)
    train_ae(ae_config(features="encoder"), base=tiny_chain.mdlm, data=tiny_chain.data, out=tmp_path / "ae")
    return tmp_path / "ae"


def test_latents_come_from_the_encoder_wherever_the_command_is_given(
    tiny_chain: Chain, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = load_artifact(trained, "ae")
    assert artifact.network["encoder"]["feature_width"] == 8
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    encode_latents(ae=trained, data=tiny_chain.data, out=tmp_path / "latents", precision="fp32")
    found = open_latents(tmp_path / "latents").split("train")
    assert found.gather([0, 1]).shape == (2, LATENTS, CHANNELS)
    x = open_tokens(tiny_chain.data).split("train").gather([0, 1])
    encode = text_encoder(artifact, build(artifact), "cpu")
    torch.testing.assert_close(torch.as_tensor(found.gather([0, 1])).float(), encode(x), rtol=2e-3, atol=2e-3)
    assert load(trained, "cpu").encode(["the old dog sat"]).shape[1:] == (LATENTS, CHANNELS)


def test_a_bundle_takes_the_encoder_along(tiny_chain: Chain, trained: Path, tmp_path: Path) -> None:
    export(trained, tmp_path / "deep" / "bundle", "fp32")
    moved = (tmp_path / "deep" / "bundle").rename(tmp_path / "moved")
    bundle = load_artifact(moved, "ae")
    assert bundle.network["features"] == "./encoder"
    x = open_tokens(tiny_chain.data).split("valid").gather([0, 1])
    first, second = (text_encoder(a, build(a), "cpu")(x) for a in (load_artifact(trained, "ae"), bundle))
    assert torch.equal(first, second)
    assert (
        "It is complete, with all that it was made from (mdlm) below `parents/`; its"
        in (moved / "README.md").read_text()
    )


def test_an_encoder_in_the_home_folder_is_recorded_by_its_place(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_encoder(tmp_path / "encoder", tiny_chain)
    source = encoder_features("~/encoder", open_tokens(tiny_chain.data).vocab_size, LENGTH)
    assert recorded_source("~/encoder", source, tmp_path / "ae")["features"] == "./../encoder"


def test_an_encoder_that_changed_is_not_exported(tiny_chain: Chain, trained: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder", tiny_chain, seed=1)
    with pytest.raises(UserError, match="has other weights than when"):
        export(trained, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_card_of_a_bundle_names_an_encoder_of_the_hub(tiny_chain: Chain) -> None:
    ae = load_artifact(tiny_chain.ae)
    assert hub_encoder([load_artifact(tiny_chain.mdlm), ae]) is None
    network = ae.network | {"features": "google-bert/bert-base-uncased"}
    name = hub_encoder([Artifact(ae.path, ae.config | {"network": network})])
    assert name == "google-bert/bert-base-uncased"
    assert f"but for the encoder {name}, which it needs to encode texts" in usage("ae", "bf16", ["mdlm"], name)


def test_a_run_does_not_go_on_with_another_encoder(tiny_chain: Chain, trained: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder", tiny_chain, seed=1)
    config = ae_config(features="encoder", max_steps=9)
    with pytest.raises(UserError, match=r"made from something else \(feature encoder \w{12} -> \w{12}\)"):
        train_ae(config, base=tiny_chain.mdlm, data=tiny_chain.data, out=trained, resume=True)


def test_an_encoder_that_changed_is_refused(tiny_chain: Chain, trained: Path, tmp_path: Path) -> None:
    write_encoder(tmp_path / "encoder", tiny_chain, seed=1)
    with pytest.raises(
        UserError, match=r"encoder .*encoder has other weights than when .*ae was trained on it; restore"
    ):
        encode_latents(ae=trained, data=tiny_chain.data, out=tmp_path / "latents", precision="fp32")


def test_a_run_goes_on_however_the_folder_of_its_encoder_is_named(
    tiny_chain: Chain, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = load_artifact(trained).hash
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    given = {"base": tiny_chain.mdlm, "data": tiny_chain.data, "out": trained}
    for name in ("../encoder", str(tmp_path / "encoder")):
        train_ae(ae_config(features=name), **given)  # finished
        assert load_artifact(trained).hash == begun
    found = train_ae(ae_config(features="../encoder", max_steps=9), **given, resume=True)
    assert found["step"] == 9
    with pytest.raises(UserError, match="made from something else"):
        train_ae(ae_config(features="self"), **given)


@pytest.mark.slow
@needs_encoder
def test_an_auto_encoder_trains_on_the_features_of_a_real_encoder(tmp_path: Path) -> None:
    encoder = encoder_folder()
    write_text(tmp_path / "text.txt")
    data = EncodeConfig(tokenizer=str(encoder), length=LENGTH, valid_share=0.25)
    encode_text(data, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    train_mdlm(mdlm_config(max_steps=2), data=tmp_path / "data", out=tmp_path / "mdlm")
    found = train_ae(ae_config(features=str(encoder), max_steps=2), base=tmp_path / "mdlm", out=tmp_path / "ae")
    assert found["step"] == 2
    assert load_artifact(tmp_path / "ae", "ae").network["encoder"]["feature_width"] == 384
    latents = load(tmp_path / "ae", "cpu").encode(["the old dog sat by the sea", "a new red bird ran home"])
    assert latents.shape[1:] == (LATENTS, CHANNELS)
    assert not torch.allclose(latents[0], latents[1], atol=1e-3)
