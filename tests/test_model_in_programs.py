"""A model in somebody's own program: their folders, arrays, weights, threads and contexts."""

import copy
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diladiff_cli.config import BenchConfig, EvalConfig, SampleConfig, resolve
from diladiff_cli.errors import UserError
from diladiff_cli.metrics.quiet import silenced
from diladiff_cli.model import Model, load
from diladiff_cli.stages.bench.kept import bench_plan
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.evaluation.files import evaluate_files, evaluation_plan
from diladiff_cli.stages.export import export
from diladiff_cli.stages.info import describe
from diladiff_cli.stages.train_ae import train_ae

from .chain import Chain

FEW: dict[str, Any] = {"n": 2, "steps": 2, "decode_steps": 4}


@pytest.fixture(scope="module")
def student(tiny_chain: Chain) -> Model:
    return load(tiny_chain.student, "cpu")


def test_what_is_loaded_by_a_relative_path_works_from_anywhere(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = load(tiny_chain.student, "cpu")
    monkeypatch.chdir(tiny_chain.student.parent)
    model = load(os.path.relpath(tiny_chain.student), "cpu")
    oracle = load(os.path.relpath(tiny_chain.ae), "cpu", data=os.path.relpath(tiny_chain.data))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(model.encode("a text"), wanted.encode("a text"))
    for options in ({}, {"latent_until": 0.5}):
        texts = [[s["text"] for s in m.sample(**FEW, **options)] for m in (model, wanted)]
        assert texts[0] == texts[1]
    assert len(oracle.sample(n=1, decode_steps=2)) == 1


WAYS: dict[str, dict[str, Any]] = {
    "random order": {},
    "corrector and base": {"order": "spread", "corrector": 0.5, "latent_until": 0.5},
    "a chosen order": {"order": "entropy"},
    "prompts": {"prompt": "a", "suffix": " b"},
}


@pytest.mark.parametrize("stage", ["mdlm", "prior", "student"])
def test_another_default_device_changes_nothing(tiny_chain: Chain, stage: str) -> None:
    path = getattr(tiny_chain, stage)
    few = FEW if stage != "mdlm" else {"n": 2, "decode_steps": 4}
    ways = [few | how for how in WAYS.values() if stage != "mdlm" or "latent_until" not in how]
    model = load(path, "cpu")
    wanted = [model.sample(**how) for how in ways]
    with torch.device("meta"):  # on which nothing can be computed
        model = load(path, "cpu")
        assert [model.sample(**how) for how in ways] == wanted
        assert model.trace(SampleConfig(**few)).sample == wanted[0][0]
        if stage != "mdlm":
            assert len(model.decode(model.encode(["a text", "the cat"]), decode_steps=2)) == 2


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_another_default_precision_changes_no_figure_and_no_latent(
    tiny_chain: Chain, tmp_path: Path, default: torch.dtype
) -> None:
    config = EvalConfig(batches=3, draws=2, likelihood=1)
    chain = [tiny_chain.mdlm, tiny_chain.ae, tiny_chain.prior, tiny_chain.student]

    def made(out: Path) -> tuple[list[dict[str, Any]], bytes]:
        encode_latents(ae=tiny_chain.ae, out=out)
        return list(evaluate_files(config, chain)), (out / "train-00000.safetensors").read_bytes()

    wanted = made(tmp_path / "wanted")
    torch.set_default_dtype(default)
    try:
        assert made(tmp_path / "found") == wanted
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_model_loaded_in_inference_mode_can_be_trained_further(tiny_chain: Chain) -> None:
    with torch.inference_mode():
        model = load(tiny_chain.mdlm, "cpu")
    decoder = model.decoder.requires_grad_(True)
    decoder(torch.zeros(1, decoder.length, dtype=torch.int64)).logsumexp(-1).sum().backward()
    assert decoder.final_norm.weight.grad is not None


def test_names_of_models_are_understood_by_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert describe("shipped/parents/ae")["stage"] == "ae"
    export("shipped", "bundle")
    assert describe("bundle")["stage"] == "student"
    config = BenchConfig(n=2, seeds="0", decode_steps="2", scorer="none")
    (point,) = bench_plan(config, "shipped/parents/mdlm", "bench")["points"]
    assert point["stage"] == "mdlm"
    with pytest.raises(UserError, match="comes without its data set"):  # so it is found
        evaluation_plan(EvalConfig(), "shipped/parents/ae")
    with pytest.raises(UserError, match="comes without its data set"):
        train_ae(resolve("ae", "demo"), base="shipped/parents/mdlm", out="ae", dry_run=True)


def test_texts_may_be_paths(tmp_path: Path) -> None:
    file, out = tmp_path / "t.txt", tmp_path / "data"
    file.write_text("\n\n".join(f"This is text {i} of a few." for i in range(40)))
    record = encode_text(
        resolve("data", options={"length": 8, "tokenizer": "train:300", "valid_share": 0.3}), text=[file], out=out
    )
    assert record["splits"]["train"]["documents"] + record["splits"]["valid"]["documents"] == 40


def read_only(z: torch.Tensor) -> Any:
    """As of a file that is mapped into memory."""
    found = z.numpy().copy()
    found.flags.writeable = False
    return found


LATENTS: list[Callable[[torch.Tensor], Any]] = [
    lambda z: z.double(),
    lambda z: z.numpy(),
    lambda z: z.numpy()[::-1][::-1],
    lambda z: np.flip(np.flip(z.numpy(), 0), 0),
    lambda z: z.numpy().astype(">f4"),
    read_only,
    list,
    lambda z: z.tolist(),
]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("form", LATENTS)
def test_latents_may_be_any_array_of_numbers(student: Model, form: Callable[[torch.Tensor], Any]) -> None:
    z_0 = student.encode(["one text", "another"])
    assert student.decode(form(z_0), decode_steps=3) == student.decode(z_0, decode_steps=3)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (lambda z: z.double() * 1e300, "NaN or infinity"),
        (lambda z: z + 1j, "of type torch.complex64"),
        (lambda z: (z + 1j).numpy(), "of type complex64"),
        (lambda z: ["a", "b"], "of type <U1"),
        (lambda z: [z[0], z[0, :1]], "not an array of numbers"),
        (lambda z: None, "of type object"),
    ],
)
def test_what_are_no_latents_is_told(student: Model, form: Callable[[torch.Tensor], Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        student.decode(form(student.encode(["one text", "another"])), decode_steps=3)


def test_numbers_of_numpy_and_torch_are_numbers(student: Model) -> None:
    assert student.sample(n=np.int64(2), temperature=np.float32(0.5)) == student.sample(n=2, temperature=0.5)
    assert student.sample(n=torch.tensor(2), seed=np.uint8(3)) == student.sample(n=2, seed=3)
    config = SampleConfig(temperature=1)
    assert (config, type(config.temperature)) == (SampleConfig(temperature=1.0), float)


def test_encoding_takes_no_heed_of_a_callers_autocast(student: Model) -> None:
    wanted = student.encode("a text of some words")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(student.encode("a text of some words"), wanted)


def test_halves_of_surrogate_pairs_are_told_as_such(student: Model) -> None:
    with pytest.raises(UserError) as error:
        student.encode("a \ud800 b")
    assert "UTF-8" in str(error.value.remedy)


@pytest.mark.parametrize("way", ["in place", "data", "into data"])
def test_samples_in_bf16_are_of_the_weights_as_they_are_now(tiny_chain: Chain, way: str) -> None:
    model, fresh = load(tiny_chain.mdlm, "cpu"), load(tiny_chain.mdlm, "cpu")
    settings = {"n": 4, "decode_steps": 4, "precision": "bf16"}
    before = model.sample(**settings)
    assert model.sample(**settings) == before
    for changed in (model, fresh):
        with torch.no_grad():
            for weights in changed.decoder.parameters():
                if way == "data" and changed is model:
                    weights.data = weights.flip(0)
                elif way == "into data":
                    weights.data.copy_(weights.flip(0))
                else:
                    weights.copy_(weights.flip(0))
    after = model.sample(**settings)
    assert after != before
    assert after == fresh.sample(**settings)


def test_a_model_may_be_loaded_in_inference_mode(tiny_chain: Chain) -> None:
    settings = {"n": 2, "decode_steps": 4, "precision": "bf16"}
    with torch.inference_mode():
        model = load(tiny_chain.mdlm, "cpu")
        before = model.sample(**settings)
        for weights in model.decoder.parameters():
            weights.mul_(-1.0)
        assert model.sample(**settings) != before


def test_variants_are_made_once(tiny_chain: Chain) -> None:
    model = load(tiny_chain.student, "cpu")
    made = [model.sampler.decoder_in("bf16") for _ in range(2)]
    assert made[0] is made[1]
    with torch.no_grad():
        next(model.decoder.parameters()).add_(1.0)
    assert model.sampler.decoder_in("bf16") is not made[0]
    assert model.sampler.decoder_in("fp32") is model.decoder


def test_a_copy_of_a_model_is_one_of_its_own(tiny_chain: Chain) -> None:
    model = load(tiny_chain.student, "cpu")
    other = copy.deepcopy(model)
    with torch.no_grad():
        next(other.decoder.parameters()).zero_()
    assert model.sample(**FEW) == load(tiny_chain.student, "cpu").sample(**FEW)


def test_only_the_main_thread_silences_the_process(capfd: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with silenced():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait(20)
    print("heard", flush=True)
    os.write(2, b"by all\n")
    leave.set()
    thread.join()
    with silenced():
        print("not heard", flush=True)
        os.write(1, b"at all\n")
    print("again", flush=True)
    assert capfd.readouterr() == ("heard\nagain\n", "by all\n")


def test_weights_that_are_no_numbers_are_told_as_such(tiny_chain: Chain) -> None:
    model = load(tiny_chain.mdlm, "cpu")
    model.decoder.final_norm.weight.fill_(torch.nan)
    with pytest.raises(UserError) as error:
        model.sample(n=2, decode_steps=4)
    assert "logits are not finite" in error.value.what
