"""The launcher that the README names, with its own parser in front of ours."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from torch.distributed.run import parse_args

from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import load_artifact

from ..chain import Chain
from .launch import ROOT, TORCHRUN, environment


def readme_lines() -> list[list[str]]:
    """What follows torchrun in the README's examples."""
    found = re.findall(r"^(?:\w+=\w+ )*torchrun (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


def test_the_readmes_lines_pass_torchruns_parser_whole() -> None:
    lines = readme_lines()
    assert {"train-mdlm", "sample"} <= {word for line in lines for word in line}
    for line in lines:
        found = parse_args(line)
        after = [word for word in line[line.index("diladiff_cli") + 1 :] if word != "--"]
        assert (found.module, found.training_script, found.training_script_args) == (True, "diladiff_cli", after)


def test_torchrun_takes_n_for_its_own_without_a_mark_that_its_options_end() -> None:
    """Why the README has that mark: this fails, and no other option of ours does."""
    with pytest.raises(SystemExit):
        parse_args(["--nproc-per-node", "2", "-m", "diladiff_cli", "sample", "--n", "3"])


@pytest.mark.slow
def test_samples_into_a_pipe_that_closes_end_all_processes_quietly(tiny_chain: Chain, tmp_path: Path) -> None:
    """On a machine without GPU nothing needs to say so."""
    options = ["--model", str(tiny_chain.student), "--n", "400", "--batch-size", "4"]
    command = shlex.join([*TORCHRUN, "-m", "diladiff_cli", "--", "sample", *options])
    given = {name: value for name, value in environment().items() if name != "ACCELERATE_USE_CPU"}
    found = subprocess.run(
        f'{command} | head -n 3; echo "${{PIPESTATUS[0]}}"',
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=given | {"CUDA_VISIBLE_DEVICES": ""},
        timeout=300,
    )
    *lines, status = found.stdout.splitlines()
    wanted = load(tiny_chain.student, "cpu").sample(n=3)
    assert [json.loads(line)["token_ids"] for line in lines] == [sample["token_ids"] for sample in wanted]
    assert (status, found.stderr) == ("0", "")


@pytest.mark.slow
def test_fsdp_asked_of_the_launcher_is_shard(tiny_chain: Chain, tmp_path: Path) -> None:
    """With the variables that ``accelerate launch --use_fsdp`` sets, some of which would not fit our networks."""
    options = "--data {data} --out {out} --max-steps 3 --batch-size 4 --width 16 --layers 1 --heads 2 --precision fp32"
    asked = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    found = {}
    for name, more, variables in (("asked", [], asked), ("shard", ["--shard"], {})):
        arguments = options.format(data=tiny_chain.data, out=tmp_path / name).split()
        command = [*TORCHRUN, "-m", "diladiff_cli", "train-mdlm", *arguments, *more]
        run = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment() | variables, timeout=300
        )
        assert run.returncode == 0, run.stderr[-3000:]
        assert run.stderr.count("FSDP, which the launcher asks for, is done as --shard does it") == bool(variables)
        artifact = load_artifact(tmp_path / name)
        assert artifact.config["training"]["shard"] is True
        found[name] = artifact.hash
    assert found["asked"] == found["shard"]
