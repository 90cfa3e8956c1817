"""Rows of one shape in numbered safetensors files, read through the memory map."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from diladiff_cli.errors import UserError

SHARD_BYTES = 1 << 26


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.safetensors"


def write_shard(path: Path, rows: np.ndarray, key: str) -> dict[str, Any]:
    """Write rows as one shard; returns its record: file name, number of rows and SHA-256."""
    partial = path.with_name(f".{path.name}.partial")
    save_file({key: np.ascontiguousarray(rows)}, partial)
    with partial.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    partial.replace(path)
    return {"file": path.name, "rows": len(rows), "sha256": digest}


class ShardWriter:
    """Collects rows and writes a shard whenever one is full.

    Args:
        folder: Where the shards go.
        split: First part of their names.
        key: Name of the tensor in each file.
        row_bytes: Size of a row.
    """

    def __init__(self, folder: Path, split: str, key: str, row_bytes: int) -> None:
        self.folder, self.split, self.key = folder, split, key
        self.rows_per_shard = max(1, SHARD_BYTES // row_bytes)
        self.records: list[dict[str, Any]] = []
        self._pending: list[np.ndarray] = []

    def add(self, row: np.ndarray) -> None:
        """Append one row."""
        self._pending.append(row)
        if len(self._pending) == self.rows_per_shard:
            self._write()

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; returns the records of all shards."""
        if self._pending:
            self._write()
        return self.records

    def _write(self) -> None:
        path = self.folder / shard_name(self.split, len(self.records))
        self.records.append(write_shard(path, np.stack(self._pending), self.key))
        self._pending = []


class Shards:
    """The rows of a split, by number.

    Args:
        folder: Where the shards are.
        record: The split's part of config.json, with ``shards``.
        key: Name of the tensor in each file.

    Raises:
        UserError: A shard is missing, damaged, or has another number of rows than recorded.
    """

    def __init__(self, folder: Path, record: Mapping[str, Any], key: str) -> None:
        self._stack = ExitStack()
        self._slices: list[Any] = []
        counts = []
        for shard in record["shards"]:
            path = folder / Path(shard["file"]).name
            try:
                opened = self._stack.enter_context(safe_open(path, framework="np"))
                rows = opened.get_slice(key)
            except (OSError, SafetensorError) as error:
                raise UserError(f"{path} is missing or damaged ({error})", "run encode again") from error
            if rows.get_shape()[0] != shard["rows"]:
                raise UserError(
                    f"{path} has {rows.get_shape()[0]} rows, recorded are {shard['rows']}", "run encode again"
                )
            self._slices.append(rows)
            counts.append(shard["rows"])
        self._ends = np.cumsum(np.array(counts, dtype=np.int64))

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of those numbers, in their order: (B, ...).

        Raises:
            IndexError: There is no such row.
        """
        found = []
        for row in np.asarray(rows, dtype=np.int64):
            if not 0 <= row < len(self):
                raise IndexError(f"no row {row} among {len(self)}")
            shard = int(np.searchsorted(self._ends, row, side="right"))
            place = int(row - (self._ends[shard - 1] if shard else 0))
            found.append(self._slices[shard][place : place + 1])
        return np.concatenate(found)
