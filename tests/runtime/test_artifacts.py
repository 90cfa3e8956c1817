import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.runtime import artifacts
from diladiff_cli.runtime.artifacts import Artifact, load_artifact, parent_links, save_artifact
from diladiff_cli.tokenizer_files import read_tokenizer

STATE = {
    "a.weight": torch.arange(12.0).reshape(3, 4),
    "b": torch.tensor(2.5, dtype=torch.float64),
    "c": torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).t(),
}


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes an artifact under the temporary folder."""
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"x": 1}')

    def write(name: str, stage: str = "mdlm", parents: dict[str, Artifact] | None = None, **changes: Any) -> Path:
        content: dict[str, Any] = {
            "stage": stage,
            "network": {"width": 4, "cross_layers": (0, 2)},
            "training": {"max_steps": 7},
            "state_dict": STATE,
            "parents": parent_links(tmp_path / name, parents or {}),
            "data": {"path": "../data", "fingerprint": "f" * 8},
            "tokenizer": read_tokenizer(tmp_path / "tokenizer"),
            "progress": {"step": 7},
        }
        save_artifact(tmp_path / name, **content | changes)
        return tmp_path / name

    return write


def assert_one_line(error: UserError, *parts: str) -> None:
    message = str(error)
    assert "\n" not in message
    assert "; " in message
    for part in parts:
        assert part in message


def equal_states(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    same = [torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first]
    return first.keys() == second.keys() and all(same)


def test_an_artifact_survives_the_round_trip(save: Callable[..., Path]) -> None:
    path = save("base")
    found = load_artifact(path, "mdlm")
    assert equal_states(found.state_dict(), STATE)
    assert (found.stage, found.training, found.data["fingerprint"]) == ("mdlm", {"max_steps": 7}, "f" * 8)
    assert found.network == {"width": 4, "cross_layers": [0, 2]}
    assert (found.path / "tokenizer.json").read_text() == '{"x": 1}'
    card = (path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diladiff\n")
    assert "trained from scratch" in card


def test_large_weights_are_sharded_and_every_shard_is_checked(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifacts, "MAX_SHARD_SIZE", 60)
    path = save("base")
    shards = sorted(path.glob("*.safetensors"))
    assert len(shards) > 1
    assert equal_states(load_artifact(path).state_dict(), STATE)
    shards[1].unlink()
    with pytest.raises(UserError) as caught:
        load_artifact(path).state_dict()
    assert_one_line(caught.value, shards[1].name, "is missing", "train-mdlm")


def test_content_and_not_place_or_training_makes_the_hash(save: Callable[..., Path]) -> None:
    variants: dict[str, dict[str, Any]] = {
        "first": {},
        "same": {"training": {"max_steps": 8}, "progress": {}},
        "weights": {"state_dict": STATE | {"b": torch.tensor(2.6, dtype=torch.float64)}},
        "network": {"network": {"width": 5}},
    }
    hashes = {name: load_artifact(save(name, **changes)).hash for name, changes in variants.items()}
    assert hashes["first"] == hashes["same"]
    assert len(set(hashes.values())) == 3


def test_extra_files_appear_with_the_artifact_or_not_at_all(save: Callable[..., Path], tmp_path: Path) -> None:
    save("base", extra=lambda folder: (folder / "notes").write_text("x"))
    assert (tmp_path / "base" / "notes").read_text() == "x"

    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save("base", state_dict={"z": torch.zeros(1)}, extra=fail)
    assert equal_states(load_artifact(tmp_path / "base").state_dict(), STATE)


def change_config(path: Path, **values: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    del config["checksum"]  # as one would who changes it on purpose
    (path / "config.json").write_text(json.dumps(config | values))


CONFIG_FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: (p / "config.json").unlink(), "no config.json); give a base, which train-mdlm writes"),
    "truncated": (lambda p: (p / "config.json").write_text('{"stage": "md'), "config.json cannot be read"),
    "not text": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json cannot be read"),
    "a list": (lambda p: (p / "config.json").write_text("[1]"), "cannot be read (it holds no JSON object)"),
    "another program's": (
        lambda p: (p / "config.json").write_text('{"model_type": "bert"}'),
        "its config.json is of something else); give",
    ),
    "a data set's": (lambda p: (p / "config.json").write_text('{"stage": "data"}'), "is a token data set; give a base"),
    "nothing but a stage": (lambda p: (p / "config.json").write_text('{"stage": "ae"}'), "config.json is damaged"),
    "newer": (lambda p: change_config(p, format_version=99), "has format 99, newer than 2; upgrade diladiff"),
    "newer, other keys": (lambda p: (p / "config.json").write_text('{"format_version": 3}'), "has format 3, newer"),
    "wrong stage": (lambda p: change_config(p, stage="ae"), "is an auto-encoder; give a base, which train-mdlm writes"),
    "changed network": (lambda p: change_config(p, network={"width": 8}), "config.json was changed"),
    "changed hashes": (lambda p: change_config(p, files={"model.safetensors": "0"}), "config.json was changed"),
    "escaping": (lambda p: change_config(p, files={"../../x.safetensors": "0"}), "names a file outside its folder"),
    "absolute": (lambda p: change_config(p, files={"/etc/passwd": "0"}), "names a file outside its folder"),
    "upwards": (lambda p: change_config(p, files={"..": "0"}), "names a file outside its folder"),
    "odd files": (lambda p: change_config(p, files=["model.safetensors"]), "config.json is damaged"),
    "odd version": (lambda p: change_config(p, format_version="new"), "config.json is damaged"),
}


@pytest.mark.parametrize("fault", CONFIG_FAULTS)
def test_a_config_that_cannot_be_trusted_gives_one_line(save: Callable[..., Path], fault: str) -> None:
    path = save("base")
    damage, message = CONFIG_FAULTS[fault]
    damage(path)
    with pytest.raises(UserError) as caught:
        load_artifact(path, "mdlm")
    assert_one_line(caught.value, str(path), message)


def test_a_place_without_artifact_names_every_command_that_would_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_artifact(tmp_path / "nowhere", ("prior", "student"))
    remedy = "give a model, which train-prior or distill writes, shipped, or hf://USER/NAME on the Hub"
    assert_one_line(caught.value, "there is no folder", f"nowhere; {remedy}")
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        UserError, match="file is a file; give a model, which train-mdlm, train-ae, train-prior or dist"
    ):
        load_artifact(tmp_path / "file")


def test_a_folder_above_artifacts_names_them(save: Callable[..., Path]) -> None:
    above = save("base").parent
    with pytest.raises(UserError) as caught:
        load_artifact(above, "mdlm")
    assert_one_line(
        caught.value, f"{above} is not a folder of diladiff (it has no config.json, but {above}/base has); give"
    )


def test_a_folder_of_a_first_training_says_that_nothing_is_saved_yet(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(UserError) as caught:
        load_artifact(tmp_path)
    assert_one_line(caught.value, f"{tmp_path} has no checkpoint yet; wait for the first one; where nothing is")
    with pytest.raises(
        UserError, match=r"is not a folder of diladiff \(it has no config.json\); give a token data set"
    ):
        open_tokens(tmp_path)


def test_an_artifact_that_lost_its_config_is_not_taken_for_one_that_is_trained(save: Callable[..., Path]) -> None:
    path = save("base")
    (path / "metrics.jsonl").write_text('{"step": 1}\n')
    (path / "config.json").unlink()
    with pytest.raises(UserError, match=r"is not a folder of diladiff \(it has no config.json\)"):
        load_artifact(path)


def flip(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)


WEIGHT_FAULTS: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-3]),
    "empty": lambda p: p.write_bytes(b""),
    "flipped in the header": lambda p: flip(p, 20),
    "flipped in the data": lambda p: flip(p, -1),
}


@pytest.mark.parametrize("fault", WEIGHT_FAULTS)
def test_weights_that_changed_on_disk_give_one_line(save: Callable[..., Path], fault: str) -> None:
    path = save("base")
    WEIGHT_FAULTS[fault](path / "model.safetensors")
    found = load_artifact(path)
    with pytest.raises(UserError) as caught:
        found.state_dict()
    assert_one_line(caught.value, str(path / "model.safetensors"), "restore the file or make the artifact again with")


def test_a_weight_file_that_never_was_safetensors_gives_one_line(save: Callable[..., Path]) -> None:
    path = save("base")
    (path / "model.safetensors").write_bytes(b"pickle")
    files = {"model.safetensors": artifacts.file_hash(path / "model.safetensors")}
    config = load_artifact(path).config
    digest = artifacts.content_hash("mdlm", config["network"], files, config["tokenizer"])
    change_config(path, files=files, hash=digest)
    with pytest.raises(UserError) as caught:
        load_artifact(path).state_dict()
    assert_one_line(caught.value, "model.safetensors is not a valid safetensors file")


def test_a_parent_is_found_by_its_relative_path(save: Callable[..., Path], tmp_path: Path) -> None:
    base = load_artifact(save("runs/base"))
    child = save("runs/ae", "ae", parents={"mdlm": base})
    assert load_artifact(child).parent("mdlm").hash == base.hash
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert load_artifact(tmp_path / "moved" / "ae").parent("mdlm").hash == base.hash


def test_a_parent_that_is_missing_changed_or_unknown_gives_one_line(save: Callable[..., Path], tmp_path: Path) -> None:
    child = load_artifact(save("ae", "ae", parents={"mdlm": load_artifact(save("base"))}))
    with pytest.raises(UserError) as caught:
        child.parent("prior")
    assert_one_line(caught.value, "ae has no parent of stage prior", "info")
    save("base", network={"width": 5})
    with pytest.raises(UserError) as caught:
        child.parent("mdlm")
    assert_one_line(caught.value, "was made with another version of", "base", "run train-ae again")
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(UserError) as caught:
        child.parent("mdlm")
    assert_one_line(caught.value, "base, which is missing; put it back, or make it again with train-mdlm")


def test_a_parent_whose_swap_was_cut_off_is_put_back(save: Callable[..., Path], tmp_path: Path) -> None:
    child = load_artifact(save("ae", "ae", parents={"mdlm": load_artifact(save("base"))}))
    (tmp_path / "base").rename(tmp_path / ".base.old")
    assert child.parent("mdlm").path == tmp_path / "base"


def test_reading_an_artifact_leaves_the_files_of_a_running_writer_alone(save: Callable[..., Path]) -> None:
    path = save("base")
    seen = []

    def read_meanwhile(folder: Path) -> None:
        seen.append(load_artifact(path).hash)
        assert (folder / "model.safetensors").exists()

    save("base", network={"width": 5}, extra=read_meanwhile)
    assert seen[0] != load_artifact(path).hash
