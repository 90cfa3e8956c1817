from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import diladiff_cli.stages.distill as distill_module
import diladiff_cli.stages.train_ae as ae_module
from diladiff_cli.config import AeConfig, EncodeConfig
from diladiff_cli.data.tokenizer import encode_documents, load_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.networks.autoencoder import load_base_weights
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.distill import distill
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.feature_sources import feature_source
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm

from ..chain import LENGTH, Chain, ae_config, distill_config, mdlm_config


@pytest.mark.slow
def test_the_auto_encoder_recovers_far_more_than_its_base(tiny_chain: Chain, tmp_path: Path) -> None:
    options = {"latent_width": 32, "augmentation": "soft", "optimizer": "muon"}
    config = AeConfig(**ae_config(max_steps=300).to_dict() | options)
    curves = train_ae(config, base=tiny_chain.mdlm, out=tmp_path / "ae")["curves"]
    recovery = {name: curve[-1]["recovery"] for name, curve in curves.items()}  # everything masked
    assert recovery["autoencoder"] > 1.5 * recovery["base"]
    assert recovery["autoencoder"] > 1.5 * recovery["noise_latent"]


def test_the_embedding_table_stays_that_of_the_base(tiny_chain: Chain) -> None:
    base, ae = build(load_artifact(tiny_chain.mdlm)), build(load_artifact(tiny_chain.ae))
    assert torch.equal(base.embedding.weight, ae.decoder.embedding.weight)
    assert not torch.equal(base.blocks[0].mlp.up.weight, ae.decoder.blocks[0].mlp.up.weight)


def test_the_decoder_warms_up_more_slowly(tiny_chain: Chain, tmp_path: Path) -> None:
    config = ae_config(max_steps=1, decoder_warmup_steps=10**9)
    train_ae(config, base=tiny_chain.mdlm, out=tmp_path / "ae")
    base, ae = build(load_artifact(tiny_chain.mdlm)), build(load_artifact(tmp_path / "ae"))
    moved = float((ae.decoder.blocks[0].mlp.up.weight - base.blocks[0].mlp.up.weight).abs().max())
    assert moved < 1e-8
    assert float(ae.decoder.blocks[0].cross.outer.weight.abs().max()) > 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": "mild"},
        {"augmentation": "soft", "mask_unit": "element"},
        {"augmentation": "dropout-50", "local_attention": False},
        {"compression": 1, "cross_layers": "0,1"},
        {"compression": 16, "encoder_layers": 2, "encoder_width": 32},
    ],
)
def test_the_auto_encoder_trains_with_every_kind_of_option(
    options: dict[str, Any], tiny_chain: Chain, tmp_path: Path
) -> None:
    config = AeConfig(**ae_config(max_steps=3).to_dict() | options)
    figures = train_ae(config, base=tiny_chain.mdlm, out=tmp_path / "ae")
    artifact = load_artifact(tmp_path / "ae", "ae")
    assert artifact.network["encoder"]["latents"] * config.compression == 16
    assert 0 < figures["nll"] < 10


def test_settings_that_do_not_fit_the_base_are_named(tiny_chain: Chain, tmp_path: Path) -> None:
    for options, message in (
        ({"compression": 3}, "compression 3 does not divide"),
        ({"cross_layers": "first,7"}, "cross_layers has '7'"),
        ({"encoder_width": 6}, "encoder_width 6"),
    ):
        config = AeConfig(**ae_config().to_dict() | options)
        with pytest.raises(ConfigError, match=message):
            train_ae(config, base=tiny_chain.mdlm, out=tmp_path / "ae")


def test_the_features_are_measured_once(tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for max_steps, measured in ((2, True), (2, False), (3, False)):
        train_ae(ae_config(max_steps=max_steps), base=tiny_chain.mdlm, out=tmp_path / "ae", resume=not measured)
        assert ("measuring the features" in capsys.readouterr().err) == measured
    state = load_artifact(tmp_path / "ae").state_dict()
    assert torch.equal(state["feature_moments.mean"], load_artifact(tiny_chain.ae).state_dict()["feature_moments.mean"])


def test_the_features_of_few_blocks_are_measured_on_each_block_once(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_ae(ae_config(max_steps=1, learning_rate=0.0), base=tiny_chain.mdlm, out=tmp_path / "ae")
    split = open_tokens(tiny_chain.data).split("train")
    assert f"measuring the features {len(split)}/{len(split)}" in capsys.readouterr().err
    artifact = load_artifact(tmp_path / "ae")
    features = feature_source("self", artifact.parent("mdlm"), "cpu")(split.gather(np.arange(len(split))))
    found, expected = artifact.state_dict()["feature_moments.mean"], features.flatten(0, 1).mean(dim=0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["ae", "student"])
def test_what_does_not_change_is_computed_once_for_all_validations(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    module, name = {"ae": (ae_module, "base_figures"), "student": (distill_module, "teacher_samples")}[stage]
    calls, compute = list[int](), getattr(module, name)

    def counted(*arguments: Any) -> Any:
        calls.append(1)
        return compute(*arguments)

    monkeypatch.setattr(module, name, counted)
    if stage == "ae":
        train_ae(ae_config(max_steps=3, eval_every=1), base=tiny_chain.mdlm, out=tmp_path / "out")
    else:
        distill(distill_config(max_steps=3, eval_every=1), prior=tiny_chain.prior, out=tmp_path / "out")
    lines = [line for line in read_metrics(tmp_path / "out" / "metrics.jsonl") if line["split"] == "valid"]
    assert (len(lines), len(calls)) == (3, 1)


def test_a_single_training_block_is_refused(tmp_path: Path, tiny_chain: Chain) -> None:
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text("the old dog sat by the sea and a new red bird ran home\n")
    settings = EncodeConfig(tokenizer=str(tiny_chain.data), length=16)
    encode_text(settings, text=[str(tmp_path / "one.txt")], valid=[str(tmp_path / "two.txt")], out=tmp_path / "data")
    with pytest.raises(UserError, match=r"data has a single training block, whose latent has no spread; encode more"):
        train_ae(ae_config(), base=tiny_chain.mdlm, data=tmp_path / "data", out=tmp_path / "ae")


def test_training_blocks_that_are_all_alike_are_refused(tmp_path: Path, tiny_chain: Chain) -> None:
    tokenizer = load_tokenizer(tiny_chain.data)
    texts = ("the dog" + "!?" * n + "!" * odd for n in range(20) for odd in (0, 1))
    block = next(text for text in texts if len(encode_documents(tokenizer, [text])[0]) == LENGTH)
    (tmp_path / "one.txt").write_text(f"{block}\n\n" * 5)
    (tmp_path / "two.txt").write_text(f"{block}\n")
    settings = EncodeConfig(tokenizer=str(tiny_chain.data), length=LENGTH)
    text, valid = ([str(tmp_path / name)] for name in ("one.txt", "two.txt"))
    encode_text(settings, text=text, valid=valid, out=tmp_path / "data")
    assert len(open_tokens(tmp_path / "data").split("train")) == 5
    with pytest.raises(UserError, match="are all alike, and so are latents; encode other text"):
        train_ae(ae_config(), base=tiny_chain.mdlm, data=tmp_path / "data", out=tmp_path / "ae")
    (tmp_path / "one.txt").write_text(f"{block}\n\n" * 80 + "a dog and a bird and a red sea, and home again they ran\n")
    encode_text(settings, text=text, valid=valid, out=tmp_path / "data", resume=False)
    train_ae(ae_config(max_steps=1), base=tiny_chain.mdlm, data=tmp_path / "data", out=tmp_path / "ae")


def test_starting_over_names_what_it_leaves_behind_once(chain_copy: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    train_ae(ae_config(max_steps=1), base=chain_copy.mdlm, out=chain_copy.ae, resume=False)
    assert capsys.readouterr().err.count(f"will not accept the new {chain_copy.ae}") == 1


@pytest.mark.parametrize("positions", ["learned", "rotary", "local"])
def test_a_decoder_takes_over_the_positions_of_its_base(tiny_chain: Chain, tmp_path: Path, positions: str) -> None:
    train_mdlm(mdlm_config(max_steps=2, positions=positions), data=tiny_chain.data, out=tmp_path / "mdlm")
    train_ae(ae_config(max_steps=2), base=tmp_path / "mdlm", out=tmp_path / "ae")
    base, ae = (build(load_artifact(tmp_path / name)) for name in ("mdlm", "ae"))
    load_base_weights(ae.decoder, base.state_dict())
    for block in (block for block in ae.decoder.blocks if block.cross is not None):
        torch.nn.init.zeros_(block.cross.outer.weight)
        torch.nn.init.zeros_(block.cross.outer.bias)
    x = torch.randint(2, 9, (3, 16), generator=torch.Generator().manual_seed(0))
    z = torch.randn(3, *ae.latent_shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ae.decoder(x, None, z), base(x))
