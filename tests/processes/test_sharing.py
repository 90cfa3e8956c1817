"""What is no training: several processes give the output of one, once."""

import json
from dataclasses import dataclass
from typing import Any

import pytest

from diladiff_cli.config import SampleConfig
from diladiff_cli.model import load
from diladiff_cli.runtime.folders import partial_name
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import origin_of

from ..chain import Chain
from .launch import Job, Launch, launch

pytestmark = pytest.mark.slow

TIMINGS = {"seconds", "tokens_per_second", "latent_share", "machine"}  # of a point of bench, which differ each time
FEW = ["--n", "10", "--batch-size", "4"]
SAMPLED: dict[str, list[str]] = {
    "mdlm": FEW,
    "ae": [*FEW, "--decodings", "2"],
    "prior": [*FEW, "--steps", "4", "--order", "confidence"],
    "student": [*FEW, "--decodings", "2", "--gamma", "0.5", "--temperature", "0.8"],
}
KEPT = 5  # samples of a run that was cut short
ALONE = ("eval", "info", "export", "plot")  # what the main process does by itself


@dataclass(frozen=True)
class Shared:
    """The same commands on one process and on two."""

    one: Launch
    two: Launch

    def output(self, name: str) -> str:
        """What two processes wrote to stdout, after a check that only the main one did and that none failed."""
        statuses = [self.two.read(name, rank, "status") for rank in range(2)]
        assert statuses == ["0", "0"], self.two.errors(name)
        assert self.two.read(name, 1, "out") == ""
        assert self.two.read(name, 1, "err") == ""
        return self.two.read(name, 0, "out")


@pytest.fixture(scope="module")
def shared(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """All commands on one process and on two, in folders of their own."""
    jobs = [
        Job(f"sample-{stage}", ["sample", "--model", tiny_chain.root / "ckpt" / stage, *options])
        for stage, options in SAMPLED.items()
    ]
    drawn = ["sample", "--model", tiny_chain.mdlm, *FEW]
    bench = ["bench", "--model", tiny_chain.student, "--against", tiny_chain.mdlm, "--n", "8", "--steps", "1,2"]
    split = ["--length", "16", "--valid-share", "0.25"]
    jobs += [
        Job("text", [*drawn, "--format", "text"]),
        Job("file", [*drawn, "--out", "samples.jsonl"]),
        Job("rest", [*drawn, "--out", "rest.jsonl"]),
        Job("eval", ["eval", "samples.jsonl", "--reference", tiny_chain.text, "--scorer", "none"]),
        Job("eval-artifact", ["eval", tiny_chain.student, "--batches", "1", "--draws", "1"]),
        Job("bench", [*bench, "--decode-steps", "4", "--scorer", "none", "--seeds", "0", "--out", "bench"]),
        Job("info", ["info", tiny_chain.student]),
        Job("export", ["export", "--model", tiny_chain.student, "--out", "bundle"]),
        Job("plot", ["plot", tiny_chain.mdlm, "--out", "pictures"]),
        Job("plan", ["encode", tiny_chain.text, *split, "--tokenizer", "train:300", "--out", "data", "--dry-run"]),
        Job("encode", ["encode", tiny_chain.text, *split, "--tokenizer", "train:300", "--out", "data"]),
        Job("again", ["encode", tiny_chain.text, *split, "--tokenizer", "train:300", "--out", "data"]),
    ]
    root = tmp_path_factory.mktemp("shared")
    config = SampleConfig(n=10, batch_size=4)
    sampler = load_sampler(tiny_chain.mdlm, "cpu")
    few = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in generate(sampler, config)][:KEPT]
    for name in ("one", "two"):
        (root / name).mkdir()
        partial_name(root / name / "rest.jsonl", origin_of(sampler, config)).write_text("".join(few))
    return Shared(launch(root / "one", 1, jobs), launch(root / "two", 2, jobs))


@pytest.mark.parametrize("name", [*(f"sample-{stage}" for stage in SAMPLED), "text"])
def test_samples_are_those_of_one_process(shared: Shared, name: str) -> None:
    assert shared.output(name) == shared.one.read(name, 0, "out")
    assert shared.output(name) != ""


def test_samples_are_those_of_the_library(shared: Shared, tiny_chain: Chain) -> None:
    wanted = load(tiny_chain.student, "cpu").sample(n=10, decodings=2, gamma=0.5, temperature=0.8)
    found = [json.loads(line)["token_ids"] for line in shared.output("sample-student").splitlines()]
    assert found == [sample["token_ids"] for sample in wanted]


def test_a_file_of_samples_is_that_of_one_process(shared: Shared) -> None:
    assert shared.output("file") == ""
    ours, theirs = (launched.folder / "samples.jsonl" for launched in (shared.two, shared.one))
    assert ours.read_bytes() == theirs.read_bytes()
    assert ours.read_text() == shared.one.read("sample-mdlm", 0, "out")
    assert list(shared.two.folder.glob(".samples.jsonl*")) == []


def test_the_rest_of_a_file_is_that_of_one_process(shared: Shared) -> None:
    assert shared.output("rest") == ""
    told = f"rest.jsonl: going on with {KEPT} of 10 samples, which a run that was cut short had drawn"
    for launched in (shared.one, shared.two):
        assert told in launched.read("rest", 0, "err").splitlines()
        assert (launched.folder / "rest.jsonl").read_text() == shared.one.read("sample-mdlm", 0, "out")


@pytest.mark.parametrize("name", ["eval", "eval-artifact", "info"])
def test_reports_are_those_of_one_process(shared: Shared, name: str) -> None:
    assert shared.output(name) == shared.one.read(name, 0, "out")
    assert json.loads(shared.output(name).splitlines()[0] if name != "info" else shared.output(name))


def test_the_figures_of_a_frontier_are_those_of_one_process(shared: Shared) -> None:
    def timeless(text: str) -> list[dict[str, Any]]:
        return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in text.splitlines()]

    found = timeless(shared.output("bench"))
    assert found == timeless(shared.one.read("bench", 0, "out"))
    assert len(found) == 3


def test_both_processes_tokenise_what_one_would(shared: Shared) -> None:
    shared.output("encode")
    alone = [int(line) for line in shared.one.read("encode", 0, "batches").split()]
    parts = [[int(line) for line in shared.two.read("encode", rank, "batches").split()] for rank in range(2)]
    assert len(alone) > 4
    assert parts == [alone[::2], alone[1::2]]


def test_a_plan_and_a_finished_data_set_are_told_once(shared: Shared) -> None:
    assert json.loads(shared.output("plan")) == json.loads(shared.one.read("plan", 0, "out"))
    shared.output("again")
    assert "data is finished" in shared.two.read("again", 0, "err")
    assert [shared.two.read("again", rank, "batches") for rank in range(2)] == ["", ""]


@pytest.mark.parametrize(("name", "made"), [("export", "bundle"), ("encode", "data"), ("plot", "pictures")])
def test_what_the_main_process_writes_is_there_once(shared: Shared, name: str, made: str) -> None:
    shared.output(name)
    ours, theirs = (launched.folder / made for launched in (shared.two, shared.one))
    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    assert sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file()) == files
    for file in files:
        if file.suffix == ".safetensors":
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()
    assert ours.exists()
    assert list(shared.two.folder.glob(f".{made}*")) == []
