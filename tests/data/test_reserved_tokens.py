"""Tokenizers with oddities of published ones: masks that are plain words too, and ids with gaps."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.tokenizer import encode_documents, load_tokenizer, vocabulary_size
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.stages.encode import encode_text

LETTERS = "abcdefghijklmnopqrstuvwxyz<>/_"


def unigram(folder: Path, letters: str = LETTERS) -> Any:
    """Of the form that XLM-R has: the mask and the separator are words of the model as well."""
    words = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -9.0) for letter in letters), ("\u2581", -2.0), ("<mask>", 0.0)]
    core = Tokenizer(models.Unigram(words, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = {"mask_token": "<mask>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(folder)
    return load_tokenizer(folder)


@pytest.mark.parametrize("text", ["a <mask> b", "<mask>", "x</s>y<mask><mask>", "<mask</s>>", "a<mas"])
def test_a_mask_that_is_a_plain_word_too_is_spelled(tmp_path: Path, text: str) -> None:
    tokenizer = unigram(tmp_path)
    assert tokenizer.mask_token_id in tokenizer("a <mask> b", split_special_tokens=True)["input_ids"]
    for texts in ([text], ["before", text, "after"]):
        rows = encode_documents(tokenizer, texts)
        (row,) = (row for row, given in zip(rows, texts, strict=True) if given == text)
        assert row[-1] == tokenizer.eos_token_id
        assert not {tokenizer.mask_token_id, tokenizer.eos_token_id} & set(row[:-1])
        # A space before the parts of a word, as this kind has it before each piece of text.
        spelled = text.replace("<mask>", " < mask>").replace("</s>", " < /s>")
        assert tokenizer.decode(row[:-1]).split() == spelled.split()


def test_a_text_without_such_words_is_as_it_was(tmp_path: Path) -> None:
    tokenizer = unigram(tmp_path)
    (row,) = encode_documents(tokenizer, ["some plain words"])
    assert row[:-1] == tokenizer("some plain words", add_special_tokens=False)["input_ids"]


def test_only_what_occurs_has_to_be_spelled(tmp_path: Path) -> None:
    words = [("<unk>", 0.0), ("|", -1.0), *((letter, -9.0) for letter in LETTERS), ("\u2581", -2.0), ("<mask>", 0.0)]
    core = Tokenizer(models.Unigram(words, unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {"mask_token": "<mask>", "eos_token": "|", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    (row,) = encode_documents(tokenizer, ["a <mask> b"])
    assert tokenizer.mask_token_id not in row
    with pytest.raises(UserError, match=r"makes \| of plain text"):
        encode_documents(tokenizer, ["a | b"])


def test_a_mask_that_cannot_be_spelled_is_told(tmp_path: Path) -> None:
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "m": 1, "s": 2}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"mask_token": "m", "eos_token": "s", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="makes m of plain text"):
        encode_documents(load_tokenizer(tmp_path), ["x m x"])


@pytest.mark.parametrize(("beyond", "fits"), [(300, True), (70_007, False)])
def test_ids_may_have_gaps(tmp_path: Path, beyond: int, fits: bool) -> None:
    words = {word: i for i, word in enumerate(["[UNK]", "[SEP]", "[MASK]", "a", "b"])} | {"far": beyond}
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"mask_token": "[MASK]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert vocabulary_size(tokenizer) == beyond + 1
    (tmp_path / "t.txt").write_text("a b far a b a a far\n\n" * 40)
    config = EncodeConfig(tokenizer=str(tmp_path / "tokenizer"), length=8, valid_share=0.3)
    if not fits:
        with pytest.raises(UserError, match="has 6 tokens, with ids up to 70007; give one whose ids have no such gaps"):
            encode_text(config, text=tmp_path / "t.txt", out=tmp_path / "data")
        return
    record = encode_text(config, text=tmp_path / "t.txt", out=tmp_path / "data")
    assert record["vocab_size"] == beyond + 1
    blocks = open_tokens(tmp_path / "data").split("train").gather([0, 1])
    assert int(blocks.max()) == beyond
    assert json.loads((tmp_path / "data" / "config.json").read_text())["mask_id"] == 2


def test_large_ids_of_a_small_vocabulary_are_whole(tmp_path: Path) -> None:
    words = {word: i for i, word in enumerate(["[UNK]", "[SEP]", "[MASK]", "a"])} | {"far": 70_007}
    words |= {f"word-{i:05d}": i for i in range(10, 7_000)}  # so that a gap is not all there is
    core = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"mask_token": "[MASK]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "t.txt").write_text("a far a a a far a far\n\n" * 40)
    config = EncodeConfig(tokenizer=str(tmp_path / "tokenizer"), length=9, valid_share=0.3)
    encode_text(config, text=tmp_path / "t.txt", out=tmp_path / "data")
    (block,) = open_tokens(tmp_path / "data").split("train").gather([0]).tolist()
    assert block == [3, 70_007, 3, 3, 3, 70_007, 3, 70_007, 1]


def test_a_mask_that_separates_documents_as_well_gets_one_of_its_own(tmp_path: Path) -> None:
    core = Tokenizer(models.WordLevel({"<end>": 0, "<unk>": 1, "a": 2, "b": 3}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"mask_token": "<end>", "eos_token": "<end>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=core, **special).save_pretrained(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert (tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 4)
    (tmp_path / "a.txt").write_text("\n\n".join(["a b a b"] * 40))
    config = EncodeConfig(tokenizer=str(tmp_path / "tokenizer"), length=4, valid_share=0.25)
    encode_text(config, text=str(tmp_path / "a.txt"), out=tmp_path / "data")
    tokens = open_tokens(tmp_path / "data")
    assert (tokens.separator_id, tokens.mask_id, tokens.vocab_size) == (0, 4, 5)
    assert set(tokens.split("train").gather(range(8)).flatten().tolist()) == {0, 2, 3}
