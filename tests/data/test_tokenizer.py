import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diladiff_cli.data import tokenizer as tokenizer_module
from diladiff_cli.data.tokenizer import (
    MASK_TOKEN,
    SEPARATOR_TOKEN,
    TRAINED,
    decode_text,
    encode_documents,
    find_separator,
    load_tokenizer,
    saved_files,
    separator_id,
    train_size,
    train_tokenizer,
)
from diladiff_cli.errors import UserError

CORPUS = [
    "the cat sat on the mat and the dog sat on the log",
    "été — ‘quoted’ naïve café",
    "def f(x):\n\treturn x",
] * 20


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def trained() -> Any:
    return train_tokenizer(CORPUS, 300)


@given(text=st.text())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_trained_tokenizer_gives_any_text_back(text: str) -> None:
    tokenizer = _shared()
    (ids,) = encode_documents(tokenizer, [text])
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.mask_token_id not in ids
    assert decode_text(tokenizer, ids[:-1]) == text


_cache: list[Any] = []


def _shared() -> Any:
    if not _cache:
        _cache.append(train_tokenizer(CORPUS, 300))
    return _cache[0]


@pytest.mark.parametrize("size", [258, 270, 300])
def test_the_vocabulary_has_at_most_the_size_asked_for(size: int) -> None:
    tokenizer = train_tokenizer(CORPUS, size)
    assert len(tokenizer) == size
    assert tokenizer.mask_token == MASK_TOKEN
    assert tokenizer.eos_token == SEPARATOR_TOKEN


def test_merges_shorten_the_text_they_were_trained_on(trained: Any) -> None:
    assert len(encode_documents(trained, [CORPUS[0]])[0]) < 0.6 * len(CORPUS[0])


def test_training_stops_reading_when_it_has_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_module, "TRAINING_CHARACTERS", 1000)
    read = []

    def documents() -> Any:
        for i in range(1000):
            read.append(i)
            yield "word " * 20

    train_tokenizer(documents(), 270)
    assert len(read) <= 11


@pytest.mark.parametrize("special", [MASK_TOKEN, SEPARATOR_TOKEN])
def test_special_tokens_written_out_in_a_text_are_only_text(trained: Any, special: str) -> None:
    text = f"before {special} after"
    (ids,) = encode_documents(trained, [text])
    assert {trained.mask_token_id, trained.eos_token_id} & set(ids[:-1]) == set()
    assert decode_text(trained, ids[:-1]) == text


def test_separators_become_blank_lines_and_the_mask_vanishes(trained: Any) -> None:
    first, second = encode_documents(trained, ["one", "two"])
    assert decode_text(trained, [*first, *second[:-1]]) == "one\n\ntwo"
    assert decode_text(trained, [trained.mask_token_id, *first, trained.mask_token_id]) == "one\n\n"
    assert decode_text(trained, []) == ""


def test_a_trained_tokenizer_survives_saving(trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path / "tokenizer")
    loaded = load_tokenizer(tmp_path / "tokenizer")
    assert loaded.get_vocab() == trained.get_vocab()
    assert (loaded.mask_token_id, separator_id(loaded)) == (trained.mask_token_id, separator_id(trained))
    assert encode_documents(loaded, CORPUS[:3]) == encode_documents(trained, CORPUS[:3])
    assert decode_text(loaded, encode_documents(loaded, [" a  b "])[0][:-1]) == " a  b "


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_tokenizer_is_loaded_without_a_search_and_others_as_transformers_finds_them(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import transformers

    if not hasattr(transformers, name):
        pytest.skip(f"this version of transformers has no {name}")
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": name}))
    asked: list[str] = []
    found = transformers.AutoTokenizer.from_pretrained(trained_folder := str(tmp_path))

    def watched(spec: str, **options: Any) -> Any:
        asked.append(spec)
        return found

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", watched)
    loaded = load_tokenizer(tmp_path)
    assert asked == []
    assert (type(loaded), loaded.get_vocab()) == (type(found), found.get_vocab())
    assert loaded.all_special_tokens == found.all_special_tokens
    for special in ("mask_token", "eos_token"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {special: "[ELSE]"}))
        assert load_tokenizer(tmp_path) is found
    assert asked == [trained_folder] * 2


def saved(folder: Path, **specials: str) -> Path:
    """A tokenizer of a few words with the special tokens given."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = ["?", "a", "b", *specials.values()]
    core = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="?"))
    core.pre_tokenizer = Whitespace()
    build: Any = PreTrainedTokenizerFast
    build(tokenizer_object=core, unk_token="?", **specials).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("specials", "size", "mask", "separator"),
    [
        ({"mask_token": "[MASK]", "sep_token": "[SEP]"}, 5, "[MASK]", "[SEP]"),
        ({"mask_token": "[MASK]", "sep_token": "[SEP]", "eos_token": "</s>"}, 6, "[MASK]", "[SEP]"),
        ({"eos_token": "</s>"}, 5, MASK_TOKEN, "</s>"),
        ({"mask_token": "[MASK]"}, 5, "[MASK]", SEPARATOR_TOKEN),
        ({}, 5, MASK_TOKEN, SEPARATOR_TOKEN),
    ],
)
def test_what_a_loaded_tokenizer_lacks_is_added(
    tmp_path: Path, specials: dict[str, str], size: int, mask: str, separator: str
) -> None:
    tokenizer = load_tokenizer(saved(tmp_path, **specials))
    assert len(tokenizer) == size
    assert tokenizer.convert_ids_to_tokens([tokenizer.mask_token_id, separator_id(tokenizer)]) == [mask, separator]
    (ids,) = encode_documents(tokenizer, ["a b"])
    assert ids == [1, 2, separator_id(tokenizer)]
    tokenizer.save_pretrained(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.mask_token_id, separator_id(again)) == (tokenizer.mask_token_id, separator_id(tokenizer))


def test_a_required_separator_that_is_missing_is_an_error() -> None:
    class Bare:
        sep_token_id = eos_token_id = None

    assert find_separator(Bare()) is None
    with pytest.raises(ValueError, match="no separator"):
        separator_id(Bare())


@pytest.mark.parametrize("content", ["{", '{"a": 1}'])
def test_a_tokenizer_that_cannot_be_had_gives_one_line(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"the tokenizer .*tokenizer cannot be loaded \(.+\); give a Hub id") as caught:
        load_tokenizer(folder)
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_not_looked_for_on_the_hub(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    for name in (tmp_path / "tokenizer", "./tokenizer", "ckpt/old/mdlm"):
        with pytest.raises(UserError, match=f"there is no folder {name} with a tokenizer; give one with"):
            load_tokenizer(name)
    trained.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"the tokenizer .*tokenizer.json is a file; give the folder that it lies in"):
        load_tokenizer(tmp_path / "tokenizer.json")


def test_a_tokenizer_of_almost_that_name_is_asked_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no such id")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", unreachable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "words").mkdir(parents=True)
    for name in (tmp_path / "data" / "wrods", "./data/wrods", "data/wrods"):  # the last might be on the Hub
        with pytest.raises(UserError, match=r"; did you mean .*data/words\? Otherwise give "):
            load_tokenizer(name)


def test_what_cannot_be_an_id_is_not_looked_for_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", None)
    with pytest.raises(UserError, match="trian:512 is neither a tokenizer's folder nor its Hub id; for one .*train:"):
        load_tokenizer("trian:512")


def test_text_that_a_tokenizer_has_no_token_for_is_told(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=Tokenizer(WordLevel({"a": 0, "b": 1}))).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert encode_documents(tokenizer, ["a"]) == [[0, separator_id(tokenizer)]]
    with pytest.raises(UserError, match=r"cannot encode the text \(.*UNK.*\); take one that knows all bytes"):
        encode_documents(tokenizer, ["c"])


def test_a_lack_of_memory_is_no_fault_of_the_tokenizer(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(type(trained), "__call__", full)
    with pytest.raises(MemoryError):
        encode_documents(trained, ["a"])


def test_a_tokenizer_is_saved_compactly_and_as_it_is(trained: Any, tmp_path: Path) -> None:
    trained.save_pretrained(tmp_path)
    kept = saved_files(trained)["tokenizer.json"]
    assert json.loads(kept) == json.loads((tmp_path / "tokenizer.json").read_text())
    assert len(kept) < 0.6 * (tmp_path / "tokenizer.json").stat().st_size


def test_a_folder_without_tokenizer_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')  # of which alone an empty tokenizer can be made
    with pytest.raises(UserError, match="holds no tokenizer; give one with a tokenizer.json, a Hub id that can be"):
        load_tokenizer(tmp_path)


def test_the_size_of_a_tokenizer_to_train_is_read_from_its_name() -> None:
    assert train_size("train:8192") == 8192
    assert train_size("train:258") == 258
    assert train_size("bert-base-uncased") is None
