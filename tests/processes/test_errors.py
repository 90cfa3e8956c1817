"""What goes wrong on one process alone ends all of them, and is told once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.runtime.locks import sole_writer
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.precision import has_fast_bf16

from ..chain import Chain
from .conftest import Commands
from .launch import Job, launch

pytestmark = pytest.mark.slow

ALONE = "error: this process alone cannot go on; mend it"
UNFORESEEN = "error: ValueError: this process alone met the unforeseen; for the traceback add --debug"


@pytest.mark.parametrize(
    ("kind", "rank", "line"), [("user error", 1, ALONE), ("user error", 0, ALONE), ("error", 1, UNFORESEEN)]
)
def test_an_error_of_one_process_ends_both_with_its_line(
    commands: Commands, tmp_path: Path, kind: str, rank: int, line: str
) -> None:
    faults = [{"kind": kind, "rank": rank, "step": 3}]
    found = launch(tmp_path, 2, [Job("train", [*commands["mdlm"], "--out", tmp_path / "mdlm"], faults)])
    assert found.statuses == [1, 1]
    assert found.errors("train") == [line]


@pytest.mark.parametrize("name", ["train", "latents"])
def test_both_refuse_to_write_what_another_run_writes(
    commands: Commands, tiny_chain: Chain, tmp_path: Path, name: str
) -> None:
    out = tmp_path / "out"
    command = commands["mdlm"] if name == "train" else ["encode", "--ae", tiny_chain.ae]
    with sole_writer(out):
        found = launch(tmp_path, 2, [Job(name, [*command, "--out", out])])
    assert found.statuses == [1, 1]
    assert found.errors(name) == [f"error: another run is writing {out}; wait until it ends, or choose another --out"]
    assert not out.exists()


def test_bad_text_ends_the_processes_that_help_to_tokenise_it(tmp_path: Path) -> None:
    text = tmp_path / "a.jsonl"
    text.write_text('{"text": "one document of several words"}\n' * 20 + '{"text": \n')
    (tmp_path / "b.txt").write_text("the held-out text")
    command = ["encode", text, "--valid", tmp_path / "b.txt", "--tokenizer", "train:300", "--length", "4"]
    found = launch(tmp_path / "whole", 2, [Job("encode", [*command, "--out", "data"])])
    assert found.statuses == [1, 1]
    (line,) = found.errors("encode")
    assert line.startswith(f"error: {text} cannot be read (line 21 is not JSON")
    assert not (tmp_path / "whole" / "data").exists()


def test_a_bad_number_of_one_process_is_skipped_by_both_and_too_many_end_both_with_one_line(
    commands: Commands, tmp_path: Path
) -> None:
    def bad(*steps: int) -> list[dict[str, Any]]:
        return [{"kind": "nan", "rank": 1, "step": step} for step in steps]

    command = [*commands["mdlm"], "--max-steps", "8", "--save-every", "2", "--out"]
    jobs = [
        Job("once", [*command, tmp_path / "once"], bad(3)),
        Job("often", [*command, tmp_path / "often"], bad(3, 4, 5, 6, 7)),
    ]
    found = launch(tmp_path, 2, jobs)
    assert [found.read("once", rank, "status") for rank in range(2)] == ["0", "0"]
    digests = [found.read("once", rank, "digests").splitlines() for rank in range(2)]
    assert digests[0] == digests[1]
    weights = [line.split()[1] for line in digests[0]]
    assert weights[2] == weights[1]
    assert len(set(weights)) == 7
    last = [line for line in read_metrics(tmp_path / "once" / "metrics.jsonl") if line["split"] == "train"][-1]
    assert (last["step"], last["skipped_steps"]) == (8, 1)
    assert found.statuses == [1, 1]
    (line,) = found.errors("often")
    assert line.startswith("error: mdlm training stopped at step 7, ")
    assert "not finite 5 steps in a row (loss nan, " in line
    assert "step 2 is saved" in line


def test_machines_that_do_not_share_a_disk_are_told_before_they_go_on(commands: Commands, tmp_path: Path) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    elsewhere.mkdir()
    train = [*commands["mdlm"], "--out", "mdlm"]
    stopped = launch(here, 2, [Job("begin", train, [{"kind": "sigterm", "rank": 0, "step": 3}])])
    assert stopped.statuses == [143, 143]
    before = (here / "mdlm" / "state" / "state.json").read_bytes()
    assert launch(here, 2, [Job("go-on", train)], elsewhere=elsewhere).statuses == [1, 1]
    (line,) = (elsewhere / "go-on-1.err").read_text().splitlines()
    told = "error: the processes disagree on mdlm (the main one and this one: training state of step 3 after "
    assert line.startswith(told)
    assert " s -> none); --out and all inputs must lie on a disk that every machine sees" in line
    assert (here / "mdlm" / "state" / "state.json").read_bytes() == before


@pytest.mark.parametrize(
    ("command", "option", "values", "told"),
    [
        ("train", "--log-every", ("2", "3"), "log_every 2 -> 3"),
        ("train", "--precision", ("auto", "fp32"), "precision bf16 -> fp32"),
        ("train", "--precision", ("fp32", "bf16"), "precision fp32 -> bf16"),
        ("latents", "--precision", ("auto", "fp32"), "precision bf16 -> fp32"),
        ("latents", "--precision", ("fp32", "bf16"), "precision fp32 -> bf16"),
    ],
)
def test_processes_of_different_commands_are_told(
    commands: Commands, tiny_chain: Chain, tmp_path: Path, command: str, option: str, values: tuple[str, str], told: str
) -> None:
    if "auto" in values and not has_fast_bf16(torch.device("cpu")):
        pytest.skip("auto is fp32 on this processor")
    words = commands["mdlm"] if command == "train" else ["encode", "--ae", tiny_chain.ae]
    ours, theirs = ([Job(command, [*words, "--out", "out", option, value])] for value in values)
    found = launch(tmp_path, 2, ours, others=theirs)
    assert found.statuses == [1, 1]
    (line,) = found.errors(command)
    assert line.startswith(f"error: the processes disagree on out (the main one and this one: {told}); ")
    assert line.endswith("and every process needs the same command")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("encoded_there_before", [False, True])
def test_machines_that_do_not_share_a_disk_are_told_as_they_encode(
    tiny_chain: Chain, tmp_path: Path, encoded_there_before: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    encode = Job("latents", ["encode", "--ae", tiny_chain.ae, "--out", "latents"])
    if encoded_there_before:
        assert launch(elsewhere, 1, [Job("before", encode.arguments)]).statuses == [0]
    found = launch(tmp_path / "here", 2, [encode], elsewhere=elsewhere)
    assert found.statuses == [1, 1]
    assert not list((tmp_path / "here" / "latents").glob("*.safetensors"))
    assert not list((tmp_path / "here" / "latents").glob(".mark*"))
    line = "error: latents is not the main process's; --out must lie on a disk that every machine sees"
    assert (elsewhere / "latents-1.err").read_text().splitlines() == [line]
