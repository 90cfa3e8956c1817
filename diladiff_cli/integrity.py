"""Whether files are still what was written: checksums in JSON documents, hashes of files, and strict reading.

Every ``config.json`` and ``state.json`` begins with a ``checksum`` of its own content, and lists the SHA-256 of the
files that it vouches for. Neither is a signature: they show damage, not forgery. Anyone who edits a ``config.json`` on
purpose must delete its checksum.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diladiff_cli.errors import UserError, reason

CHECKSUM = "checksum"
CONFIG_FILE = "config.json"
MAX_BYTES = 1 << 26  # of a JSON document
MAX_DEPTH = 100  # of its nesting
CHANGED = f"it was changed since it was written; where that was meant, delete its {CHECKSUM}"


def short_hash(digest: str) -> str:
    """The first 12 hexadecimal digits, by which people tell hashes apart."""
    return digest[:12]


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
    return json_hash({k: v for k, v in values.items() if k != CHECKSUM})


def sealed(values: Mapping[str, Any]) -> str:
    """A JSON document with its checksum in the first place; numbers that are not finite become null."""
    plain = json.loads(json.dumps(finite({k: v for k, v in values.items() if k != CHECKSUM})))
    return json.dumps({CHECKSUM: checksum(plain)} | plain, indent=2) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, read strictly.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a regular file, too long, nested too deep, or holds no object. NaN and infinity are read
            as null.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"it is longer than {MAX_BYTES} bytes")
    try:
        values = json.loads(path.read_bytes().decode(), parse_constant=_number, parse_float=_number)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    _check_depth(values)
    return values


def _number(text: str) -> float | None:
    return finite(float(text))


def _check_depth(values: dict[str, Any]) -> None:
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
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


def read_config(file: Path, remedy: str, read: Callable[[Path], dict[str, Any]] = read_sealed) -> dict[str, Any] | None:
    """What a ``config.json`` says; None where there is none.

    Raises:
        UserError: It cannot be read, or is damaged; names it, with ``remedy``.
    """
    try:
        return read(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({reason(error)})", remedy) from error


def json_hash(content: Any) -> str:
    """SHA-256 of what JSON can say, in hexadecimal; the order of keys does not count."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def log_record(path: Path) -> dict[str, Any]:
    """What a log that still grows holds now: its ``bytes`` and their ``sha256``."""
    raw = path.read_bytes()
    return {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}


def check_log(path: Path) -> None:
    """Compare the start of a log with what the ``config.json`` beside it recorded, where it did.

    Raises:
        UserError: The log was cut or changed, or that config.json is damaged; names it.
    """
    remedy = "restore it, or start over with --fresh"
    record = (read_config(path.parent / CONFIG_FILE, remedy) or {}).get("log")
    if not isinstance(record, dict):
        return
    size = record.get("bytes")
    try:
        with path.open("rb") as file:
            start = file.read(size) if type(size) is int and 0 <= size <= path.stat().st_size else None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({reason(error)})", remedy) from error
    if start is None or hashlib.sha256(start).hexdigest() != record.get("sha256"):
        raise UserError(f"{path} is damaged: it does not begin with what {CONFIG_FILE} recorded", remedy)
