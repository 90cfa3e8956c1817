"""What kills leave in windows too short for a random moment to hit."""

from pathlib import Path

from diladiff_cli.runtime.folders import recover
from diladiff_cli.runtime.metrics_log import MetricsLog
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.train_mdlm import train_mdlm

from ..chain import Chain, mdlm_config


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_leftovers_of_a_folder_with_brackets_in_its_name_are_found_and_others_stay(tmp_path: Path) -> None:
    (tmp_path / ".run[1].partial-12345678").mkdir()
    (tmp_path / ".run[1].partial-abcdefab").touch()
    (tmp_path / ".run1.partial-12345678").mkdir()
    recover(tmp_path / "run[1]")
    assert names(tmp_path) == {".run1.partial-12345678"}


def test_latents_killed_before_their_plan_was_written_are_begun_again(tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    out.mkdir()
    (out / ".plan.json.partial-12345678").write_text("{")
    config = encode_latents(ae=tiny_chain.ae, out=out)
    shards = {shard["file"] for split in config["splits"].values() for shard in split["shards"]}
    assert names(out) == {"plan.json", "config.json"} | shards | {f"{shard}.json" for shard in shards}


def test_what_a_run_that_starts_over_writes_beside_the_old_artifact_is_known_as_its_leftover(tmp_path: Path) -> None:
    out = tmp_path / "mdlm"
    out.mkdir()
    (out / "config.json").write_text("{}")
    MetricsLog(out, 0, 0).write({"step": 1})
    assert len(names(tmp_path)) == 2
    recover(out)
    assert names(tmp_path) == {"mdlm"}
    assert names(out) == {"config.json"}


def test_a_training_killed_while_it_cleaned_up_after_its_last_save_is_cleaned_up_by_the_next(chain_copy: Chain) -> None:
    ckpt = chain_copy.mdlm.parent
    (ckpt / ".mdlm.partial-12345678").mkdir()
    train_mdlm(mdlm_config(), data=chain_copy.data, out=chain_copy.mdlm)
    assert names(ckpt) == {"mdlm", "ae", "prior", "student"}
