"""Tokenizers: loaded, or trained on the spot; all have a mask token and a document separator."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from diladiff_cli.errors import UserError, first_line, is_out_of_memory, meant_instead
from diladiff_cli.hub import names_a_path
from diladiff_cli.integrity import read_json
from diladiff_cli.notes import say
from diladiff_cli.tokenizer_files import (
    NO_TOKENIZER,
    VOCABULARIES,
    check_tokenizer,
    read_tokenizer,
)

MASK_TOKEN = "<|mask|>"
SEPARATOR_TOKEN = "<|endoftext|>"
TRAINED = ("PreTrainedTokenizerFast", "TokenizersBackend")  # what versions of transformers call what is trained here
TRAINING_CHARACTERS = 200_000_000  # enough for merges; keeps memory bounded on large corpora

_importing = Lock()  # transformers imports its parts lazily, which fails in threads that come at once


def train_size(spec: str) -> int | None:
    """The vocabulary size of ``train:SIZE``, or None for the name of an existing tokenizer."""
    return int(spec.removeprefix("train:")) if spec.startswith("train:") else None


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Any:
    """Byte-level BPE with ``vocab_size`` tokens at most, mask and separator included; any text round-trips."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR_TOKEN, MASK_TOKEN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_head(documents, TRAINING_CHARACTERS), trainer)
    build: Any = PreTrainedTokenizerFast  # untyped upstream
    return build(
        tokenizer_object=core, eos_token=SEPARATOR_TOKEN, mask_token=MASK_TOKEN, clean_up_tokenization_spaces=False
    )


def _head(documents: Iterable[str], characters: int) -> Iterable[str]:
    for document in documents:
        yield document[:characters]
        characters -= len(document)
        if characters <= 0:
            return


def load_tokenizer(spec: str | Path) -> Any:
    """A tokenizer from a Hub id or folder, given a mask token and a separator where it has none of its own.

    No code of its repository or folder is run. The files of a folder inside an artifact or a data set are compared with
    the hashes recorded there.

    Raises:
        UserError: It cannot be had, or is damaged.
    """
    folder = Path(spec).expanduser()
    if folder.is_dir():
        check_tokenizer(folder)
        if not any(next(folder.glob(pattern), None) for pattern in VOCABULARIES):
            raise UserError(f"the folder {spec} holds no tokenizer", NO_TOKENIZER)
        spec = folder
    elif folder.is_file():
        raise UserError(f"the tokenizer {spec} is a file", "give the folder that it lies in")
    elif ":" in str(spec):
        raise UserError(f"{spec} is neither a tokenizer's folder nor its Hub id", "for one of your own give train:8192")
    elif names_a_path(str(spec)):
        raise UserError(f"there is no folder {spec} with a tokenizer", meant_instead(folder, NO_TOKENIZER, Path.is_dir))
    else:
        say(f"asking the Hub for the tokenizer {spec}")  # which without a network takes a minute to fail
    with _importing:
        kind = _kind_of(folder)
    try:
        tokenizer = kind.from_pretrained(str(spec), trust_remote_code=False)
    except Exception as error:  # missing, unreachable or damaged: transformers raises many kinds
        remedy = "give a Hub id that can be reached, a folder, or train:8192"
        remedy = remedy if folder.is_dir() else meant_instead(folder, remedy, Path.is_dir)
        raise UserError(f"the tokenizer {spec} cannot be loaded ({first_line(error)})", remedy) from error
    if tokenizer.mask_token_id is None or tokenizer.mask_token_id == find_separator(tokenizer):
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    if find_separator(tokenizer) is None:
        tokenizer.add_special_tokens({"eos_token": SEPARATOR_TOKEN})
    return tokenizer


def _kind_of(folder: Path) -> Any:
    """The class that loads a tokenizer; for those trained here their own, without the import of all to choose from."""
    with suppress(OSError, ValueError):
        config = read_json(folder / "tokenizer_config.json")
        own = {"mask_token": MASK_TOKEN, "eos_token": SEPARATOR_TOKEN}
        if own.items() <= config.items() and config.get("tokenizer_class") in TRAINED:
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def same_tokenizer(first: str | Path, second: str | Path) -> bool:
    """Whether the tokenizers of two folders, artifacts or data sets make the same tokens of every text.

    Raises:
        UserError: One cannot be loaded.
    """
    tokenizers = [load_tokenizer(folder) for folder in (first, second)]
    ours, theirs = ((t.backend_tokenizer.to_str(), t.mask_token_id, t.sep_token_id, t.eos_token_id) for t in tokenizers)
    return bool(ours == theirs)


def saved_files(tokenizer: Any) -> dict[str, bytes]:
    """The files that a tokenizer is saved as, by name; each artifact has a copy, so tokenizer.json is made compact.

    Raises:
        UserError: It is of a kind that has no tokenizer.json.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = read_tokenizer(Path(folder))
    if "tokenizer.json" not in files:
        raise UserError(f"{type(tokenizer).__name__} is a tokenizer without a tokenizer.json", "give one that has it")
    compact = json.dumps(json.loads(files["tokenizer.json"]), ensure_ascii=False, separators=(",", ":"))
    return files | {"tokenizer.json": compact.encode()}


def vocabulary_size(tokenizer: Any) -> int:
    """K: all token ids lie below it, though some may be of no token."""
    return 1 + int(max(tokenizer.get_vocab().values()))


def find_separator(tokenizer: Any) -> int | None:
    """The token between documents: the tokenizer's separator, else its end-of-text token, else None."""
    token_id = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    return None if token_id is None else int(token_id)


def separator_id(tokenizer: Any) -> int:
    """:func:`find_separator` of a tokenizer that must have one, as :func:`load_tokenizer`'s have.

    Raises:
        ValueError: It has neither.
    """
    token_id = find_separator(tokenizer)
    if token_id is None:
        raise ValueError("the tokenizer has no separator and no end-of-text token")
    return token_id


def encode_documents(tokenizer: Any, documents: Sequence[str]) -> list[list[int]]:
    """Token ids of each document, the separator at the end, no other special tokens, even where the text spells one.

    Raises:
        UserError: The tokenizer has no token for some of the text, or makes a reserved one of it.
    """
    end = separator_id(tokenizer)
    rows = _token_ids(tokenizer, list(documents))
    reserved = {i for i in (tokenizer.mask_token_id, end) if i is not None}
    if not all(reserved.isdisjoint(row) for row in rows):  # some vocabularies have them as plain words, too
        occurring = {i for row in rows for i in reserved.intersection(row)}
        spelled = _spelled(tokenizer, occurring, reserved)
        rows = [[j for i in row for j in spelled.get(i, (i,))] for row in rows]
    return [[*row, end] for row in rows]


def _token_ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    try:
        rows: list[list[int]] = tokenizer(texts, verbose=False, **options)["input_ids"]
    except Exception as error:  # the library raises no kind of its own
        if is_out_of_memory(error):
            raise
        what = f"the tokenizer {tokenizer.name_or_path} cannot encode the text ({first_line(error)})"
        remedy = "take one that knows all bytes or has a token for what it does not know"
        if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
            remedy = "give text in UTF-8, which has no halves of surrogate pairs"
        raise UserError(what, remedy) from error
    return rows


def _spelled(tokenizer: Any, wanted: set[int], reserved: set[int]) -> dict[int, list[int]]:
    """Token ids that spell some of the reserved tokens, by their id: of the first letter, and of the rest.

    Raises:
        UserError: A part of one is a reserved token itself.
    """
    words = {i: tokenizer.convert_ids_to_tokens(i) for i in sorted(wanted)}
    parts = {i: _token_ids(tokenizer, [word[:1], word[1:]]) for i, word in words.items()}
    spellings = {i: [*first, *rest] for i, (first, rest) in parts.items()}
    if odd := [words[i] for i, ids in spellings.items() if not reserved.isdisjoint(ids)]:
        raise UserError(f"the tokenizer {tokenizer.name_or_path} makes {odd[0]} of plain text", "take another")
    return spellings


def decode_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of token ids; a separator becomes a blank line, other special tokens vanish."""
    end = find_separator(tokenizer)
    pieces: list[list[int]] = [[]]
    for i in ids:
        if i == end:
            pieces.append([])
        else:
            pieces[-1].append(int(i))
    return "\n\n".join(tokenizer.decode(piece, skip_special_tokens=True) for piece in pieces)
