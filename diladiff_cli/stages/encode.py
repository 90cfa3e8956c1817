"""``encode``: text -> packed blocks of tokens, and with an auto-encoder blocks -> standardised latents."""

import hashlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diladiff_cli import __version__
from diladiff_cli.config import EncodeConfig
from diladiff_cli.core.splitmix import mix
from diladiff_cli.data.files import FORMATS, check_apart, check_once, find_files, several, size_of, skipped_kinds
from diladiff_cli.data.shards import ShardWriter
from diladiff_cli.data.text import Piece, ending_by_content, some_pieces
from diladiff_cli.data.tokenizer import (
    encode_documents,
    load_tokenizer,
    saved_files,
    separator_id,
    train_size,
    train_tokenizer,
    vocabulary_size,
)
from diladiff_cli.data.tokens import FORMAT_VERSION, STAGE
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CONFIG_FILE, sealed
from diladiff_cli.notes import say
from diladiff_cli.runtime.folders import check_replaceable, recover, replacing, restore
from diladiff_cli.runtime.locks import sole_writer
from diladiff_cli.runtime.progress import Spinner
from diladiff_cli.runtime.shared_work import map_over_processes, run_on_main
from diladiff_cli.stages.encode_finished import TextHash, finished_data
from diladiff_cli.tokenizer_files import write_tokenizer

DOCUMENTS_AT_ONCE, CHARACTERS_AT_ONCE = 256, 1 << 20
MAX_KINDS = 5  # of skipped files that are named
FEW_HELD_OUT = 16  # blocks
MANY_UNKNOWN = 0.01  # share of tokens that the tokenizer has no better one for


class Packer:
    """Cuts a stream of documents into blocks of L tokens, crossing borders; a last, incomplete block is dropped."""

    def __init__(self, writer: ShardWriter, length: int, dtype: type) -> None:
        self.writer, self.length, self.dtype = writer, length, dtype
        self.documents = self.tokens = self.blocks = 0
        self._rest: list[int] = []

    def add(self, ids: list[int], last: bool = True) -> None:
        """Append one document, its separator included, or a part of one that is not its last."""
        self.documents += last
        self.tokens += len(ids)
        self._rest += ids
        full = len(self._rest) // self.length * self.length
        if full:
            rows: np.ndarray = np.array(self._rest[:full], dtype=self.dtype).reshape(-1, self.length)
            self.writer.add(rows)
            self.blocks += full // self.length
            del self._rest[:full]

    def close(self) -> dict[str, Any]:
        """The split's record for config.json."""
        shards = self.writer.close()
        return {"documents": self.documents, "tokens": self.tokens, "rows": self.blocks, "shards": shards}


def batched(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Lists of pieces that a tokenizer takes at once without much memory."""
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if len(batch) >= DOCUMENTS_AT_ONCE or size >= CHARACTERS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@contextmanager
def rereadable(sources: Sequence[str]) -> Iterator[list[str]]:
    """The sources with standard input copied to a temporary file, since a tokenizer's training reads them first."""
    if "-" not in sources:
        yield list(sources)
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "standard input"
        with copy.open("wb+") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
            file.seek(0)
            copy = copy.rename(copy.with_suffix(ending_by_content(file)))
        yield [str(copy) if source == "-" else source for source in sources]


def encode_text(
    config: EncodeConfig,
    *,
    text: str | Sequence[str],
    valid: str | Sequence[str] = (),
    out: Path | str,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write a token data set, unless it is there already.

    Of several processes the main one reads and writes, and all tokenise.

    Args:
        config: Tokenizer, block length and split.
        text: Text sources, see :func:`diladiff_cli.data.text.iter_pieces`.
        valid: Sources of the validation split; where given, nothing of ``text`` is held out.
        out: Folder of the data set.
        resume: False replaces whatever data set is there, as a whole; otherwise another one is an error.
        dry_run: Only check the inputs.

    Returns:
        The data set's config.json, or the plan of a dry run.

    Raises:
        UserError: A source or the tokenizer cannot be used, there is too little text for one block of a split, or
            ``out`` holds something else, or another run is writing it.
    """
    text, valid = ([str(source) for source in several(sources)] for sources in (text, valid))
    if not text:
        raise UserError("no text was given", "name files, folders, globs, a Hub data set, or - for standard input")
    out = Path(out)

    def lead() -> dict[str, Any]:
        with nullcontext() if dry_run else sole_writer(out):
            return _encode_text(config, text, valid, out, resume, dry_run)

    return run_on_main(lead)


def _encode_text(
    config: EncodeConfig, text: Sequence[str], valid: Sequence[str], out: Path, resume: bool | None, dry_run: bool
) -> dict[str, Any]:
    """:func:`encode_text` on the main process."""
    files = {source: find_files(source) for source in [*text, *valid] if source != "-"}
    check_apart(text, valid, files)
    for side in (text, valid):
        check_once(side, files)
    _tell_skipped(files)
    size = train_size(config.tokenizer)
    restore(out)
    check_replaceable(out, STAGE)
    finished = None if resume is False else finished_data(config, text, valid, out, dry_run)
    if dry_run:
        if size is None:
            load_tokenizer(config.tokenizer)
        counts = {source: "Hub data set" if paths is None else len(paths) for source, paths in files.items()}
        plan = {"stage": STAGE, "settings": config.to_dict(), "files": counts, "out": str(out)}
        return plan | {"finished": finished is not None}
    if finished is not None:
        say(f"{out} is finished; --fresh encodes it again")
        return finished
    for source in (source for source, paths in files.items() if paths is None):
        say(f"asking the Hub for {source}, which is not a file here")  # which without a network takes half a minute
    with nullcontext(list(text)) if size is None else rereadable(text) as sources:
        if size is None:
            tokenizer = load_tokenizer(config.tokenizer)
        else:
            say(f"reading the text, for a tokenizer of {size} tokens")
            pieces = some_pieces(sources, config.text_field, text)
            tokenizer = train_tokenizer((piece.text for piece in pieces), size)
            if len(tokenizer) < size:
                say(f"the tokenizer has {len(tokenizer)} tokens, not {size}: the text has no more words or repetitions")
        recover(out)
        with replacing(out, STAGE) as folder:
            saved = saved_files(tokenizer)
            if (vocabulary := vocabulary_size(tokenizer)) > len(saved["tokenizer.json"]):
                what = f"the tokenizer {config.tokenizer} has {len(tokenizer)} tokens, with ids up to {vocabulary - 1}"
                raise UserError(what, "give one whose ids have no such gaps")
            hashes_of_tokenizer = write_tokenizer(folder, saved)
            hashes = {"text": TextHash(), "valid": TextHash()}
            splits = _pack(config, {"text": (sources, text), "valid": (valid, valid)}, hashes, tokenizer, folder)
            record = _record(config, tokenizer, splits, saved["tokenizer.json"], hashes_of_tokenizer)
            record |= {"sources": [*text, *valid], "valid_sources": [*valid]}
            record |= {"text_hashes": {name: h.value() for name, h in hashes.items()}}
            (folder / CONFIG_FILE).write_text(sealed(record), encoding="utf-8")
    return record


def is_held_out(config: EncodeConfig, number: int) -> bool:
    """Whether document ``number`` belongs to the validation split; known from the seed and the number alone."""
    return mix(config.seed, number) < config.valid_share * (1 << 63)


def _tell_skipped(files: Mapping[str, list[Path] | None]) -> None:
    """Say which files of folders are not text sources."""
    for source in files:
        kinds = skipped_kinds(source)
        if kinds:
            shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(MAX_KINDS))
            more = ", …" if len(kinds) > MAX_KINDS else ""
            say(f"{source}: skipped {kinds.total()} files of other kinds ({shown}{more}); text ends in {FORMATS}")


def _pack(
    config: EncodeConfig,
    sources: Mapping[str, tuple[Sequence[str], Sequence[str]]],
    hashes: Mapping[str, TextHash],
    tokenizer: Any,
    folder: Path,
) -> dict[str, dict[str, Any]]:
    """Write the shards of both splits.

    ``sources`` are those of "text" and of "valid", which are held out, and their names for the user; ``hashes`` get
    their text.
    """
    dtype = np.uint16 if vocabulary_size(tokenizer) <= 1 << 16 else np.uint32
    row_bytes = config.length * np.dtype(dtype).itemsize
    packers = {
        name: Packer(ShardWriter(folder, name, "tokens", row_bytes), config.length, dtype)
        for name in ("train", "valid")
    }
    number, unknown, began = 0, 0, time.monotonic()
    is_unknown = -1 if tokenizer.unk_token_id in (None, separator_id(tokenizer)) else int(tokenizer.unk_token_id)
    with Spinner("encoding", size_of([source for given, _ in sources.values() for source in given])) as spinner:
        for side, (given, names) in sources.items():
            unhashed = some_pieces(given, config.text_field, names, spinner.advance) if given else ()
            pieces = hashes[side].of(unhashed)
            for batch, rows in map_over_processes(partial(_token_rows, tokenizer), batched(pieces)):
                for piece, ids in zip(batch, rows, strict=True):
                    holds = side == "valid" or (not sources["valid"][0] and is_held_out(config, number))
                    packers["valid" if holds else "train"].add(ids if piece.last else ids[:-1], piece.last)
                    number += piece.last
                    unknown += ids.count(is_unknown)
                tokens = sum(p.tokens for p in packers.values())
                rate = tokens / max(time.monotonic() - began, 1e-9)
                spinner.update(f"{number:,} documents, {tokens:,} tokens ({rate:,.0f}/s)")
    for name, packer in packers.items():
        if packer.blocks == 0:
            what = (
                f"the {name} split has {packer.tokens} tokens in {packer.documents} of {number} documents, "
                f"less than one block of {config.length} (in text files blank lines separate documents)"
            )
            if sources["valid"][0]:
                raise UserError(what, "give more text or a smaller --length")
            if number == 1:
                raise UserError(what, "give several documents, or a text for validation with --valid")
            other = "larger" if name == "valid" else "smaller"
            raise UserError(what, f"give more text, a {other} --valid-share, a smaller --length, or --valid")
    if (blocks := packers["valid"].blocks) < FEW_HELD_OUT:
        more = "give more --valid" if sources["valid"][0] else "a larger --valid-share holds out more"
        say(f"{blocks} held-out block{'s' * (blocks > 1)} will say little of a model; {more}")
    share = unknown / sum(p.tokens for p in packers.values())
    if share > MANY_UNKNOWN:
        say(f"{share:.0%} of the tokens are {tokenizer.unk_token}: there is much in the text that the tokenizer lacks")
    return {name: packer.close() for name, packer in packers.items()}


def _token_rows(tokenizer: Any, pieces: Sequence[Piece]) -> list[list[int]]:
    return encode_documents(tokenizer, [piece.text for piece in pieces])


def _record(
    config: EncodeConfig,
    tokenizer: Any,
    splits: dict[str, dict[str, Any]],
    tokenizer_json: bytes,
    tokenizer_hashes: dict[str, str],
) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, split in splits.items():
        digest.update(json.dumps([name, [shard["sha256"] for shard in split["shards"]]]).encode())
    digest.update(tokenizer_json)
    return {
        "stage": STAGE,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "settings": config.to_dict(),
        "length": config.length,
        "vocab_size": vocabulary_size(tokenizer),
        "mask_id": int(tokenizer.mask_token_id),
        "separator_id": separator_id(tokenizer),
        "splits": splits,
        "tokenizer": tokenizer_hashes,
        "fingerprint": digest.hexdigest(),
    }
