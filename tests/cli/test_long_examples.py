"""The examples that take hours: what they would run is written down, and each command tried dry."""

import json
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from ..chain import Chain
from ..command_line import ROOT, Cli
from .test_examples import script

OTHERS = {  # made by hand or by scripts of their own, as docs/benchmarks.md, ablations.md and results.md tell
    *("ablations.json", "ablations_base.jsonl", "ablations_features_base.jsonl", "sizes.json", "savings.jsonl"),
    "quickstart.jsonl",
    *("frontier_gpu.jsonl", "speed_gpu.jsonl", "speed_1024.jsonl", "speed_1024_fp32.jsonl", "latent_share.jsonl"),
}


PARENTS = {"base": "mdlm", "ae": "ae", "prior": "prior"}


def commands(name: str, folder: Path, **variables: str) -> list[list[str]]:
    """What a script would run, but for ``diladiff info``, whose output it needs."""
    calls, programs = folder / "calls", folder / "bin"
    programs.mkdir(exist_ok=True)
    reals = {"diladiff": ("info", "-m diladiff_cli"), "python3": ("-c", ""), "accelerate": ("none", "")}
    for program, (real, module) in reals.items():
        lines = f'[ "$1" = {real} ] && exec {sys.executable} {module} "$@"\necho {program} "$@" >>"$CALLS"\n'
        (programs / program).write_text(f"#!/bin/sh\n{lines}")
        (programs / program).chmod(0o755)
    done = script(name, folder, CALLS=str(calls), **variables)
    assert done.returncode == 0, done.stderr
    found = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [call.split() for call in found]


@pytest.mark.slow
def test_the_evidence_is_made_by_commands_that_are_understood_and_is_what_the_documentation_shows(
    cli: Cli, tiny_chain: Chain, tmp_path: Path
) -> None:
    calls = commands("evidence.sh", tmp_path, CHAIN=str(tiny_chain.root))
    made = {file.name for file in (tmp_path / "evidence").iterdir()}
    assert made | OTHERS == {file.name for file in (ROOT / "docs" / "evidence").iterdir()}
    assert not made & OTHERS
    described = json.loads((tmp_path / "evidence" / "chain.json").read_text())
    assert [link["stage"] for link in described] == ["mdlm", "ae", "prior", "student"]
    assert commands("evidence.sh", tmp_path, CHAIN=str(tiny_chain.root)) == []  # all is there
    (semantics,) = [call for call in calls if call[0] == "python3"]
    known = (ROOT / "examples" / "semantics.py").read_text()
    assert all(f'"{option}"' in known for option in semantics if option.startswith("--"))
    ours = [call[1:] for call in calls if call[0] == "diladiff"]
    assert {command[0] for command in ours} == {"bench", "eval", "sample"}
    assert len(ours) > 20
    for command in ours:
        if "--speed" in command:  # has no dry run: nothing but what is added here is wrong with it
            found = cli(*command, "--layers", "0")
            assert (found.status, found.errors) == (2, ["error: --layers is 0; give at least 1"]), command
            continue
        few = ["--n", "100"] if str(tiny_chain.ae) in command and "bench" in command else []  # has no more texts
        found = cli(*command, "--dry-run", *few)
        assert found.status == 0, (command, found.err)


@pytest.mark.slow
def test_what_ships_is_measured_beside_the_text_that_it_learned_from(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "chain.json").write_text("[]")
    first, *calls = commands("evidence.sh", tmp_path, CHAIN="shipped")
    for stage in ("mdlm", "ae", "prior", "student"):
        config = json.loads((tmp_path / "evidence" / "shipped" / stage / "config.json").read_text())
        assert config["stage"] == stage
    assert " ".join(first[1:4]) == "encode --preset demo"
    measured = [call for call in calls if {"eval", "bench"} & set(call) and "--speed" not in call]
    assert len(measured) > 20
    assert all(call[call.index("--data") + 1] == "evidence/data" for call in measured)


@pytest.mark.slow
def test_the_published_configuration_is_asked_for_in_commands_that_are_understood(cli: Cli, tmp_path: Path) -> None:
    calls = commands("owt.sh", tmp_path, GPUS="4")
    launched = ["launch", "--multi_gpu", "--num_processes", "4", "-m", "diladiff_cli"]
    ours = [call[1:] if call[0] == "diladiff" else call[1 + len(launched) :] for call in calls]
    assert [command[0] for command in ours] == [
        *("encode", "train-mdlm", "train-ae", "train-prior", "distill", "sample", "sample", "eval")
    ]
    assert all(call[1 : 1 + len(launched)] == launched for call in calls if call[0] == "accelerate")
    assert [call[0] for call in calls] == ["diladiff", *["accelerate"] * 6, "diladiff"]
    wanted = {"--data": "data", **{f"--{name}": f"ckpt/{stage}" for name, stage in PARENTS.items()}}
    for command in ours[1:5]:
        given = dict(pairwise(command))
        assert all(given[option] == folder for option, folder in wanted.items() if option in given), command
    assert [dict(pairwise(command))["--model"] for command in ours[5:7]] == ["ckpt/prior", "ckpt/student"]
    encode, *others = ours
    assert cli(*encode, "--dry-run", "--tokenizer", "train:300").status == 0  # that of the preset is on the Hub
    for command in others:
        found = cli(*command, "--dry-run")
        assert found.status == 1, (command, found.err)  # nothing of what it builds on is there, which is all
        assert any(what in found.error for what in ("there is no folder", "cannot read")), (command, found.err)
