"""Artifacts made to do harm: nothing is unpickled or run, and no path leads out of a folder."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import file_hash, sealed
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import content_hash, load_artifact
from diladiff_cli.stages.export import export

from ..chain import Chain
from .forging import FORGED, forge, refused


class Bomb:
    """Unpickling it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_under_any_name_is_refused_and_not_unpickled(
    chain_copy: Chain, tmp_path: Path, name: str, kind: str
) -> None:
    trace = tmp_path / "trace"
    if kind == "pickle":
        raw = pickle.dumps(Bomb(trace))
    else:
        torch.save(Bomb(trace), tmp_path / "bomb.pt")
        raw = (tmp_path / "bomb.pt").read_bytes()
    refused(FORGED[name](chain_copy, raw), name)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Bomb(trace)))  # the bomb would have left a trace
    assert trace.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors.index.json", "training_args.bin"])
def test_files_that_config_json_does_not_name_are_never_read(chain_copy: Chain, tmp_path: Path, name: str) -> None:
    wanted = load(chain_copy.mdlm, "cpu").sample(n=1)
    (chain_copy.mdlm / name).write_bytes(pickle.dumps(Bomb(tmp_path / "trace")))
    assert load(chain_copy.mdlm, "cpu").sample(n=1) == wanted
    assert not (tmp_path / "trace").exists()


CODE = "import pathlib\npathlib.Path({trace!r}).touch()\nclass Evil:\n    pass\n"
ENTRIES: dict[str, dict[str, Any]] = {
    "auto_map": {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, "tokenizer_class": "Evil"},
    "trust_remote_code": {"trust_remote_code": True, "auto_map": {"AutoTokenizer": ["evil.Evil", None]}},
    "class": {"tokenizer_class": "evil.Evil"},
    "chat template": {"chat_template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
}


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_code_of_a_tokenizer_is_run(chain_copy: Chain, tmp_path: Path, entry: str) -> None:
    folder, trace = chain_copy.mdlm, tmp_path / "trace"
    ids = load_tokenizer(folder)("the dog", add_special_tokens=False)["input_ids"]
    for name in ("evil.py", "tokenizer.py", "__init__.py"):
        (folder / name).write_text(CODE.format(trace=str(trace)))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | ENTRIES[entry]))
    forge(chain_copy.mdlm)
    try:
        assert load_tokenizer(folder)("the dog", add_special_tokens=False)["input_ids"] == ids
    except UserError as error:
        assert str(folder) in str(error)  # noqa: PT017 (either is fine, as long as nothing runs)
    assert not trace.exists()


def test_no_code_beside_the_weights_is_run(chain_copy: Chain, tmp_path: Path) -> None:
    for name in ("modeling.py", "__init__.py", "sitecustomize.py"):
        (chain_copy.mdlm / name).write_text(CODE.format(trace=str(tmp_path / "trace")))
    forge(chain_copy.mdlm, lambda c: c.update({"auto_map": {"AutoModel": "modeling.Evil"}, "trust_remote_code": True}))
    assert len(load(chain_copy.mdlm, "cpu").sample(n=1)) == 1
    assert not (tmp_path / "trace").exists()


NAMES = [
    "../../../secret",
    "/etc/hostname",
    "..",
    "a/../../secret",
    "sub/model.safetensors",
    "",
    "model\x00.safetensors",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_weights_stay_inside_the_folder(chain_copy: Chain, name: str) -> None:
    def change(config: dict[str, Any]) -> None:
        config["files"] = {name: "0" * 64}
        config["hash"] = content_hash(config["stage"], config["network"], config["files"], config["tokenizer"])

    config = json.loads((chain_copy.mdlm / "config.json").read_text())
    change(config)
    (chain_copy.mdlm / "config.json").write_text(sealed(config))
    refused(lambda: load_artifact(chain_copy.mdlm).state_dict(), str(chain_copy.mdlm))


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl"])
def test_no_other_file_of_an_artifact_passes_for_a_part_of_its_tokenizer(
    chain_copy: Chain, tmp_path: Path, name: str
) -> None:
    config = json.loads((chain_copy.mdlm / "config.json").read_text())
    config["tokenizer"] = config["tokenizer"] | {name: file_hash(chain_copy.mdlm / name)}
    config["hash"] = content_hash(config["stage"], config["network"], config["files"], config["tokenizer"])
    (chain_copy.mdlm / "config.json").write_text(sealed(config))
    refused(lambda: export(chain_copy.mdlm, tmp_path / "bundle"), f"{chain_copy.mdlm / name} is missing")


def test_a_file_larger_than_any_tokenizer_is_not_read(chain_copy: Chain) -> None:
    with (chain_copy.mdlm / "vocab.bin").open("wb") as file:
        file.truncate(1 << 40)
    refused(lambda: load(chain_copy.mdlm, "cpu"), "vocab.bin is larger than any tokenizer")


@pytest.mark.parametrize("name", NAMES[:-1])
def test_names_of_a_tokenizers_files_stay_inside_its_folder(chain_copy: Chain, name: str) -> None:
    config = json.loads((chain_copy.data / "config.json").read_text())
    config["tokenizer"] = config["tokenizer"] | {name: "0" * 64}
    (chain_copy.data / "config.json").write_text(sealed(config))
    refused(lambda: load_tokenizer(chain_copy.data), "is missing")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_shards_stay_inside_the_folder(chain_copy: Chain, tmp_path: Path, name: str) -> None:
    shutil.copyfile(chain_copy.data / "train-00000.safetensors", tmp_path / "secret")
    config = json.loads((chain_copy.data / "config.json").read_text())
    config["splits"]["train"]["shards"][0]["file"] = name
    (chain_copy.data / "config.json").write_text(sealed(config))
    refused(lambda: open_tokens(chain_copy.data).split("train"), str(chain_copy.data))


ODD: dict[str, dict[str, Any]] = {
    "parents": {"parents": {"mdlm": "../mdlm"}},
    "a parent without path": {"parents": {"mdlm": {"hash": "0"}}},
    "a parent without hash": {"parents": {"mdlm": {"path": "../mdlm", "hash": None}}},
    "data": {"data": {"path": 3}},
    "stage": {"stage": ["mdlm"]},
    "version": {"format_version": True},
    "progress": {"progress": []},
    "hashes of the tokenizer": {"tokenizer": {"tokenizer.json": 3}},
}


@pytest.mark.parametrize("fault", ODD)
def test_entries_of_an_odd_kind_are_damage(chain_copy: Chain, fault: str) -> None:
    config = json.loads((chain_copy.ae / "config.json").read_text())
    (chain_copy.ae / "config.json").write_text(sealed(config | ODD[fault]))
    refused(lambda: load_artifact(chain_copy.ae), "config.json is damaged")


def test_a_bundle_never_takes_along_what_a_link_leads_to_outside(chain_copy: Chain, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"password": "1234"}')
    (chain_copy.mdlm / "notes.json").symlink_to(tmp_path / "secret.json")
    (chain_copy.mdlm / "inner.json").symlink_to("metrics.jsonl")
    export(chain_copy.mdlm, tmp_path / "bundle")
    found = {p.name for p in (tmp_path / "bundle").iterdir()}
    assert "inner.json" in found
    assert not {"notes.json", "secret.json"} & found


def test_weights_and_tokenizers_behind_links_are_what_their_hashes_say(chain_copy: Chain, tmp_path: Path) -> None:
    wanted = load(chain_copy.mdlm, "cpu").sample(n=1)
    for name in ("model.safetensors", "tokenizer.json"):  # as in the cache of the Hub
        file = chain_copy.mdlm / name
        shutil.move(file, tmp_path / file.name)
        file.symlink_to(tmp_path / file.name)
    assert load(chain_copy.mdlm, "cpu").sample(n=1) == wanted
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v + 1 for k, v in state.items()}, tmp_path / "model.safetensors")
    refused(lambda: load(chain_copy.mdlm, "cpu"), "model.safetensors is damaged")
