"""``shipped`` names the model that ships, in every command that takes a model."""

import json
import shutil
from pathlib import Path

import pytest

from diladiff_cli.runtime import model_paths
from diladiff_cli.stages.evaluation.reference_text import SHIPPED
from diladiff_cli.stages.export import export

from ..chain import LENGTH, Chain
from ..command_line import Cli


@pytest.fixture
def bundle(tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny student in the place of the model that ships."""
    place = tmp_path / "installed" / "model"
    export(tiny_chain.student, place)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", place)
    return place


@pytest.mark.parametrize(
    "line",
    [
        "sample --model shipped --n 1",
        "sample --model shipped/parents/mdlm --n 1",
        "eval shipped/parents/mdlm --data {data} --draws 1 --batches 1",
        "bench --model shipped --against shipped/parents/mdlm --data {data} --dry-run",
        "bench shipped shipped/parents/prior --data {data} --dry-run",
        "plot shipped --format svg",
        "info shipped/parents/ae",
        "export --model shipped/parents/prior --out bundle",
        "encode --ae shipped/parents/ae --data {data} --dry-run",
        "train-ae --base shipped/parents/mdlm --data {data} --compression 2 --dry-run",
        "train-prior --ae shipped/parents/ae --data {data} --dry-run",
        "distill --prior shipped/parents/prior --data {data} --dry-run",
    ],
)
def test_every_command_knows_the_name(cli: Cli, tiny_chain: Chain, bundle: Path, line: str) -> None:
    found = cli(*line.format(data=tiny_chain.data).split())
    assert found.status == 0, found.err  # nothing here has that name


def test_a_folder_of_that_name_comes_first(cli: Cli, tiny_chain: Chain, bundle: Path) -> None:
    export(tiny_chain.mdlm, Path("shipped"))
    found = cli("info", "shipped")
    assert json.loads(found.out)["stage"] == "mdlm"


@pytest.mark.parametrize("name", ["shiped", "shippd/parents/mdlm"])
def test_almost_that_name_is_asked_after(cli: Cli, name: str) -> None:
    found = cli("sample", "--model", name, "--n", "1")
    assert (found.status, found.out) == (1, "")
    assert found.error.startswith(f"error: there is no folder {name}; did you mean shipped, the model")


def test_a_parent_is_asked_after_where_it_lies(cli: Cli, bundle: Path) -> None:
    found = cli("sample", "--model", "shipped/mdlm", "--n", "1")
    assert (found.status, found.out) == (1, "")
    assert found.error == "error: there is no folder shipped/mdlm; did you mean shipped/parents/mdlm?"


def test_the_parent_that_is_wanted_is_asked_after(cli: Cli, bundle: Path) -> None:
    found = cli("train-ae", "--base", "shipped", "--dry-run")
    assert (found.status, found.out) == (1, "")
    remedy = "give a base, which train-mdlm writes"
    assert found.error == f"error: {bundle} is a student; did you mean {bundle}/parents/mdlm? Otherwise {remedy}"


def test_the_data_set_of_what_ships_is_told_where_it_is_missing(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "installed" / "model"
    export(chain_copy.student, place)
    shutil.rmtree(chain_copy.data)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", place)
    found = cli("encode", "--ae", "shipped/parents/ae")
    assert (found.status, found.out) == (1, "")
    assert found.error.startswith("error: shipped/parents/ae is a bundle")
    assert found.error.endswith("data set; name one with --data, here what diladiff encode --preset demo writes")


def test_what_was_drawn_from_it_tells_its_name_by_which_its_tokenizer_is_found(cli: Cli, bundle: Path) -> None:
    parents = {"": "shipped", "/parents/mdlm": "shipped/parents/mdlm"}
    for below, name in parents.items():
        drawn = cli("sample", "--model", f"{bundle}{below}", "--n", "2")
        assert {json.loads(line)["model"] for line in drawn.out.splitlines()} == {name}
    Path("drawn.jsonl").write_text(drawn.out)
    report = json.loads(cli("eval", "drawn.jsonl", "--scorer", "none").out)
    assert report["reference"]["mean_length"] == LENGTH  # in tokens, which only a tokenizer can cut


def test_where_the_name_is_another_s_what_ships_is_told_by_its_path(cli: Cli, tiny_chain: Chain, bundle: Path) -> None:
    export(tiny_chain.mdlm, Path("shipped"))
    called = {str(bundle): str(bundle), "shipped": "./shipped", "./shipped": "./shipped"}
    for given, told in called.items():
        drawn = cli("sample", "--model", given, "--n", "1")
        assert json.loads(drawn.out)["model"] == told


def test_without_what_ships_its_samples_are_compared_by_characters(
    cli: Cli, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("drawn.jsonl").write_text(cli("sample", "--model", "shipped", "--n", "2").out)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", bundle / "none")
    found = cli("eval", "drawn.jsonl", "--scorer", "none")
    assert found.status == 0, found.err
    assert json.loads(found.out)["reference"]["source"] == SHIPPED


def test_what_only_seems_to_ship_or_cannot_be_asked_for_is_told_by_its_path(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    assert model_paths.name_of(Path("../ckpt/x")) == "../ckpt/x"
    assert model_paths.name_of(Path("parents/../parents/mdlm")) == "shipped/parents/mdlm"
    (bundle / "config.json").unlink()
    assert model_paths.name_of(bundle / "parents" / "mdlm") == str(bundle / "parents" / "mdlm")


def test_names_that_only_look_like_it_are_left_as_they_are(cli: Cli, bundle: Path) -> None:
    for name in ("./shipped", "shipped2", "SHIPPED"):
        found = cli("sample", "--model", name, "--n", "1")
        assert (found.status, found.out) == (1, "")
        assert f"there is no folder {name.removeprefix('./')}" in found.err
        assert ("did you mean shipped" in found.err) == (name == "shipped2")
