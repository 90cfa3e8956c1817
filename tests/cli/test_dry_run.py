"""Dry runs of the commands that train, draw and measure; that of encoding is with its command."""

import json
from pathlib import Path

import pytest

from ..chain import LENGTH, Chain
from ..command_line import Cli
from ..faults.forging import forge

IN_BOTH = (
    *("seed", "steps", "decode_steps", "top_p", "gamma", "self_cond", "guidance", "solver"),
    *("order", "threshold", "entropy_bound"),
)


@pytest.mark.parametrize(("stage", "steps"), [("mdlm", None), ("ae", None), ("prior", 50), ("student", 5)])
def test_a_dry_run_of_sample_prints_its_settings_and_draws_nothing(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, stage: str, steps: int | None
) -> None:
    model = getattr(tiny_chain, stage)
    found = cli("sample", "--model", model, "--n", "2", "--out", "s.jsonl", "--trace", "t.html", "--dry-run")
    assert (found.status, found.err) == (0, "")
    plan = json.loads(found.out)
    assert (plan["stage"], plan["model"], plan["length"]) == (stage, str(model), LENGTH)
    assert plan["hash"] == json.loads((model / "config.json").read_text())["hash"]
    assert (plan["out"], plan["trace"]) == ("s.jsonl", "t.html")
    settings = plan["settings"]
    assert (settings["n"], settings["steps"], settings["decode_steps"]) == (2, steps, LENGTH // 4)
    assert list(tmp_path.iterdir()) == []
    drawn = json.loads(cli("sample", "--model", model, "--n", "2").out.splitlines()[0])
    assert {k: settings[k] for k in IN_BOTH}.items() <= drawn.items()
    assert (settings["gamma"] is None, settings["guidance"], settings["threshold"]) == (stage != "student", None, None)


def test_a_dry_run_of_bench_prints_its_points_and_measures_nothing(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    models = ["--model", tiny_chain.student, "--against", tiny_chain.mdlm]
    found = cli("bench", *models, "--decode-steps", "4", "--steps", "1,2", "--seeds", "3", "--dry-run")
    assert found.status == 0
    assert len([line for line in found.errors if line.startswith("reference: ")]) == 1
    points = [(p["stage"], p["steps"], p["to_draw"]) for p in json.loads(found.out)["points"]]
    assert points == [("student", 1, [3]), ("student", 2, [3]), ("mdlm", None, [3])]
    settings = json.loads(found.out)["settings"]
    assert settings["seeds"] == "3"
    assert not settings.keys() & {"vocab_sizes", "width", "seconds"}  # of --speed alone
    assert list(tmp_path.iterdir()) == []
    found = cli("bench", "--speed", "--dry-run")
    assert (found.status, found.out) == (2, "")
    assert "--dry-run has no meaning with --speed" in found.error
    found = cli("bench", *models, "--threshold", "0.5", "--dry-run")
    assert (found.status, found.out) == (2, "")
    assert "--threshold is for --order threshold, and the order is random; leave it out" in found.error


def test_a_plan_names_folders_from_where_the_user_is(cli: Cli, chain_copy: Chain, tmp_path: Path) -> None:
    ckpt = chain_copy.ae.parent.relative_to(tmp_path)
    found = cli("train-prior", "--ae", ckpt / "ae", "--out", ckpt / "new", "--dry-run")
    plan = json.loads(found.out)
    assert plan["data"]["path"] == str(chain_copy.data.relative_to(tmp_path))
    assert plan["parents"]["ae"]["path"] == str(ckpt / "ae")


@pytest.mark.parametrize(
    ("command", "parent"),
    [("train-mdlm", "--data"), ("train-ae", "--base"), ("train-prior", "--ae"), ("distill", "--prior")],
)
def test_a_dry_run_of_training_tells_the_number_of_parameters(
    cli: Cli, tiny_chain: Chain, command: str, parent: str
) -> None:
    given = {"--data": tiny_chain.data, "--base": tiny_chain.mdlm, "--ae": tiny_chain.ae, "--prior": tiny_chain.prior}
    sizes = [] if command == "distill" else ["--width", "32", "--layers", "3", "--heads", "2"]
    line = [command, parent, given[parent], *(sizes if parent != "--base" else []), "--out", "new"]
    plan = json.loads(cli(*line, "--dry-run").out)
    found = cli(*line, "--max-steps", "1", "--warmup-steps", "0", "--batch-size", "4", "--eval-batches", "1")
    assert found.status == 0, found.err
    assert plan["parameters"] == json.loads(cli("info", "new").out)["parameters"]["total"]


def test_a_dry_run_finds_what_is_wrong_with_the_model(cli: Cli, tiny_chain: Chain) -> None:
    found = cli("sample", "--model", tiny_chain.mdlm, "--steps", "3", "--dry-run")
    assert (found.status, found.out) == (2, "")
    assert "draws no latents" in found.error


def test_a_dry_run_of_eval_prints_what_would_be_measured(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    drawn = cli("sample", "--model", tiny_chain.mdlm, "--n", "3").out
    drawn += cli("sample", "--model", tiny_chain.mdlm, "--n", "2", "--decode-steps", "2").out
    (tmp_path / "s.jsonl").write_text(drawn)
    found = cli("eval", "s.jsonl", tiny_chain.ae, "--scorer", "smollm2", "--dry-run")
    assert (found.status, len(found.errors)) == (0, 1)
    plan = json.loads(found.out)
    reference = tiny_chain.held_out
    assert found.errors == [f"reference: {reference} in {tiny_chain.data}"]
    config = json.loads((tiny_chain.ae / "config.json").read_text())
    assert plan["targets"] == [
        {"target": "s.jsonl", "samples": [3, 2], "reference": [reference]},
        {"target": str(tiny_chain.ae), "stage": "ae", "hash": config["hash"], "data": str(tiny_chain.data)},
    ]
    assert plan["settings"]["scorer"] == "smollm2"
    found = cli("eval", "s.jsonl", "--scorer", "gone.gguf", "--dry-run")
    assert (found.status, found.error) == (1, "error: there is no scorer gone.gguf; check --scorer")
    found = cli("eval", "s.jsonl", "--data", tiny_chain.data, "--dry-run")
    assert (found.status, found.out) == (2, "")


@pytest.mark.parametrize("stage", ["ae", "prior", "student"])
def test_a_dry_run_of_eval_refuses_what_was_built_on_another_version(cli: Cli, chain_copy: Chain, stage: str) -> None:
    parent = chain_copy.prior if stage == "student" else chain_copy.mdlm
    other = {"schedule_d": 5.0} if stage == "student" else {"activation": "gelu"}
    forge(parent, lambda config: config["network"].update(other))
    found, dry = (cli("eval", getattr(chain_copy, stage), "--batches", "1", *more) for more in ((), ("--dry-run",)))
    assert (found.status, dry.status) == (1, 1)
    assert dry.error == found.error
    assert f"was made with another version of {parent}" in dry.error


@pytest.mark.parametrize(
    ("command", "parent", "stage"),
    [
        ("train-mdlm", ("--data", "data"), "mdlm"),
        ("train-ae", ("--base", "mdlm"), "ae"),
        ("train-prior", ("--ae", "ae"), "prior"),
        ("distill", ("--prior", "prior"), "student"),
    ],
)
def test_a_dry_run_prints_the_plan_and_writes_nothing(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, command: str, parent: tuple[str, str], stage: str
) -> None:
    line = (command, parent[0], getattr(tiny_chain, parent[1]), "--dry-run", "--seed", "3", "--max-steps")
    short, found = cli(*line, "9"), cli(*line, "20000")
    assert short.err.startswith("--warmup-steps ")
    assert short.err.splitlines()[0].endswith(
        " is not less than --max-steps 9: the warm-up will not be over; give a smaller one, unless this is a trial"
    )
    assert (short.status, found.status, found.err) == (0, 0, "")
    plan = json.loads(found.out)
    assert plan["stage"] == stage
    assert plan["training"]["seed"] == 3
    assert plan["out"] == f"ckpt/{stage}"
    assert plan["data"]["path"] == str(tiny_chain.data)  # not as the artifact would record it, from its own place
    assert {name: link["path"] for name, link in plan["parents"].items()} == {
        name: str(tiny_chain.root / "ckpt" / name) for name in plan["parents"]
    }
    assert list(tmp_path.iterdir()) == []
