import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diladiff_cli.errors import UserError
from diladiff_cli.metrics.agreement import latent_agreement
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.export import export
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.info import describe

from ..chain import Chain, prior_config

CHAINS = {"mdlm": [], "ae": ["mdlm"], "prior": ["mdlm", "ae"], "student": ["mdlm", "ae", "prior"]}
STATISTICS = ("moments.mean", "moments.variance", "moments.weight")


@pytest.fixture(scope="module")
def bundle(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny student in bf16; tests must not change it."""
    out = tmp_path_factory.mktemp("export") / "bundle"
    export(tiny_chain.student, out)
    return out


def tokens(path: Path, **settings: Any) -> torch.Tensor:
    return torch.tensor([s["token_ids"] for s in load(path, "cpu").sample(**{"n": 16} | settings)])


def config_of(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text())


@pytest.mark.parametrize("stage", CHAINS)
def test_a_bundle_holds_every_ancestor_once(tiny_chain: Chain, tmp_path: Path, stage: str) -> None:
    summary = export(getattr(tiny_chain, stage), tmp_path / "bundle")
    folders = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob("config.json"))
    assert folders == sorted(["bundle", *(f"bundle/parents/{name}" for name in CHAINS[stage])])
    assert list(tmp_path.iterdir()) == [tmp_path / "bundle"]
    root = load_artifact(tmp_path / "bundle", stage)
    size = sum(p.stat().st_size for p in (tmp_path / "bundle").rglob("*") if p.is_file())
    assert summary == {
        "stage": stage,
        "out": str(tmp_path / "bundle"),
        "precision": "bf16",
        "hash": root.hash,
        "parents": CHAINS[stage],
        "bytes": size,
        "stored": "fp32",
    }


def test_every_link_of_a_bundle_holds(bundle: Path) -> None:
    student = load_artifact(bundle)
    prior, ae = student.parent("prior"), student.parent("ae")
    assert prior.parent("ae").hash == ae.hash
    assert ae.parent("mdlm").path.resolve() == (bundle / "parents" / "mdlm").resolve()
    for artifact in (student, prior, ae, ae.parent("mdlm")):
        assert all(not Path(link["path"]).is_absolute() for link in artifact.config["parents"].values())


def test_fp32_samples_are_exactly_the_originals(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle", "fp32")
    assert torch.equal(tokens(tmp_path / "bundle"), tokens(tiny_chain.student))


def test_bf16_samples_are_the_originals_up_to_rounding(tiny_chain: Chain, bundle: Path) -> None:
    assert latent_agreement(tokens(bundle), tokens(tiny_chain.student)) > 0.8


def test_bf16_rounds_weights_and_leaves_statistics(tiny_chain: Chain, bundle: Path) -> None:
    stored = load_file(bundle / "parents" / "ae" / "model.safetensors")
    original = build(load_artifact(tiny_chain.ae)).state_dict()
    assert stored.keys() == original.keys()
    statistics = {name for name in stored if name.endswith(STATISTICS)}
    assert len(statistics) == 6
    for name, value in original.items():
        wanted = value if name in statistics else value.bfloat16()
        assert stored[name].dtype == wanted.dtype
        assert torch.equal(stored[name], wanted)
    network = build(load_artifact(bundle / "parents" / "ae"))
    assert all(p.dtype == torch.float32 for p in network.parameters())


def test_the_decision_is_recorded_and_nothing_of_the_training_is_lost(tiny_chain: Chain, bundle: Path) -> None:
    for path, original in ((bundle, tiny_chain.student), (bundle / "parents" / "prior", tiny_chain.prior)):
        found, wanted = config_of(path), config_of(original)
        assert found["export"] == {"precision": "bf16"}
        for key in ("stage", "format_version", "package_version", "network", "training", "progress"):
            assert found[key] == wanted[key]
        assert found["data"]["fingerprint"] == wanted["data"]["fingerprint"]
        assert (path / "metrics.jsonl").read_bytes() == (original / "metrics.jsonl").read_bytes()
        assert not (path / "state").exists()


def test_a_moved_bundle_works_without_the_original(chain_copy: Chain, tmp_path: Path) -> None:
    export(chain_copy.student, tmp_path / "bundle", "fp32")
    wanted = tokens(chain_copy.student)
    latents = load(chain_copy.student, "cpu").encode("the cat sat")
    shutil.rmtree(chain_copy.root)
    shutil.move(tmp_path / "bundle", tmp_path / "elsewhere")
    assert torch.equal(tokens(tmp_path / "elsewhere"), wanted)
    assert torch.equal(load(tmp_path / "elsewhere", "cpu").encode("the cat sat"), latents)


def test_parts_of_a_bundle_are_artifacts(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle", "fp32")
    for stage in ("mdlm", "prior"):
        part = tmp_path / "bundle" / "parents" / stage
        assert torch.equal(tokens(part, n=2), tokens(getattr(tiny_chain, stage), n=2))


def test_training_goes_on_from_a_bundle(chain_copy: Chain, tmp_path: Path) -> None:
    from diladiff_cli.stages.train_prior import train_prior

    export(chain_copy.ae, tmp_path / "bundle")
    shutil.rmtree(chain_copy.root / "ckpt")
    train_prior(prior_config(max_steps=1), ae=tmp_path / "bundle", out=tmp_path / "prior")
    assert tokens(tmp_path / "prior", n=2, steps=2).shape[0] == 2


def test_a_bundle_can_be_exported_again(bundle: Path, tmp_path: Path) -> None:
    assert export(bundle, tmp_path / "again")["stored"] == "bf16"
    assert config_of(tmp_path / "again")["hash"] == config_of(bundle)["hash"]
    export(bundle / "parents" / "prior", tmp_path / "prior", "fp32")
    assert load_artifact(tmp_path / "prior", "prior").parent("ae").config["export"] == {"precision": "fp32"}


def test_a_bundle_samples_with_its_own_factor_on_latents(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "first", latent_scale=0.25)
    export(tmp_path / "first", tmp_path / "second")
    export(tmp_path / "second", tmp_path / "third", latent_scale=1.0)
    scaled = tokens(tmp_path / "first", latent_scale=0.25)
    for name in ("first", "second"):
        assert torch.equal(tokens(tmp_path / name), scaled)
        assert load(tmp_path / name, "cpu").sample(n=1)[0]["latent_scale"] == 0.25
    assert not torch.equal(tokens(tmp_path / "third"), scaled)
    assert "sampling" not in config_of(tmp_path / "third")
    assert torch.equal(tokens(tmp_path / "third"), tokens(tmp_path / "first", latent_scale=1.0))
    assert "sampling" not in config_of(tmp_path / "first" / "parents" / "prior")
    assert "multiplied by 0.25 unless" in (tmp_path / "second" / "README.md").read_text()
    assert describe(tmp_path / "second")["sampling"] == {"latent_scale": 0.25}


def test_the_own_factor_is_for_latents_that_are_drawn(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "plain")
    export(tiny_chain.student, tmp_path / "bundle", latent_scale=0.25)
    model, plain = load(tmp_path / "bundle", "cpu"), load(tmp_path / "plain", "cpu")
    latents = plain.encode(["the cat", "the dog"])
    texts = [[s["text"] for s in m.decode(latents)] for m in (model, plain)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), 11.0])
def test_a_factor_that_is_none_is_refused(tiny_chain: Chain, tmp_path: Path, bad: float) -> None:
    with pytest.raises(ConfigError, match=r"^latent_scale is "):
        export(tiny_chain.student, tmp_path / "bundle", latent_scale=bad)
    assert not (tmp_path / "bundle").exists()


def test_a_factor_of_what_draws_no_latents_is_refused(tiny_chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="of stage ae and draws no latents; leave it out"):
        export(tiny_chain.ae, tmp_path / "bundle", latent_scale=0.5)


def test_damaged_weights_of_a_parent_are_noticed(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    weights = tmp_path / "bundle" / "parents" / "ae" / "model.safetensors"
    state = load_file(weights)
    save_file({k: v + 1 for k, v in state.items()}, weights)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load(tmp_path / "bundle", "cpu")


def test_a_swapped_parent_is_noticed(bundle: Path, tiny_chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    export(tiny_chain.ae, tmp_path / "other", "fp32")
    shutil.rmtree(tmp_path / "bundle" / "parents" / "ae")
    shutil.move(tmp_path / "other", tmp_path / "bundle" / "parents" / "ae")
    with pytest.raises(UserError, match="was made with another version of"):
        load(tmp_path / "bundle", "cpu")


def test_a_missing_ancestor_is_named_and_nothing_is_written(chain_copy: Chain, tmp_path: Path) -> None:
    shutil.rmtree(chain_copy.mdlm)
    with pytest.raises(UserError, match="mdlm, which is missing; put it back, or make it again with train-mdlm"):
        export(chain_copy.student, tmp_path / "bundle")
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_two_versions_of_an_ancestor_are_refused(chain_copy: Chain, tmp_path: Path) -> None:
    export(chain_copy.ae, tmp_path / "ae")
    config = config_of(chain_copy.student)
    del config["checksum"]
    config["parents"]["ae"] = {"path": "../../../ae", "hash": config_of(tmp_path / "ae")["hash"]}
    (chain_copy.student / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="builds on two versions of stage mdlm"):
        export(chain_copy.student, tmp_path / "bundle")


@pytest.mark.parametrize("name", ["student", "../../evil", "latents"])
def test_only_earlier_stages_can_be_parents(chain_copy: Chain, tmp_path: Path, name: str) -> None:
    config = config_of(chain_copy.student)
    del config["checksum"]
    config["parents"][name] = {"path": "../student", "hash": config["hash"]}
    (chain_copy.student / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="names a parent of stage"):
        export(chain_copy.student, tmp_path / "deep" / "bundle")


def test_a_folder_that_is_no_bundle_is_left_alone(chain_copy: Chain, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    for out in (tmp_path / "mine", chain_copy.data):
        with pytest.raises(UserError, match="holds something else than a bundle"):
            export(chain_copy.student, out)
    for out in (chain_copy.student, chain_copy.ae / "bundle", chain_copy.root, chain_copy.mdlm):
        with pytest.raises(UserError, match="would overwrite"):
            export(chain_copy.student, out)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"
    assert load_artifact(chain_copy.student).parent("prior").stage == "prior"


def test_a_failed_export_leaves_the_older_bundle(
    chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(chain_copy.mdlm, tmp_path / "bundle")
    weights = chain_copy.student / "model.safetensors"  # written last, after its parents
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match="is damaged"):
        export(chain_copy.student, tmp_path / "bundle")
    assert load_artifact(tmp_path / "bundle").stage == "mdlm"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "copy"]


def test_an_unknown_precision_is_refused(tiny_chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="precision is 'fp8'; choose one of bf16, fp32"):
        export(tiny_chain.mdlm, tmp_path / "bundle", "fp8")
