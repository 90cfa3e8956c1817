"""The files of a tokenizer, which lie among those of an artifact or a data set, whose config.json has their hashes."""

from collections.abc import Mapping
from pathlib import Path

from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CONFIG_FILE, file_hash, read_config

# Without any of these files, some kinds of tokenizers are made empty, of a model's config.json alone.
VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.spm", "*.tiktoken", "tekken.json")
# All that transformers reads tokenizers from.
PATTERNS = (
    *VOCABULARIES,
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "normalizer.json"),
    *("chat_template*", "additional_chat_templates/*"),
)
MAX_BYTES = 1 << 28  # of a file; the largest tokenizers have some 40 MB
NO_TOKENIZER = "give one with a tokenizer.json, a Hub id that can be reached, or train:8192"


def tokenizer_paths(home: Path) -> dict[str, Path]:
    """The files, by name, that the tokenizer of an artifact, a data set or a folder of its own is made of."""
    paths = {path for pattern in PATTERNS for path in home.glob(pattern) if path.is_file()}
    return {path.relative_to(home).as_posix(): path for path in sorted(paths)}


def check_tokenizer(home: Path) -> None:
    """Compare the files of a tokenizer with the hashes of the artifact or the data set that they belong to.

    Args:
        home: The artifact, the data set, or the tokenizer's own folder. What belongs to neither is not compared.

    Raises:
        UserError: A file is missing, was changed, was put there or is too large for one of a tokenizer, or the
            config.json with the hashes is damaged; names it.
    """
    _checked(home)


def read_tokenizer(home: Path) -> dict[str, bytes]:
    """The files of a tokenizer, by name, after :func:`check_tokenizer`: a run keeps them, as its parent may change.

    Raises:
        UserError: As that, or there is no tokenizer.
    """
    return {name: path.read_bytes() for name, path in _checked(home).items()}


def write_tokenizer(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """Put the files of a tokenizer, by name, into a folder; returns their SHA-256 by name, for its config.json."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    return {name: file_hash(folder / name) for name in files}


def _checked(home: Path) -> dict[str, Path]:
    remedy = f"restore it, or make {home} again"
    table, paths = _recorded(home), tokenizer_paths(home)
    try:
        for path in paths.values():
            if path.stat().st_size > MAX_BYTES:
                raise UserError(f"{path} is larger than any tokenizer", remedy)
        if table is not None:
            _compare(paths, table, home, remedy)
    except OSError as error:
        raise UserError(f"{error.filename or home} cannot be read ({error.strerror})", remedy) from error
    if not paths:
        raise UserError(f"the folder {home} holds no tokenizer", NO_TOKENIZER)
    return paths


def _compare(paths: Mapping[str, Path], table: Mapping[str, str], folder: Path, remedy: str) -> None:
    for name, wanted in table.items():
        if name not in paths:
            raise UserError(f"{folder / name} is missing", remedy)
        if file_hash(paths[name]) != wanted:
            raise UserError(f"{folder / name} is damaged: its hash is not the one in {CONFIG_FILE}", remedy)
    for name in paths.keys() - table.keys():
        raise UserError(f"{folder / name} was not there when {CONFIG_FILE} was written", f"remove it, or {remedy}")


def _recorded(home: Path) -> dict[str, str] | None:
    """The hashes by name that a config.json has; None where that is missing or of something else."""
    values = read_config(home / CONFIG_FILE, "restore it, or make the folder again") or {}
    table = values.get("tokenizer") if "stage" in values else None
    return table if isinstance(table, dict) else None
