"""What does not belong together is told, and what a stage leaves behind is nothing."""

import random
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from diladiff_cli.config import EncodeConfig, EvalConfig
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.model import load
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.evaluation.artifact import evaluate_artifact
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm
from diladiff_cli.stages.train_prior import train_prior

from ..chain import LENGTH, Chain, ae_config, mdlm_config, prior_config


@pytest.fixture
def other_data(tiny_chain: Chain, tmp_path: Path) -> Path:
    """Text of other words, with a tokenizer of its own of as many tokens."""
    rng, size = random.Random(1), open_tokens(tiny_chain.data).vocab_size
    words = ["".join(rng.choices("bcdfghklmnprstvwz" + 3 * "aeiou", k=rng.randint(2, 7))) for _ in range(200)]
    text = tmp_path / "other.txt"
    text.write_text("\n\n".join(" ".join(rng.choices(words, k=30)) for _ in range(80)))
    config = EncodeConfig(tokenizer=f"train:{size}", length=LENGTH, valid_share=0.25)
    encode_text(config, text=[str(text)], out=tmp_path / "other")
    assert open_tokens(tmp_path / "other").vocab_size == size
    return tmp_path / "other"


def test_text_of_another_tokenizer_is_refused_though_all_numbers_agree(
    tiny_chain: Chain, other_data: Path, tmp_path: Path
) -> None:
    message = rf"other has another tokenizer than .*; encode the text with --tokenizer .* --length {LENGTH}$"
    with pytest.raises(UserError, match=message):
        train_ae(ae_config(), base=tiny_chain.mdlm, data=other_data, out=tmp_path / "ae")
    with pytest.raises(UserError, match=message):
        train_prior(prior_config(), ae=tiny_chain.ae, data=other_data, out=tmp_path / "prior")
    with pytest.raises(UserError, match=message):
        encode_latents(ae=tiny_chain.ae, data=other_data, out=tmp_path / "latents")
    with pytest.raises(UserError, match=message):
        evaluate_artifact(EvalConfig(batches=1, draws=1), tiny_chain.mdlm, data=other_data)
    assert not (tmp_path / "ae").exists()


def test_a_data_set_that_was_replaced_by_one_of_another_tokenizer_is_no_remedy(
    chain_copy: Chain, other_data: Path, tmp_path: Path
) -> None:
    shutil.rmtree(chain_copy.data)
    shutil.move(other_data, chain_copy.data)
    with pytest.raises(UserError, match="has another tokenizer"):
        train_ae(ae_config(), base=chain_copy.mdlm, out=tmp_path / "ae")


def test_text_of_the_same_tokenizer_saved_otherwise_is_taken(tiny_chain: Chain, tmp_path: Path) -> None:
    config = EncodeConfig(tokenizer=str(tiny_chain.mdlm), length=LENGTH, valid_share=0.5)
    encode_text(config, text=[str(tiny_chain.text)], out=tmp_path / "more")
    train_ae(ae_config(max_steps=1), base=tiny_chain.mdlm, data=tmp_path / "more", out=tmp_path / "ae")


def test_a_prior_learns_latents_of_the_data_set_that_they_record(tiny_chain: Chain, tmp_path: Path) -> None:
    config = EncodeConfig(tokenizer=str(tiny_chain.mdlm), length=LENGTH, valid_share=0.5)
    encode_text(config, text=[str(tiny_chain.text)], out=tmp_path / "more")
    encode_latents(ae=tiny_chain.ae, data=tmp_path / "more", out=tmp_path / "latents")
    train_prior(prior_config(max_steps=1), latents=tmp_path / "latents", out=tmp_path / "prior")
    assert load_artifact(tmp_path / "prior").data["fingerprint"] == open_tokens(tmp_path / "more").fingerprint
    shutil.move(tmp_path / "more", tmp_path / "moved")
    with pytest.raises(UserError, match="holds latents of another data set"):
        train_prior(prior_config(max_steps=1), latents=tmp_path / "latents", out=tmp_path / "second")


def test_the_callers_random_numbers_are_left_alone(tiny_chain: Chain, tmp_path: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    train_mdlm(mdlm_config(max_steps=1), data=tiny_chain.data, out=tmp_path / "mdlm")
    train_ae(ae_config(max_steps=1), base=tmp_path / "mdlm", out=tmp_path / "ae")
    train_prior(prior_config(max_steps=1), ae=tmp_path / "ae", out=tmp_path / "prior")
    model = load(tiny_chain.student, "cpu")
    model.decode(model.encode(["the dog"]))
    model.sample(n=1)
    assert torch.equal(torch.rand(4), wanted)


def test_networks_made_in_several_threads_begin_as_they_do_alone(tiny_chain: Chain, tmp_path: Path) -> None:
    seeds, start = (5, 6, 7, 8), threading.Barrier(4)

    def train(seed: int, out: Path) -> None:
        config = mdlm_config(max_steps=1, seed=seed, width=256, heads=4, learning_rate=0.0)
        train_mdlm(config, data=tiny_chain.data, out=out)

    def wait_and_train(seed: int) -> None:
        start.wait()
        train(seed, tmp_path / f"together{seed}")

    threads = [threading.Thread(target=wait_and_train, args=(seed,)) for seed in seeds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed in seeds:
        train(seed, tmp_path / f"alone{seed}")
        found, wanted = (load_artifact(tmp_path / f"{how}{seed}").state_dict() for how in ("together", "alone"))
        assert all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize(
    ("valid", "documents", "told"), [(False, 25, "a larger --valid-share"), (True, 8, "more --valid")]
)
def test_few_held_out_blocks_are_told(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str], valid: bool, documents: int, told: str
) -> None:
    (tmp_path / "few.txt").write_text("the dog sat by the sea and ran home\n\n" * documents)
    config = EncodeConfig(tokenizer=str(tiny_chain.mdlm), length=LENGTH, valid_share=0.1)
    text, out = str(tmp_path / "few.txt"), tmp_path / "data"
    given = {"text": [str(tiny_chain.text)], "valid": [text]} if valid else {"text": [text]}
    record = encode_text(config, **given, out=out)  # type: ignore[arg-type]
    blocks = record["splits"]["valid"]["rows"]
    assert 0 < blocks < 16
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "will say little of a model" in line]
    assert line.startswith(f"{blocks} held-out block")
    assert told in line


@pytest.mark.parametrize(
    ("words", "unknown", "told"),
    [
        ("the dog sat", "[UNK]", None),
        ("the zebra sat", "[UNK]", "32% of the tokens are [UNK]"),
        (15 * "the dog sat " + "zebra", "[UNK]", "2% of the tokens are [UNK]"),
        ("the dog sat", "[SEP]", None),  # which ends every document
    ],
)
def test_many_unknown_tokens_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, unknown: str, told: str | None
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = ["[SEP]", "[MASK]", "[UNK]", "the", "dog", "sat"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names: dict[str, Any] = {"unk_token": unknown, "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "text.txt").write_text("\n\n".join([" ".join([words] * 10)] * 40))
    config = EncodeConfig(tokenizer=str(tmp_path / "tokenizer"), length=LENGTH, valid_share=0.3)
    encode_text(config, text=[str(tmp_path / "text.txt")], out=tmp_path / "data")
    lines = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines() if "% of the tokens are" in line]
    assert lines == ([] if told is None else [told])
