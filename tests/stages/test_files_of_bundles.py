"""What of a folder's own files and of others a bundle holds, and what of an older bundle stays."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.evaluation.artifact import evaluate_artifact
from diladiff_cli.stages.export import export

from ..chain import Chain


def config_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


def test_an_older_bundle_is_replaced_as_a_whole(tiny_chain: Chain, tmp_path: Path) -> None:
    export(tiny_chain.student, tmp_path / "bundle")
    export(tiny_chain.mdlm, tmp_path / "bundle")
    assert load_artifact(tmp_path / "bundle").stage == "mdlm"
    assert not (tmp_path / "bundle" / "parents").exists()


def test_a_bundle_names_data_and_latents_only_while_they_are_there(chain_copy: Chain, tmp_path: Path) -> None:
    for left in (True, False):
        if not left:
            shutil.rmtree(chain_copy.data)
        export(chain_copy.student, tmp_path / "bundle")
        folders = [tmp_path / "bundle", *(tmp_path / "bundle" / "parents").iterdir()]
        assert [("path" in config_of(folder)["data"]) for folder in folders] == [left] * 4
        assert not any(config_of(folder)["data"].get("latents") for folder in folders)
    with pytest.raises(UserError, match="is a bundle, which comes without its data set; name one with --data"):
        evaluate_artifact(EvalConfig(), tmp_path / "bundle")


def test_in_an_older_bundle_files_of_others_stay_and_its_reports_go(tiny_chain: Chain, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    export(tiny_chain.student, bundle)
    for name in (".git/objects/ab", "LICENSE", "citation.json", ".zenodo.json", "encoder/config.json"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text("{}")
    report = {"stage": "student", "hash": "0" * 64}
    (bundle / "eval.jsonl").write_text(json.dumps(report))
    (bundle / "two [1].json").write_text(json.dumps(report, indent=2) * 2)
    export(tiny_chain.student, bundle)
    left = {path.name for path in bundle.iterdir()}
    assert left >= {".git", "LICENSE", "citation.json", ".zenodo.json"}
    assert (bundle / ".git" / "objects" / "ab").exists()
    assert not {"eval.jsonl", "two [1].json", "encoder"} & left


def test_reports_of_other_weights_stay_behind(chain_copy: Chain, tmp_path: Path) -> None:
    own = load_artifact(chain_copy.mdlm).hash
    reports = {
        "own.jsonl": [{"stage": "mdlm", "hash": own, "figures": {}}],
        "both.jsonl": [{"stage": "mdlm", "hash": "0" * 64}, {"stage": "mdlm", "hash": own}],
        "former.jsonl": [{"stage": "mdlm", "hash": "0" * 64, "figures": {}}],
        "others.json": [{"hash": "0" * 64}],
        "list.json": [[1, 2]],
    }
    for name, lines in reports.items():
        (chain_copy.mdlm / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (chain_copy.mdlm / "torn.json").write_text('{"stage"')
    (chain_copy.mdlm / "pretty.json").write_text(json.dumps(reports["former.jsonl"][0], indent=2) * 2)
    (chain_copy.mdlm / "torn.jsonl").write_text('{"stage"\n' + json.dumps(reports["former.jsonl"][0]))
    export(chain_copy.mdlm, tmp_path / "bundle")
    found = {path.name for path in (tmp_path / "bundle").iterdir()}
    assert found >= {"own.jsonl", "both.jsonl", "others.json", "list.json", "torn.json", "metrics.jsonl"}
    assert not found & {"former.jsonl", "pretty.json", "torn.jsonl"}
    export(tmp_path / "bundle", tmp_path / "again")  # whose hash is another than its reports have
    assert {path.name for path in (tmp_path / "again").iterdir()} == found
