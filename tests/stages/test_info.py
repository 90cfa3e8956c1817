import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from diladiff_cli import __version__
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.export import export
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.info import describe, info_table

from ..chain import CHANNELS, LATENTS, LENGTH, Chain

STAGES = pytest.mark.parametrize("stage", ["mdlm", "ae", "prior", "student"])


@pytest.fixture
def fresh(tiny_chain: Chain, tmp_path: Path) -> Chain:
    """A copy that a test may damage."""
    shutil.copytree(tiny_chain.root, tmp_path / "copy")
    return Chain(tmp_path / "copy")


@STAGES
def test_parameters_are_counted_as_the_network_has_them(tiny_chain: Chain, stage: str) -> None:
    path = getattr(tiny_chain, stage)
    network: torch.nn.Module = build(load_artifact(path))
    found = describe(path)["parameters"]
    assert found["total"] == sum(p.numel() for p in network.parameters()) == sum(found["parts"].values())
    assert found["statistics"] == sum(b.numel() for b in network.buffers())
    assert found["dtypes"] == ["F32"]


def test_a_folder_of_artifacts_is_told_by_what_it_holds(tiny_chain: Chain) -> None:
    folder = tiny_chain.mdlm.parent
    with pytest.raises(
        UserError, match=f"{folder} was not .* no config.json, but {folder}/ae, {folder}/mdlm, .* have;"
    ):
        describe(folder)


@STAGES
def test_a_record_says_what_it_is_and_how_it_was_made(tiny_chain: Chain, stage: str) -> None:
    path = getattr(tiny_chain, stage)
    record = describe(path)
    config = json.loads((path / "config.json").read_text())
    assert json.loads(json.dumps(record)) == record
    assert (record["stage"], record["package_version"], record["hash"]) == (stage, __version__, config["hash"])
    assert record["training"] == config["training"]
    assert record["progress"]["step"] == config["training"]["max_steps"]
    assert record["validation"] == config["progress"]["validation"]
    assert record["data"]["state"] == "unchanged"
    assert record["data"]["fingerprint"] == json.loads((tiny_chain.data / "config.json").read_text())["fingerprint"]
    assert record["files"]["model.safetensors"] == (path / "model.safetensors").stat().st_size
    assert record["bytes"] == sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def test_parents_are_found_and_compared(tiny_chain: Chain) -> None:
    parents = describe(tiny_chain.student)["parents"]
    assert set(parents) == {"prior", "ae"}
    assert {Path(p["path"]) for p in parents.values()} == {tiny_chain.prior, tiny_chain.ae}
    assert {p["state"] for p in parents.values()} == {"unchanged"}
    assert describe(tiny_chain.mdlm)["parents"] == {}


def test_the_rest_of_the_chain_is_found_as_far_as_it_is_unchanged(fresh: Chain) -> None:
    ancestors = describe(fresh.student)["ancestors"]
    assert {name: (found["path"], found["state"]) for name, found in ancestors.items()} == {
        "mdlm": (str(fresh.mdlm), "unchanged")
    }
    assert set(describe(fresh.prior)["ancestors"]) == {"mdlm"}
    assert describe(fresh.ae)["ancestors"] == {}  # its base is a parent
    shutil.rmtree(fresh.mdlm)
    assert describe(fresh.student)["ancestors"]["mdlm"]["state"] == "missing"
    shutil.rmtree(fresh.ae)
    assert describe(fresh.student)["ancestors"] == {}  # nothing tells what it was made from


def test_parents_that_name_each_other_are_followed_once(fresh: Chain) -> None:
    for folder, links in (
        (fresh.mdlm, {"ae": fresh.ae, "mdlm": fresh.mdlm}),
        (fresh.ae, {"mdlm": fresh.mdlm, "student": fresh.student}),
    ):
        config = json.loads((folder / "config.json").read_text())
        config["parents"] = {stage: {"path": str(p), "hash": load_artifact(p).hash} for stage, p in links.items()}
        del config["checksum"]
        (folder / "config.json").write_text(json.dumps(config))
    assert set(describe(fresh.student)["ancestors"]) == {"mdlm"}
    assert describe(fresh.mdlm)["ancestors"] == {}


def test_changed_missing_and_damaged_origins_are_told(fresh: Chain) -> None:
    shutil.rmtree(fresh.prior)
    shutil.rmtree(fresh.ae)
    shutil.copytree(fresh.mdlm, fresh.ae)
    config = json.loads((fresh.data / "config.json").read_text())
    del config["checksum"]
    (fresh.data / "config.json").write_text(json.dumps(config | {"fingerprint": "another"}))
    record = describe(fresh.student)
    assert record["parents"]["prior"]["state"] == "missing"
    assert record["parents"]["ae"]["state"] == "damaged"
    assert record["data"]["state"] == "changed"
    shutil.rmtree(fresh.data)
    assert describe(fresh.mdlm)["data"]["state"] == "missing"


def test_a_parent_of_other_weights_is_changed(fresh: Chain) -> None:
    config = json.loads((fresh.ae / "config.json").read_text())
    config["parents"]["mdlm"]["hash"] = "0" * 64
    del config["checksum"]
    (fresh.ae / "config.json").write_text(json.dumps(config))
    assert describe(fresh.ae)["parents"]["mdlm"]["state"] == "changed"


def test_a_bundle_away_from_its_data_says_that_they_are_no_part_of_it(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "here" / "bundle")
    assert describe(tmp_path / "here" / "bundle")["data"]["state"] == "unchanged"
    (tmp_path / "here").rename(tmp_path / "there")
    (tmp_path / "there" / "bundle").rename(tmp_path / "moved")
    data = describe(tmp_path / "moved")["data"]
    assert (data["path"], data["state"]) == (None, "not in the bundle")


def test_a_token_data_set_is_described(tiny_chain: Chain) -> None:
    record = describe(tiny_chain.data)
    assert (record["stage"], record["length"], record["parents"]) == ("data", LENGTH, {})
    assert record["sources"] == [str(tiny_chain.text)]
    assert record["settings"]["tokenizer"] == "train:300"
    assert record["splits"]["valid"]["shards"] == 1
    assert json.loads(json.dumps(record)) == record


def test_latents_are_described(tiny_chain: Chain, tmp_path: Path) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents")
    record = describe(tmp_path / "latents")
    assert (record["stage"], record["shape"]) == ("latents", [LATENTS, CHANNELS])
    assert record["parents"]["ae"]["state"] == record["data"]["state"] == "unchanged"
    assert record["splits"]["train"]["rows"] == describe(tiny_chain.data)["splits"]["train"]["rows"]
    (tmp_path / "latents" / "config.json").unlink()
    with pytest.raises(UserError, match="unfinished latents"):
        describe(tmp_path / "latents")


def shown(record: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(info_table(record))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@STAGES
def test_the_table_has_origin_configuration_and_size(tiny_chain: Chain, stage: str) -> None:
    record = describe(getattr(tiny_chain, stage))
    text = shown(record)
    for part in (
        "learning_rate",
        record["hash"],
        f"{record['parameters']['total']:,}",
        "unchanged",
        "validation",
        "vocab_size",
    ):
        assert part in text


def test_the_table_names_a_bundles_parents_by_their_place_in_it(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.ae, tmp_path / "bundle")
    record = describe(tmp_path / "bundle")
    assert record["parents"]["mdlm"]["path"] == str(tmp_path / "bundle" / "parents" / "mdlm")
    assert " …/parents/mdlm " in shown(record)


def test_the_table_of_data_has_its_splits(tiny_chain: Chain) -> None:
    text = shown(describe(tiny_chain.data))
    for part in ("Token data set", "train:300", "rows"):
        assert part in text


def test_anything_else_is_one_line_with_a_remedy(tmp_path: Path, tiny_chain: Chain) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text("{")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "metrics.jsonl").write_text("")
    (tmp_path / "samples.jsonl").write_text("{}\n")
    wanted = {
        "none": "there is no folder",
        "empty": "no config.json",
        "other": "no known stage",
        "torn": "cannot be read",
        "begun": "no checkpoint yet",
        "samples.jsonl": "is a file",
    }
    for name, what in wanted.items():
        with pytest.raises(UserError, match=what) as caught:
            describe(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in caught.value.what


def test_missing_and_truncated_files_are_named(fresh: Chain) -> None:
    weights = fresh.mdlm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        describe(fresh.mdlm)
    assert describe(fresh.ae)["parents"]["mdlm"]["state"] == "damaged"
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing or damaged"):
        describe(fresh.mdlm)
    next(fresh.data.glob("valid-*.safetensors")).unlink()
    with pytest.raises(UserError, match="valid-00000"):
        describe(fresh.data)


@pytest.mark.parametrize("name", ["tokenizer.json", "metrics.jsonl"])
def test_an_artifact_with_a_cut_off_file_is_refused(fresh: Chain, name: str) -> None:
    file = fresh.mdlm / name
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(UserError, match=rf"{name} is damaged"):
        describe(fresh.mdlm)
    vocabulary = fresh.data / "tokenizer.json"
    vocabulary.write_bytes(vocabulary.read_bytes()[:-1] + b" ")
    with pytest.raises(UserError, match=r"tokenizer\.json is damaged"):
        describe(fresh.data)
