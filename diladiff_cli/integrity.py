"""Whether files are still what was written: checksums in JSON documents, hashes of files, and strict reading.

Every ``config.json`` and ``state.json`` begins with a ``checksum`` of its own content, and lists the SHA-256 of the
files that it vouches for. Folders that are older than this have no such entries, and are read without those checks.
Neither is a signature: they tell damage, not forgery. Who changes a ``config.json`` on purpose deletes its checksum.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diladiff_cli.errors import UserError

CHECKSUM = "checksum"
CONFIG_FILE = "config.json"
# What transformers reads tokenizers from.
TOKENIZER_FILES = (
    *("tokenizer*", "vocab*", "merges*", "special_tokens*", "added_tokens*", "chat_template*", "chat_templates/*"),
    *("*.model", "*.spm", "*.tiktoken", "*.jinja", "tekken.json"),
)
NO_TOKENIZER = "give one with a tokenizer.json, a Hub id that can be reached, or train:8192"
MOST_BYTES = 1 << 26  # of a JSON document
MOST_DEPTH = 100  # of its nesting
CHANGED = f"it was changed since it was written; where that was meant, delete its {CHECKSUM}"


def finite(value: Any) -> Any:
    """The value with null in place of infinities and NaN, for which JSON has no words."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value


def checksum(values: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object's content, whatever its layout; its own entry does not count."""
    text = json.dumps({k: v for k, v in values.items() if k != CHECKSUM}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> str:
    """A JSON document with its checksum in the first place; numbers that are not finite become null."""
    plain = json.loads(json.dumps(finite({k: v for k, v in values.items() if k != CHECKSUM})))
    return json.dumps({CHECKSUM: checksum(plain)} | plain, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, read strictly.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, too long, nested too deep, or holds no object, or has a checksum and yet NaN
            or infinity, which read as null in documents that are older than checksums.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is no file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is longer than {MOST_BYTES} bytes")
    odd: list[str] = []

    def number(text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        odd.append(text)
        return None

    try:
        found = json.loads(path.read_bytes().decode(), parse_constant=number, parse_float=number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    if odd and CHECKSUM in found:
        raise ValueError(f"{odd[0]} is no number")
    _check_depth(found)
    return found


def _check_depth(values: dict[str, Any]) -> None:
    level: list[Any] = [values]
    for _ in range(MOST_DEPTH):
        inner = [v.values() if isinstance(v, dict) else v for v in level]
        level = [v for items in inner for v in items if isinstance(v, dict | list)]
    if level:
        raise ValueError("it is nested too deep")


def read_sealed(path: Path) -> dict[str, Any]:
    """:func:`read_json`, and a comparison with the checksum where there is one.

    Raises:
        OSError: The file cannot be read.
        ValueError: It holds no JSON object, or another than was written.
    """
    values = read_json(path)
    if CHECKSUM in values and values[CHECKSUM] != checksum(values):
        raise ValueError(CHANGED)
    return values


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def tokenizer_folder(folder: Path) -> Path:
    """Where an artifact or a data set has its tokenizer: beside its other files, in format 1 in a folder of its own."""
    inside = folder / "tokenizer"
    return inside if inside.is_dir() and not (folder / "tokenizer_config.json").exists() else folder


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    """The files of a folder, by name, that a tokenizer is made of.

    Raises:
        OSError: One cannot be read.
    """
    found = {path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()}
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(found)}


def read_tokenizer(folder: Path) -> dict[str, bytes]:
    """:func:`tokenizer_files`, compared with the hashes in the ``config.json`` of the artifact or data set they are in.

    What lies in another folder, or in an older one, which has no hashes, is not compared.

    Raises:
        UserError: A file is missing, was changed, or was put there, or that config.json is damaged; names it.
    """
    home = folder.parent if folder.name == "tokenizer" else folder
    table, remedy = _recorded_tokenizer(home / CONFIG_FILE), f"restore it, or make {home} again"
    try:
        found = tokenizer_files(folder)
        if table is not None:
            found |= {name: (folder / name).read_bytes() for name in table if _is_file_inside(folder, name)}
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read ({error.strerror})", remedy) from error
    if not found:
        raise UserError(f"the folder {folder} holds no tokenizer", NO_TOKENIZER)
    return found if table is None else _compared(found, table, folder, remedy)


def _is_file_inside(folder: Path, name: str) -> bool:
    inside = "\0" not in name and not Path(name).is_absolute() and ".." not in Path(name).parts
    return inside and (folder / name).is_file()


def _compared(found: dict[str, bytes], table: Mapping[str, str], folder: Path, remedy: str) -> dict[str, bytes]:
    for name, wanted in table.items():
        if name not in found:
            raise UserError(f"{folder / name} is missing", remedy)
        if hash_of(found[name]) != wanted:
            raise UserError(f"{folder / name} is damaged: its hash is not the one in {CONFIG_FILE}", remedy)
    for name in found.keys() - table.keys():
        raise UserError(f"{folder / name} was not there when {CONFIG_FILE} was written", f"remove it, or {remedy}")
    return found


def write_tokenizer(folder: Path, files: Mapping[str, bytes]) -> None:
    """Put a tokenizer's files, by name, into a folder."""
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _recorded_tokenizer(config: Path) -> dict[str, str] | None:
    """The hashes of its files in a config.json; None where that is missing, older or of something else.

    Raises:
        UserError: It is damaged.
    """
    try:
        values = read_sealed(config)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({error})", "restore it, or make the folder again") from error
    table = values.get("tokenizer")
    return table if "stage" in values and isinstance(table, dict) else None


def log_record(path: Path) -> dict[str, Any]:
    """What a log that still grows holds now: its ``bytes`` and their ``sha256``."""
    raw = path.read_bytes()
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def check_log(path: Path) -> None:
    """Compare the begin of a log with what the ``config.json`` beside it recorded, where it did.

    Raises:
        UserError: The log was cut or changed, or that config.json is damaged; names it.
    """
    config, remedy = path.parent / CONFIG_FILE, "restore it, or start over with --fresh"
    try:
        record = read_sealed(config).get("log")
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:
        raise UserError(f"{config} cannot be read ({error})", remedy) from error
    if not isinstance(record, dict):
        return
    size = record.get("bytes")
    try:
        with path.open("rb") as file:
            begin = file.read(size) if type(size) is int and 0 <= size <= path.stat().st_size else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", remedy) from error
    if begin is None or hashlib.sha256(begin).hexdigest() != record.get("sha256"):
        raise UserError(f"{path} is damaged: it does not begin with what {CONFIG_FILE} recorded", remedy)
