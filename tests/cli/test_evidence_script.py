"""``examples/evidence.sh``: what it would run is written down, and each command tried dry."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..chain import Chain
from ..command_line import ROOT, Cli, environment

OTHERS = {  # made by hand or by scripts of their own, as docs/benchmarks.md, ablations.md and results.md tell
    *("ablations.json", "ablations_features_base.jsonl", "sizes.json", "savings.jsonl", "quickstart.jsonl"),
    *("frontier_gpu.jsonl", "speed_gpu.jsonl", "speed_1024.jsonl", "speed_1024_fp32.jsonl", "latent_share.jsonl"),
}
SMALL = [
    *("--vocab-sizes", "40", "--lengths", "8", "--batch-sizes", "2", "--decode-steps", "2"),
    *("--width", "8", "--layers", "1", "--seconds", "0.01"),
]


def evidence(folder: Path, chain: Path | str) -> list[list[str]]:
    """The commands that the script runs for a chain, all but ``info``, of which it needs what is printed."""
    for name, real in (("diladiff", "info"), ("python3", "-c")):
        module = " -m diladiff_cli" if name == "diladiff" else ""
        lines = f'[ "$1" = {real} ] && exec {sys.executable}{module} "$@"\necho {name} "$@" >>"$CALLS"\n'
        shim = folder / "bin" / name
        shim.parent.mkdir(exist_ok=True)
        shim.write_text(f"#!/bin/sh\n{lines}")
        shim.chmod(0o755)
    calls = folder / "calls"
    whole = environment() | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "CALLS": str(calls), "CHAIN": str(chain)}
    script = ["bash", str(ROOT / "examples" / "evidence.sh")]
    done = subprocess.run(script, cwd=folder, env=whole, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [line.split() for line in found]


@pytest.mark.slow
def test_its_commands_are_understood_and_make_what_the_documentation_shows(
    cli: Cli, tiny_chain: Chain, tmp_path: Path
) -> None:
    calls = evidence(tmp_path, tiny_chain.root)
    made = {file.name for file in (tmp_path / "evidence").iterdir()}
    assert made | OTHERS == {file.name for file in (ROOT / "docs" / "evidence").iterdir()}
    assert not made & OTHERS
    described = json.loads((tmp_path / "evidence" / "chain.json").read_text())
    assert [link["stage"] for link in described] == ["mdlm", "ae", "prior", "student"]
    assert evidence(tmp_path, tiny_chain.root) == []  # all is there
    commands = [call[1:] for call in calls if call[0] == "diladiff"]
    assert {command[0] for command in commands} == {"bench", "eval", "sample"}
    assert len(commands) > 20
    for command in commands:
        more = SMALL if "--speed" in command else ["--dry-run"]
        more += ["--n", "100"] if str(tiny_chain.ae) in command and "bench" in command else []  # has no more texts
        found = cli(*command, *more)
        assert found.status == 0, (command, found.err)


@pytest.mark.slow
def test_what_ships_is_measured_beside_the_text_that_it_learned_from(tmp_path: Path) -> None:
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence" / "chain.json").write_text("[]")
    first, *calls = evidence(tmp_path, "shipped")
    for stage in ("mdlm", "ae", "prior", "student"):
        config = json.loads((tmp_path / "evidence" / "shipped" / stage / "config.json").read_text())
        assert config["stage"] == stage
    assert " ".join(first[1:4]) == "encode --preset demo"
    measured = [call for call in calls if {"eval", "bench"} & set(call) and "--speed" not in call]
    assert len(measured) > 20
    assert all(call[call.index("--data") + 1] == "evidence/data" for call in measured)
