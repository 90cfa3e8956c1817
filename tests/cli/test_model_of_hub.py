"""Models on the Hub, which a server on this machine stands for."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.model_paths import KINDS_OF_FILES, name_of
from diladiff_cli.stages.export import export
from diladiff_cli.tokenizer_files import PATTERNS

from ..chain import Chain
from ..command_line import environment
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
        (folder / "encoder").mkdir()
        (folder / "encoder" / "config.json").write_text('{"model_type": "bert"}')
        hub.add("models", "lab/encoder", folder / "encoder")
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
    fetched = {path.rpartition(".")[2] for path in visitor.hub.asked if "/resolve/" in path}
    assert fetched <= {"json", "jsonl", "safetensors", "md"}


@pytest.mark.parametrize("name", ["chat_template.jinja", "a.spm", "a.tiktoken", "tokenizer.model", "vocab.txt"])
def test_all_that_a_tokenizer_may_have_is_fetched(name: str) -> None:
    assert any(fnmatch(name, pattern) for pattern in PATTERNS)
    assert any(fnmatch(f"parents/mdlm/{name}", pattern) for pattern in KINDS_OF_FILES)


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
            "lab/none is not in the local cache and cannot be reached on the Hub; check its name and revision",
        ),
        ("hf://lab", "hf://lab names no model on the Hub; give hf://USER/NAME"),
        (f"{NAME}/../../tales", f"{NAME}/../../tales names no model on the Hub; give hf://USER/NAME"),
        ("hf://", "hf:// names no model on the Hub; give hf://USER/NAME"),
        (f"{NAME}/parents/none", "there is no folder"),
        (f"{NAME}//etc", f"{NAME}//etc names no model on the Hub"),
        (f"{NAME}@v9", "lab/tales@v9 is not in the local cache and cannot be reached on the Hub; check its name and"),
        ("hf://lab/encoder", "lab/encoder on the Hub is not a model of diladiff; give one that diladiff export made"),
        ("lab/tales", ", shipped, or hf://USER/NAME on the Hub"),
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


def test_what_lies_in_the_cache_has_the_name_of_its_model(
    tmp_path: Path, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    snapshot = tmp_path / "hub" / "models--lab--tales" / "snapshots" / commit("main")
    shutil.copytree(tiny_chain.student.parent, snapshot / "ckpt")
    assert name_of(snapshot) == f"{NAME}@{commit('main')}"
    child = snapshot / "ckpt" / "student"
    assert name_of(child) == f"{NAME}@{commit('main')}/ckpt/student"
    for other in (snapshot.parent, tmp_path / "models--lab--tales" / "snapshots" / commit("main")):
        assert name_of(other) == str(other)
    for path in (snapshot.with_name("abc"), tmp_path / "hub" / "models--tales" / "snapshots" / commit("main")):
        assert name_of(path) == str(path)
    shutil.rmtree(snapshot / "ckpt" / "prior")
    found = f"builds on {NAME}@{commit('main')}/ckpt/prior, which is missing; download it again with: diladiff info hf:"
    with pytest.raises(UserError, match=re.escape(found)):
        load_artifact(child).parent("prior")


def test_python_loads_a_model_of_the_hub(visitor: Visitor) -> None:
    code = f"import diladiff_cli; print(diladiff_cli.load({NAME!r}, 'cpu'))"
    variables = environment() | visitor.hub.environment(visitor.folder / "cache")
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Model('{NAME}@{commit('main')}', stage='student'")


def test_other_options_take_it_as_well(visitor: Visitor) -> None:
    plan = visitor("bench", "--model", NAME, "--against", f"{NAME}/parents/mdlm", "--n", "4", "--dry-run")
    assert plan.status == 0, plan.err
    models = {point["model"] for point in json.loads(plan.out)["points"]}
    whole = f"{NAME}@{commit('main')}"
    assert models == {whole, f"{whole}/parents/mdlm"}
    asked = visitor("sample", "--model", NAME, "--temperature", "-1")
    assert "asking the Hub" not in asked.err  # before what can be told at once
    assert asked.status == 2
