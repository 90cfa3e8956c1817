import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diladiff_cli.errors import UserError
from diladiff_cli.networks.denoiser import TokenDenoiser
from diladiff_cli.networks.features import SelfFeatures
from diladiff_cli.stages.feature_sources import check_same_vocabulary, encoder_features

from ..real_encoder import encoder_folder, needs_encoder

pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def tiny_encoder(tmp_path: Path) -> Path:
    """A random BERT over 30 tokens that reads 16 of them, with a tokenizer of words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    config: Any = BertConfig(
        vocab_size=30,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
    )
    build: Any = BertModel
    build(config).save_pretrained(tmp_path / "tiny")
    words = {f"w{i}": i for i in range(29)} | {"[MASK]": 29}
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), mask_token="[MASK]").save_pretrained(
        tmp_path / "tiny"
    )
    return tmp_path / "tiny"


def word_tokenizer(folder: Path, words: dict[str, int], mask: str = "[MASK]") -> Path:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    core = Tokenizer(WordLevel(words, unk_token=next(iter(words))))
    fast(tokenizer_object=core, mask_token=mask).save_pretrained(folder)
    return folder


def test_the_features_of_the_base_are_its_hidden_states_and_freeze_it() -> None:
    base = TokenDenoiser(vocab_size=9, mask_id=8, length=6, width=8, layers=1, heads=2)
    source, x = SelfFeatures(base), torch.randint(0, 8, (2, 6))
    assert source.width == 8
    with torch.no_grad():
        assert torch.equal(source(x), base.body(x))
    assert not any(p.requires_grad for p in source.parameters())
    assert not source(x).requires_grad


@needs_encoder
def test_the_features_of_an_encoder_know_what_a_text_says() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(encoder_folder()))
    source = encoder_features(str(encoder_folder()), vocab_size=30_522, length=16)
    texts = ["a man is eating his food", "someone has a meal at home", "the stock market fell once more"]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    x = torch.tensor([row[:6] for row in rows])
    hidden = source(x)
    assert hidden.shape == (3, 6, source.width)
    assert not hidden.requires_grad
    eating, meal, market = torch.nn.functional.normalize(hidden.mean(1), dim=-1)
    assert float(eating @ meal) > float(eating @ market) + 0.2
    torch.testing.assert_close(source(x[:1]), hidden[:1], rtol=1e-4, atol=1e-4)


@needs_encoder
def test_an_encoder_accepts_its_own_vocabulary_and_refuses_another(tmp_path: Path) -> None:
    encoder = encoder_folder()
    check_same_vocabulary(str(encoder), encoder)
    other = word_tokenizer(tmp_path, {"some": 0, "wholly": 1, "different": 2, "words": 3, "[MASK]": 4})
    with pytest.raises(UserError, match=r"another vocabulary.*--tokenizer"):
        check_same_vocabulary(str(encoder), other)


def test_words_unknown_to_the_encoder_are_refused_but_not_an_added_mask(tiny_encoder: Path, tmp_path: Path) -> None:
    unknown = word_tokenizer(tmp_path / "unknown", {f"v{i}": i for i in range(5)} | {"[MASK]": 29})
    with pytest.raises(UserError, match="another vocabulary"):
        check_same_vocabulary(str(tiny_encoder), unknown)
    moved = word_tokenizer(tmp_path / "moved", {"w1": 0, "w0": 1, "[MASK]": 29})
    with pytest.raises(UserError, match="another vocabulary"):
        check_same_vocabulary(str(tiny_encoder), moved)
    added = word_tokenizer(tmp_path / "added", {f"w{i}": i for i in range(29)}, mask="<|mask|>")
    check_same_vocabulary(str(tiny_encoder), added)


def test_an_encoder_with_weights_alone_passes_the_check_of_names(tiny_encoder: Path, tmp_path: Path) -> None:
    ours = word_tokenizer(tmp_path / "ours", {"a": 0, "[MASK]": 1})
    for file in tiny_encoder.glob("token*"):
        file.unlink()
    check_same_vocabulary(str(tiny_encoder), ours)


def test_an_encoder_with_fewer_tokens_than_the_data_is_refused(tiny_encoder: Path) -> None:
    assert encoder_features(str(tiny_encoder), 30, 16).width == 8
    with pytest.raises(UserError, match=r"has 30 tokens, the data 31; .*--features self"):
        encoder_features(str(tiny_encoder), 31, 16)


def test_an_encoder_that_reads_less_than_a_text_gets_it_in_windows(tiny_encoder: Path) -> None:
    source = encoder_features(str(tiny_encoder), 30, 20)  # it reads 16
    x = torch.randint(0, 30, (2, 20), generator=torch.Generator().manual_seed(0))
    whole = source(x)
    assert whole.shape == (2, 20, 8)
    torch.testing.assert_close(whole[:, :16], source(x[:, :16]))
    torch.testing.assert_close(whole[:, 16:], source(x[:, 16:]))


def damage(folder: Path, fault: str) -> None:
    weights = folder / "model.safetensors"
    if fault == "no weights":
        weights.unlink()
    elif fault == "truncated weights":
        weights.write_bytes(weights.read_bytes()[:500])
    elif fault == "foreign weights":
        save_file({"x": torch.zeros(1)}, weights, metadata={"format": "pt"})
    elif fault == "torn config":
        (folder / "config.json").write_text('{"model_type": "be')
    elif fault == "unknown kind":
        (folder / "config.json").write_text(json.dumps({"model_type": "nothing-known"}))
    elif fault == "pickle only":
        weights.unlink()
        torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")


FAULTS = ["no weights", "truncated weights", "foreign weights", "torn config", "unknown kind", "pickle only"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_encoder_gives_one_line_that_names_it(tiny_encoder: Path, fault: str) -> None:
    damage(tiny_encoder, fault)
    with pytest.raises(UserError, match=r"--features .*tiny cannot be loaded \(.+\); give self") as caught:
        encoder_features(str(tiny_encoder), 30, 16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere/at-all", "nowhere/at-all is not in the local cache and HF_HUB_OFFLINE is set"),
        ("./nowhere", "--features ./nowhere is not a folder"),
        ("lab/encoder:small", "--features lab/encoder:small is not a folder"),
        ("bad name!", "bad name! is not in the local cache"),
    ],
)
def test_an_encoder_that_is_not_there_gives_one_line_that_names_it(name: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        encoder_features(name, 30, 16)
    assert str(caught.value).startswith(told)
    assert str(caught.value).endswith("; give self, a Hub id or a folder with safetensors")


def test_loading_an_encoder_shows_no_bar_and_leaves_those_of_others(
    tiny_encoder: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers_logging = importlib.import_module("transformers.utils.logging")
    monkeypatch.setattr(transformers_logging, "_tqdm_active", True)
    capfd.readouterr()
    encoder_features(str(tiny_encoder), 30, 16)
    assert capfd.readouterr().err == ""
    assert transformers_logging.is_progress_bar_enabled()


def test_the_neighbour_of_a_misspelt_folder_is_asked_after(tiny_encoder: Path) -> None:
    with pytest.raises(UserError, match="is not a folder; did you mean .*tiny"):
        encoder_features(f"{tiny_encoder.parent}/tinny", 30, 16)
