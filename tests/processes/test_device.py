"""Tensors lie where they belong: commands on a device of its own give what the CPU gives."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils import backend_registration

from ..chain import Chain
from ..scorer import build_scorer
from .conftest import Commands
from .launch import EMULATED, SINGLE, Job, Launch, environment, launch

# Private, and younger than the oldest torch that the package runs with.
if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this version of torch has no devices written in Python", allow_module_level=True)

pytestmark = pytest.mark.slow

OF_THE_MACHINE = ("seconds", "tokens_per_second", "latent_share", "machine", "device")
FEW = ["--n", "4", "--batch-size", "2", "--decode-steps", "4"]
SAMPLED: dict[str, tuple[str, list[str]]] = {
    "base": ("mdlm", FEW),
    "oracle": ("ae", [*FEW, "--decodings", "2"]),
    "prior": ("prior", [*FEW, "--steps", "3", "--guidance", "1", "--top-p", "0.9"]),
    "published prior": ("prior", [*FEW, "--steps", "3", "--solver", "euler"]),
    "student": ("student", [*FEW, "--gamma", "0.5", "--latent-until", "0.5"]),
    "confidence": ("student", [*FEW, "--order", "confidence"]),
    "threshold": ("mdlm", [*FEW, "--order", "threshold"]),
    "entropy": ("student", [*FEW, "--order", "entropy"]),
}
STAGES = ("mdlm", "ae", "prior", "student")
STEPS = ["--max-steps", "3"]


@dataclass(frozen=True)
class Pair:
    """The same commands on the CPU and on the emulated device."""

    cpu: Launch
    device: Launch

    def output(self, name: str) -> str:
        """What a command wrote to stdout on the device, after a check that it ran there, and ended well on both."""
        for launched in (self.cpu, self.device):
            assert launched.read(name, 0, "status") == "0", launched.read(name, 0, "err")
        last = self.device.read(name, 0, "err").splitlines()[-1]
        assert int(last.removesuffix(" operations on emulated:0")) > 100
        return self.device.read(name, 0, "out")


@pytest.fixture(scope="module")
def pair(tiny_chain: Chain, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """All commands on both, in folders of their own."""
    ckpt, scorer = tiny_chain.root / "ckpt", tmp_path_factory.mktemp("scorer")
    tiny_scorer = build_scorer()
    tiny_scorer.model.save_pretrained(scorer)  # type: ignore[operator]
    tiny_scorer.tokenizer.save_pretrained(scorer)
    jobs = [Job(f"train-{stage}", [*commands[stage], *STEPS, "--out", f"ckpt/{stage}"]) for stage in STAGES]
    guided = [*commands["student"], *STEPS, "--guidance", "1", "--optimizer", "muon", "--grad-accum", "2"]
    muon = [*commands["prior"], "--optimizer", "muon"]
    jobs += [
        Job("train-guided", [*guided, "--out", "ckpt/guided"]),
        Job("half", [*muon, "--max-steps", "2", "--out", "ckpt/resumed"]),
        Job("train-resumed", [*muon, *STEPS, "--resume", "--out", "ckpt/resumed"]),
        Job("encode", ["encode", "--ae", tiny_chain.ae, "--out", "latents", "--precision", "fp32"]),
    ]
    jobs += [Job(f"sample-{n}", ["sample", "--model", ckpt / stage, *few]) for n, (stage, few) in SAMPLED.items()]
    jobs += [Job(f"eval-{s}", ["eval", ckpt / s, "--batches", "1", "--draws", "1"]) for s in STAGES]
    drawn = ["sample", "--model", tiny_chain.student, "--n", "4", "--decodings", "2", "--out", "samples.jsonl"]
    bench = ["bench", "--model", tiny_chain.student, "--against", tiny_chain.mdlm, "--n", "4", "--steps", "2"]
    bench += ["--decode-steps", "4", "--scorer", "none", "--seeds", "0", "--precision", "fp32", "--out", "bench"]
    sizes = ["--vocab-sizes", "50", "--lengths", "8", "--batch-sizes", "2", "--decode-steps", "2"]
    small = ["--width", "16", "--layers", "1", "--seconds", "0.1", "--precision", "fp32"]
    jobs += [
        Job("trace", ["sample", "--model", tiny_chain.student, "--decode-steps", "4", "--n", "1", "--trace", "t.html"]),
        Job("drawn", drawn),
        Job("eval-samples", ["eval", "samples.jsonl", "--scorer", scorer]),
        Job("bench", bench),
        Job("speed", ["bench", "--speed", *sizes, *small]),
    ]
    folders = [tmp_path_factory.mktemp(name) for name in ("cpu", "device")]
    return Pair(launch(folders[0], 1, jobs), launch(folders[1], 1, jobs, worker=EMULATED, patience=900.0))


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Places and values of JSON, without times and names of devices."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield place, value
        return
    for key, part in inner:
        if key not in OF_THE_MACHINE:
            yield from leaves(part, f"{place}/{key}")


def read(text: str) -> dict[str, Any]:
    """The leaves of lines of JSON, or of a document."""
    try:
        return dict(leaves(json.loads(text)))
    except json.JSONDecodeError:
        return dict(leaves([json.loads(line) for line in text.splitlines()]))


def assert_alike(here: str, there: str) -> None:
    """Equal but for the rounding of attention, which is another kernel for each device."""
    found, expected = read(here), read(there)
    assert found
    assert found.keys() == expected.keys()
    for place, value in expected.items():
        assert found[place] == (pytest.approx(value, rel=1e-3, abs=1e-5) if isinstance(value, float) else value), place


@pytest.mark.parametrize("stage", [*STAGES, "guided", "resumed"])
def test_training_gives_the_same_losses(pair: Pair, stage: str) -> None:
    """And gradients' norms, and validation."""
    pair.output(f"train-{stage}")
    assert "fp32 on emulated" in pair.device.read(f"train-{stage}", 0, "err")
    logs = [(launched.folder / "ckpt" / stage / "metrics.jsonl").read_text() for launched in (pair.device, pair.cpu)]
    assert logs[0].count("grad_norm") == int(STEPS[-1])
    assert_alike(*logs)


@pytest.mark.parametrize(
    "name", [*(f"sample-{n}" for n in SAMPLED), *(f"eval-{s}" for s in (*STAGES, "samples")), "bench"]
)
def test_figures_and_texts_are_the_same(pair: Pair, name: str) -> None:
    """Of whatever prints JSON."""
    assert_alike(pair.output(name), pair.cpu.read(name, 0, "out"))


def test_latents_are_the_same(pair: Pair) -> None:
    """All shards."""
    assert_same_latents(pair)


def assert_same_latents(pair: Pair) -> None:
    """Of ``encode --ae`` on both."""
    pair.output("encode")
    shards = sorted(pair.cpu.folder.glob("latents/**/*.safetensors"))
    assert len(shards) > 2
    for shard in shards:
        here = load_file(pair.device.folder / shard.relative_to(pair.cpu.folder))
        for name, values in load_file(shard).items():
            if values.is_floating_point():  # a checksum is not
                torch.testing.assert_close(here[name], values, rtol=1e-2, atol=1e-4)


def test_pages_of_traces_are_the_same(pair: Pair) -> None:
    """The trace decodes every estimate of the latent as well."""
    pair.output("trace")
    pages = [(launched.folder / "t.html").read_text() for launched in (pair.cpu, pair.device)]
    assert len(pages[0]) > 1000
    assert pages[0] == pages[1]


def test_speed_is_measured_there(pair: Pair) -> None:
    """Networks of the benchmark, both samplers and the bare body."""
    assert read(pair.output("speed"))


@pytest.fixture(scope="module")
def single(tiny_chain: Chain, commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Commands on the CPU and on a device without double precision."""
    jobs = [Job(f"train-{stage}", [*commands[stage], *STEPS, "--out", f"ckpt/{stage}"]) for stage in STAGES]
    jobs += [
        Job(
            "train-muon",
            [*commands["student"], *STEPS, "--optimizer", "muon", "--p-jumps", "0.5", "--out", "ckpt/muon"],
        ),
        Job("encode", ["encode", "--ae", tiny_chain.ae, "--out", "latents", "--precision", "fp32"]),
        Job("sample", ["sample", "--model", tiny_chain.student, *FEW]),
        Job("eval", ["eval", tiny_chain.ae, "--batches", "1", "--draws", "1"]),
    ]
    folders = [tmp_path_factory.mktemp(name) for name in ("cpu", "single")]
    return Pair(launch(folders[0], 1, jobs), launch(folders[1], 1, jobs, worker=SINGLE, patience=900.0))


@pytest.mark.parametrize("stage", [*STAGES, "muon"])
def test_training_does_without_double_precision(single: Pair, stage: str) -> None:
    """With the losses, gradients' norms and validation of the CPU."""
    single.output(f"train-{stage}")
    logs = [(place.folder / "ckpt" / stage / "metrics.jsonl").read_text() for place in (single.device, single.cpu)]
    assert_alike(*logs)


def test_latents_are_encoded_without_double_precision(single: Pair) -> None:
    """On the device."""
    assert_same_latents(single)


@pytest.mark.parametrize("name", ["sample", "eval"])
def test_tokens_are_drawn_on_the_cpu_where_the_device_has_no_double_precision(single: Pair, name: str) -> None:
    """And give its texts and figures."""
    assert single.device.read(name, 0, "status") == "0", single.device.read(name, 0, "err")
    assert_alike(single.device.read(name, 0, "out"), single.cpu.read(name, 0, "out"))


MISPLACED = (
    "torch.ones(3, device=DEVICE) + torch.ones(3)",
    "torch.nn.Linear(2, 2).to(DEVICE)(torch.ones(1, 2))",
    "torch.rand(3, device=DEVICE, generator=torch.Generator())",
    "torch.rand(3, generator=torch.Generator(DEVICE))",
    "torch.rand(3, device=DEVICE, generator=torch.default_generator)",
    "torch.ones(3)[torch.ones(3, device=DEVICE) > 0]",
    "torch.ones(3, device=DEVICE).index_put_((torch.tensor([1]),), torch.ones(1))",
    "torch.stack([torch.ones((), device=DEVICE), torch.ones(())])",
    "torch.ones(2, 2, device=DEVICE).numpy()",
)
DOUBLE = (
    "torch.ones(3, device=DEVICE).double()",
    "torch.ones(3, dtype=torch.float64).to(DEVICE)",
    "torch.zeros((), dtype=torch.float64, device=DEVICE)",
)
SCRIPT = """
import sys
import torch
from tests.processes import emulated
kept = emulated.set_up()
DEVICE = emulated.DEVICE
with emulated.GeneratorsStayAtHome():
    assert (torch.ones(3, device=DEVICE)[torch.tensor([0, 1])] + torch.tensor(1)).tolist() == [2, 2]
    assert torch.nn.Linear(2, 2).to(DEVICE).double().weight.held.dtype == torch.float64
    for code in sys.argv[1:]:
        try:
            eval(code)
            print("no error")
        except Exception as error:
            print(type(error).__name__, error)
"""


def test_the_emulation_tells_what_does_not_belong(tmp_path: Path) -> None:
    """As CUDA does, and Apple's GPUs; a command that did any of it would fail here."""
    codes = [*MISPLACED, "emulated.refused.add(torch.float64)", *DOUBLE]
    command = [sys.executable, "-c", SCRIPT, *codes]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert len(found) == len(codes)
    misplaced, (allowed, *double) = found[: len(MISPLACED)], found[len(MISPLACED) :]
    assert all(line.startswith("OtherDeviceError") for line in misplaced[:-1])
    assert "numpy() is not supported" in misplaced[-1]
    assert allowed == "no error"
    assert all(line.startswith("TypeError") and "has no torch.float64" in line for line in double)
