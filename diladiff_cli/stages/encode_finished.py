"""``encode`` once more: whether the data set in its folder is what it would write, or another, which it must leave."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diladiff_cli.config import EncodeConfig
from diladiff_cli.data.files import find_files
from diladiff_cli.data.shards import well_formed
from diladiff_cli.data.text import Piece, iter_pieces
from diladiff_cli.data.tokenizer import same_tokenizer
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM, CONFIG_FILE, file_hash, read_sealed
from diladiff_cli.notes import say
from diladiff_cli.runtime.resume import differences
from diladiff_cli.tokenizer_files import check_tokenizer

END = b"\xff"  # of a document; no part of any text in UTF-8
MAX_NAMES = 3  # of sources that are shown
REMEDY = "repeat what it was made with, use --fresh to replace it, or another --out"


@dataclass
class TextHash:
    """SHA-256 of documents, in whatever pieces and files they come."""

    _digest: Any = field(default_factory=hashlib.sha256)

    def of(self, pieces: Iterable[Piece]) -> Iterator[Piece]:
        """The pieces as they are, each entered as it passes."""
        for piece in pieces:
            self._digest.update(piece.text.encode(errors="replace"))
            if piece.last:
                self._digest.update(END)
            yield piece

    def value(self) -> str:
        """In hexadecimal, of all that has passed."""
        return str(self._digest.hexdigest())


def _hash_of(sources: Sequence[str], field: str) -> str:
    text_hash = TextHash()
    for _ in text_hash.of(iter_pieces(sources, field)):
        pass
    return text_hash.value()


def finished_data(
    config: EncodeConfig, text: Sequence[str], valid: Sequence[str], out: Path, dry_run: bool = False
) -> dict[str, Any] | None:
    """The record of a data set that is what :func:`~diladiff_cli.stages.encode.encode_text` would write.

    Text is compared by what it says, wherever it lies now; a Hub data set by its name. Text beside a Hub data set
    counts as other text.

    Args:
        config: As of that function.
        text: Its text sources.
        valid: Those of the validation split.
        out: Folder of the data set.
        dry_run: Leave standard input alone, of which then nothing is known.

    Returns:
        Its config.json; None where there is none, or where one of the same sources is damaged.

    Raises:
        UserError: Another data set is there, which models may build on.
    """
    try:
        stored = read_sealed(out / CONFIG_FILE)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{out / CONFIG_FILE} is damaged ({error})", "use --fresh to encode again") from error
    settings, wanted = stored.get("settings"), config.to_dict()
    stored_settings = dict(settings) if isinstance(settings, Mapping) else {}
    own_tokenizer = Path(config.tokenizer).expanduser().is_dir()  # compared by what it is, wherever it lies now
    if own_tokenizer:
        stored_settings["tokenizer"] = config.tokenizer
    if changed := differences(stored_settings, wanted):
        raise UserError(f"{out} holds a data set with other settings ({', '.join(changed.values())})", REMEDY)
    sources = [*text, *valid]
    hashes = stored.get("text_hashes", {})  # none in a damaged record
    on_hub = [source for source in sources if source != "-" and find_files(source) is None]
    if on_hub:
        recorded = [stored.get("sources"), stored.get("valid_sources")]
        same = recorded == [sources, [*valid]] and len(on_hub) == len(sources)
    elif dry_run and "-" in sources:
        same = True
    else:
        sides = {"text": text, "valid": valid}
        same = all(_hash_of(given, config.text_field) == hashes.get(side) for side, given in sides.items())
    if not same:
        names = [str(name) for name in stored.get("sources") or ()]
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise UserError(f"{out} holds a data set of other text (it had {', '.join(names[:MAX_NAMES])}{more})", REMEDY)
    if not _is_whole(out, stored):
        if "-" in sources:  # which is read by now
            raise UserError(f"{out} is damaged", "use --fresh to encode again")
        if not dry_run:
            say(f"{out} is damaged: encoding it again")
        return None
    if own_tokenizer and not same_tokenizer(config.tokenizer, out):
        raise UserError(f"{out} holds a data set of another tokenizer than that in {config.tokenizer}", REMEDY)
    return {name: value for name, value in stored.items() if name != CHECKSUM}


def _is_whole(out: Path, stored: Mapping[str, Any]) -> bool:
    """Whether the shards and the tokenizer are those recorded."""
    if not well_formed(stored.get("splits")):
        return False
    shards = [shard for split in stored["splits"].values() for shard in split["shards"]]
    try:
        check_tokenizer(out)
        return all(file_hash(out / Path(shard["file"]).name) == shard.get("sha256") for shard in shards)
    except (OSError, UserError):
        return False
