"""Models on the Hub, which a server on this machine stands for."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.model_paths import name_of
from diladiff_cli.stages.export import export

from ..chain import Chain
from ..local_hub import commit, serving
from .test_hub import Visitor

NAME = "hf://lab/tales"
FEW = ("--n", "2", "--steps", "1", "--decode-steps", "4")


@pytest.fixture(scope="module")
def visitor(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    """Who asks a hub with a bundle of a student."""
    folder = tmp_path_factory.mktemp("reader")
    export(tiny_chain.student, folder / "bundle")
    shutil.copytree(folder / "bundle", folder / "served")
    (folder / "served" / "pytorch_model.bin").write_text("nothing that anybody should load")
    with serving() as hub:
        hub.add("models", "lab/tales", folder / "served")
        yield Visitor(hub, folder)


def test_a_model_of_the_hub_is_that_of_its_folder(visitor: Visitor) -> None:
    found = visitor("sample", "--model", NAME, *FEW)
    assert found.status == 0, found.err
    assert "asking the Hub for lab/tales" in found.errors
    wanted = visitor("sample", "--model", "bundle", *FEW)
    ours, theirs = ([json.loads(line) for line in done.out.splitlines()] for done in (found, wanted))
    assert {line.pop("model") for line in ours} == {f"{NAME}@{commit('main')}"}
    assert {line.pop("model") for line in theirs} == {"bundle"}
    assert ours == theirs
    assert not any("pytorch_model.bin" in path for path in visitor.hub.asked)


def test_below_it_lie_its_parents(visitor: Visitor, tiny_chain: Chain) -> None:
    found = visitor("info", f"{NAME}/parents/mdlm")
    assert found.status == 0, found.err
    assert json.loads(found.out)["stage"] == "mdlm"
    drawn = visitor("sample", "--model", f"{NAME}@main/parents/mdlm", "--n", "1")
    assert json.loads(drawn.out)["model"] == f"{NAME}@{commit('main')}/parents/mdlm"


def test_samples_of_it_are_measured_without_asking_again(visitor: Visitor) -> None:
    (visitor.folder / "drawn.jsonl").write_text(visitor("sample", "--model", NAME, *FEW).out)
    visitor.hub.asked.clear()
    found = visitor("eval", "drawn.jsonl", "--scorer", "none")
    assert found.status == 0, found.err
    assert visitor.hub.asked == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "hf://lab/none",
            "lab/none is not in the local cache and cannot be reached on the Hub; check its name, or give",
        ),
        ("hf://lab", "hf://lab names no model on the Hub; give hf://USER/NAME"),
        (f"{NAME}/../../tales", f"{NAME}/../../tales names no model on the Hub; give hf://USER/NAME"),
        ("hf://", "hf:// names no model on the Hub; give hf://USER/NAME"),
        (f"{NAME}/parents/none", "there is no folder"),
        ("lab/tales", "or shipped, or hf://USER/NAME of the Hub"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(visitor: Visitor, name: str, told: str) -> None:
    found = visitor("sample", "--model", name, "--n", "1")
    assert found.status == 1
    assert told in found.error


def test_once_asked_for_the_cache_does(visitor: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = visitor("sample", "--model", NAME, *FEW).out
    served = dict(visitor.hub.repositories)
    visitor.hub.repositories.clear()
    found = visitor("sample", "--model", NAME, *FEW)
    visitor.hub.repositories.update(served)
    assert (found.status, found.out) == (0, wanted), found.err


def test_a_folder_of_the_cache_has_the_name_of_its_model(tmp_path: Path, tiny_chain: Chain) -> None:
    snapshot = tmp_path / "hub" / "models--lab--old--tales" / "snapshots" / "abc"
    shutil.copytree(tiny_chain.mdlm, snapshot)
    assert load_artifact(snapshot).stage == "mdlm"
    assert name_of(snapshot) == "hf://lab/old--tales@abc"
    assert name_of(snapshot / "parents" / "ae") == "hf://lab/old--tales@abc/parents/ae"
    assert name_of(snapshot.parent) == str(snapshot.parent)
