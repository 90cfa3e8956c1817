import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import diladiff_cli
from diladiff_cli import model as facade
from diladiff_cli.config import SampleConfig
from diladiff_cli.data.tokenizer import separator_id
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.model import Model, load
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.encoder import LatentEncoder
from diladiff_cli.networks.latent import LatentPrior, LatentStudent
from diladiff_cli.runtime import model_paths
from diladiff_cli.runtime.model_paths import default_model, named_model
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.export import export

from .chain import CHANNELS, LATENTS, LENGTH, Chain


@pytest.fixture(scope="module")
def student(tiny_chain: Chain) -> Model:
    return load(tiny_chain.student, "cpu")


def test_the_library_shows_what_it_has() -> None:
    code = "import diladiff_cli, sys; print(*dir(diladiff_cli)); sys.exit('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"Model", "load", "__version__"} <= set(found.stdout.split())


@pytest.mark.parametrize("stage", ["mdlm", "ae", "prior", "student"])
def test_a_model_has_the_parts_of_its_stage(tiny_chain: Chain, stage: str) -> None:
    model = diladiff_cli.load(str(getattr(tiny_chain, stage)))
    assert isinstance(model, diladiff_cli.Model)
    assert (model.stage, model.length) == (stage, LENGTH)
    assert isinstance(model.decoder, TokenDenoiser)
    assert isinstance(model.encoder, type(None) if stage == "mdlm" else LatentEncoder)
    priors = {"prior": LatentPrior, "student": LatentStudent}
    assert isinstance(model.prior, priors.get(stage, type(None)))
    assert model.tokenizer.mask_token_id == model.decoder.mask_id


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, diladiff_cli; diladiff_cli.__version__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0


def test_samples_and_streams_are_the_same(student: Model) -> None:
    found = student.sample(n=5, steps=2, decode_steps=3, seed=4, top_p=1.0, gamma=0)
    assert found == list(student.stream(SampleConfig(n=5, steps=2, decode_steps=3, seed=4, top_p=1.0, gamma=0.0)))
    assert [s["id"] for s in found] == [0, 1, 2, 3, 4]
    assert (found[0]["steps"], found[0]["decode_steps"], found[0]["seed"], found[0]["gamma"]) == (2, 3, 4, 0.0)


def test_unknown_options_are_refused(student: Model) -> None:
    with pytest.raises(ConfigError, match="unknown setting 'top_k'"):
        student.sample(n=1, top_k=5)


def test_texts_are_cut_and_filled_up_before_encoding(student: Model, tiny_chain: Chain) -> None:
    block = open_tokens(tiny_chain.data).split("valid").gather([0])
    end = separator_id(student.tokenizer)
    short = student.tokenizer("the cat", add_special_tokens=False)["input_ids"]
    padded = torch.tensor([[*short, *[end] * (LENGTH - len(short))]])
    long = "the cat sat and " * 20
    cut = torch.tensor([student.tokenizer(long, add_special_tokens=False)["input_ids"][:LENGTH]])
    with pytest.warns(UserWarning, match="texts cut at 16 tokens: 1 of 2"):
        found = student.encode(["the cat", long])
    assert found.shape == (2, LATENTS, CHANNELS)
    torch.testing.assert_close(found, student.sampler.encoder(torch.cat([padded, cut])), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(student.encode("the cat"), found[:1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(student.sampler.encoder(block), found[:1])


@pytest.mark.parametrize("tokens", [LENGTH - 1, LENGTH])
def test_a_text_that_fits_is_encoded_without_a_warning(student: Model, tokens: int) -> None:
    ids = student.tokenizer("the cat sat and " * 20, add_special_tokens=False)["input_ids"]
    fitting = student.tokenizer.decode(ids[:tokens])
    assert len(student.tokenizer(fitting, add_special_tokens=False)["input_ids"]) == tokens
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        student.encode([fitting])


def test_a_model_prints_as_one_line(student: Model, tiny_chain: Chain) -> None:
    assert repr(student) == f"Model({str(tiny_chain.student)!r}, stage='student', length={LENGTH}, device='cpu')"


def test_encoding_does_not_depend_on_the_batch(student: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["the cat", "a dog ran home", "old sun", "by the sea", "red bird"]
    whole = student.encode(texts)
    monkeypatch.setattr(facade, "TEXTS_AT_ONCE", 2)
    torch.testing.assert_close(student.encode(texts), whole, rtol=1e-4, atol=1e-5)


def test_nothing_encodes_and_decodes_to_nothing(student: Model) -> None:
    assert student.encode([]).shape == (0, LATENTS, CHANNELS)
    assert student.decode(student.encode([])) == []


def test_decoding_gives_samples_of_the_latents(student: Model) -> None:
    z_0 = student.encode(["the cat", "a dog ran home", "old sun"])
    found = student.decode(z_0, decode_steps=2, seed=3, decodings=2)
    assert [s["id"] for s in found] == list(range(6))
    assert [s["latent"] for s in found] == [0, 0, 1, 1, 2, 2]
    assert {(s["seed"], s["decode_steps"], s["steps"], s["gamma"]) for s in found} == {(3, 2, None, None)}
    assert all(len(s["token_ids"]) == LENGTH and isinstance(s["text"], str) for s in found)
    assert found == student.decode(z_0, decode_steps=2, seed=3, decodings=2, batch_size=4)
    assert student.decode(z_0)[0]["decode_steps"] == LENGTH // 4
    assert student.decode(z_0, order="entropy")[0]["decode_steps"] == LENGTH


def test_what_is_no_text_is_not_encoded(student: Model) -> None:
    with pytest.raises(TypeError, match="texts holds 3, which is not text"):
        student.encode(["the cat", 3])  # type: ignore[list-item]


@pytest.mark.parametrize("device", ["cuda:99", "mps:99", "gpu", "hpu", "meta", 2.5])
def test_a_device_that_cannot_be_used_is_named(tiny_chain: Chain, device: Any) -> None:
    with pytest.raises(UserError, match=f"the device {device} cannot be used here; leave it out, or take cpu"):
        load(tiny_chain.student, device)


def test_a_device_without_float64_is_named(tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diladiff_cli.stages.sampling.sampler.has_float64", lambda _: False)
    with pytest.raises(UserError, match="the device cpu has no float64, in which tokens are drawn"):
        load(tiny_chain.student, "cpu")


def test_oracle_samples_decode_encoded_blocks(tiny_chain: Chain) -> None:
    model = load(tiny_chain.ae, "cpu")
    z_0 = model.sampler.encoder(model.sampler.blocks(range(4)))
    decoded, sampled = model.decode(z_0), model.sample(n=4)
    assert [s["token_ids"] for s in decoded] == [s["token_ids"] for s in sampled]
    others = model.decode(model.sampler.encoder(model.sampler.blocks(range(4, 8))))
    assert [s["token_ids"] for s in others] != [s["token_ids"] for s in sampled]


def test_latents_of_another_shape_are_refused(student: Model) -> None:
    with pytest.raises(UserError, match=r"of shape \(2, 3, 4\), wanted \(B, 8, 8\)"):
        student.decode(torch.zeros(2, 3, 4))
    with pytest.raises(ConfigError, match="steps is 5, but the latents are given"):
        student.decode(torch.zeros(2, LATENTS, CHANNELS), steps=5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_not_finite_are_refused(student: Model, value: float) -> None:
    z_0 = torch.zeros(2, LATENTS, CHANNELS)
    z_0[1, 0, 0] = value
    with pytest.raises(UserError, match="the latents hold NaN or infinity; give what encode returns"):
        student.decode(z_0)


IN_ANOTHER_DEFAULT = """
import sys, torch
import diladiff_cli

default = getattr(torch, sys.argv[3])
if sys.argv[2] == "before":
    torch.set_default_dtype(default)
model = diladiff_cli.load(sys.argv[1])
torch.set_default_dtype(default)
print([sample["token_ids"] for sample in model.sample(n=2, decode_steps=4)], model.encode("the cat").dtype)
"""


@pytest.mark.parametrize("default", ["float64", "bfloat16"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("stage", ["prior", "student"])
def test_another_default_precision_changes_nothing(tiny_chain: Chain, stage: str, when: str, default: str) -> None:
    path = getattr(tiny_chain, stage)
    command = [sys.executable, "-c", IN_ANOTHER_DEFAULT, str(path), when, default]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    wanted = [sample["token_ids"] for sample in load(path, "cpu").sample(n=2, decode_steps=4)]
    assert (done.stdout, done.returncode) == (f"{wanted} torch.float32\n", 0), done.stderr


IN_THREADS = """
import sys, threading
import diladiff_cli

found = []
threads = [threading.Thread(target=lambda: found.append(diladiff_cli.load(sys.argv[1]).length)) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(found)
"""


def test_threads_of_a_fresh_process_load_at_once(tiny_chain: Chain) -> None:
    command = [sys.executable, "-c", IN_THREADS, str(tiny_chain.student)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == (f"{[LENGTH] * 4}\n", 0), done.stderr


def test_a_bad_option_is_named_as_in_python(student: Model) -> None:
    with pytest.raises(ConfigError) as caught:
        student.sample(n=3, decode_steps=-1, top_p=2.0)
    assert str(caught.value).splitlines() == ["decode_steps is -1; give at least 0", "top_p is 2.0; give at most 1"]
    with pytest.raises(ConfigError, match=r"^n 3 is not a multiple of decodings 2; change one$"):
        student.sample(n=3, decodings=2)


def test_a_base_has_no_latents(tiny_chain: Chain) -> None:
    model = load(tiny_chain.mdlm, "cpu")
    with pytest.raises(UserError, match="is of stage mdlm, which has no latents"):
        model.encode("the cat")
    with pytest.raises(UserError, match="is of stage mdlm, which has no latents"):
        model.decode(torch.zeros(1, LATENTS, CHANNELS))


def test_the_student_here_is_the_default(tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(tiny_chain.root / "ckpt", tmp_path / "ckpt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", tiny_chain.prior)
    assert default_model() == (Path("ckpt/student"), "model: ./ckpt/student")
    assert load().stage == "student"


def test_the_shipped_model_is_the_default_elsewhere(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", tiny_chain.prior)
    path, line = default_model()
    assert path == tiny_chain.prior
    assert line == "model: the small one that ships with diladiff (no ./ckpt/student here)"
    assert load().stage == "prior"
    for name in ("mdlm", "prior"):
        shutil.copytree(getattr(tiny_chain, name), tmp_path / "ckpt" / name)
        assert default_model()[1].endswith(f"(no ./ckpt/student here; yours: --model ckpt/{name})")


def test_the_shipped_model_has_a_name_unless_something_here_has_it(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(tiny_chain.student, tmp_path / "installed" / "model")
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", tmp_path / "installed" / "model")
    assert load("shipped").stage == "student"
    assert load("shipped/parents/mdlm").stage == "mdlm"
    with pytest.raises(UserError, match=r"there is no folder \./shipped|there is no folder shipped"):
        load("./shipped")
    Path("shipped/parents").mkdir(parents=True)  # a folder of something else hides nothing, and is not hidden
    assert load("shipped").stage == "student"
    assert load("shipped/parents/mdlm").stage == "mdlm"
    Path("shipped/model.safetensors").touch()
    for name in ("shipped/model.safetensors", "shipped/nothing", "shipped/parents"):
        assert named_model(name) == Path(name)
    shutil.rmtree("shipped")
    shutil.copytree(tiny_chain.mdlm, "shipped")
    assert load("shipped").stage == "mdlm"


def test_where_none_is_installed_the_name_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", tmp_path / "none")
    with pytest.raises(UserError, match=r"^this installation ships no model; name one with --model"):
        load("shipped/parents/mdlm")


def test_without_any_model_the_error_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_paths, "SHIPPED_MODEL", tmp_path / "none")
    with pytest.raises(UserError, match=r"no \./ckpt/student, and this installation ships no model; name one"):
        load()


def test_loading_a_model_leaves_the_compiler_of_torch_alone(tiny_chain: Chain) -> None:
    """It would take a second or two of every command that loads one."""
    code = "import sys, diladiff_cli; diladiff_cli.load(sys.argv[1]); print('torch._dynamo' in sys.modules)"
    command = [sys.executable, "-c", code, str(tiny_chain.student)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert done.stdout == "False\n"
