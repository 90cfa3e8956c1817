"""Rows of one shape in numbered safetensors files, read through the memory map.

Beside the rows lies a CRC-32 of each, compared whenever that row is read: a start reads no more than headers, however
large the data, and still no damaged row is ever used. (Whole files could not be hashed: in a random order, the first
batch touches all of them.)
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from errno import EMFILE, ENFILE
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from diladiff_cli.errors import UserError
from diladiff_cli.integrity import file_hash

SHARD_BYTES = 1 << 26
MAX_SHARDS = 1 << 12  # of data whose size is known beforehand: each is a file that stays open, and a memory map
CHECKSUMS = "checksums"
TOO_MANY = ("the shards are more files than may be open at once", "allow more: ulimit -n")
SPARE_FILES = 64  # that any limit leaves room for


def shard_name(split: str, number: int) -> str:
    """File name of a shard."""
    return f"{split}-{number:05d}.safetensors"


def rows_per_shard(row_bytes: int, total_bytes: int = 0) -> int:
    """How many rows of so many bytes make a shard, of data of about a known size."""
    return max(1, max(SHARD_BYTES, total_bytes // MAX_SHARDS) // row_bytes)


def row_sum(row: np.ndarray) -> int:
    """CRC-32 of a row's bytes."""
    return zlib.crc32(row.data)


def write_shard(path: Path, rows: np.ndarray, key: str) -> dict[str, Any]:
    """Write rows as one shard, whole or not at all.

    Returns:
        Its record: file name, number of rows, SHA-256, and the CRC-32 of its checksums.
    """
    partial = path.with_name(f".{path.name}.partial")
    rows = np.ascontiguousarray(rows)
    try:
        sums = np.fromiter(map(row_sum, rows), dtype=np.uint32, count=len(rows))
        # Not save_file: it writes to a name of its own first, which a kill would leave there.
        partial.write_bytes(save({key: rows, CHECKSUMS: sums}))
        digest = file_hash(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return {"file": path.name, "rows": len(rows), "sha256": digest, CHECKSUMS: row_sum(sums)}


def is_whole(path: Path) -> bool:
    """Whether a shard can be opened and has the size that its header states; its rows are not read."""
    try:
        with safe_open(path, framework="np"):
            return True
    except (OSError, SafetensorError):
        return False


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
        self.rows_per_shard = rows_per_shard(row_bytes)
        self.records: list[dict[str, Any]] = []
        self._pending: np.ndarray | None = None  # room for a shard, filled up to _count
        self._count = 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows (n, ...)."""
        if self._pending is None:
            self._pending = np.empty((self.rows_per_shard, *rows.shape[1:]), rows.dtype)
        while len(rows):
            part = rows[: self.rows_per_shard - self._count]
            self._pending[self._count : self._count + len(part)] = part
            self._count += len(part)
            rows = rows[len(part) :]
            if self._count == self.rows_per_shard:
                self._write(self._pending)

    def close(self) -> list[dict[str, Any]]:
        """Write what is left; returns the records of all shards."""
        if self._pending is not None and self._count:
            self._write(self._pending)
        return self.records

    def _write(self, pending: np.ndarray) -> None:
        path = self.folder / shard_name(self.split, len(self.records))
        self.records.append(write_shard(path, pending[: self._count], self.key))
        self._count = 0


class Shards:
    """The rows of a split, by number.

    Args:
        folder: Where the shards are.
        record: The split's part of config.json, with ``shards``.
        key: Name of the tensor in each file.
        row_shape: Of every row; None for any.
        dtypes: What the rows may consist of, in the words of safetensors; empty for anything.

    Raises:
        UserError: A shard is missing, damaged, or holds other rows than recorded; names it.
    """

    def __init__(
        self,
        folder: Path,
        record: Mapping[str, Any],
        key: str,
        row_shape: tuple[int, ...] | None = None,
        dtypes: Sequence[str] = (),
    ) -> None:
        self._stack = ExitStack()
        self._wanted = key, row_shape, dtypes
        self._paths = [folder / Path(shard["file"]).name for shard in record["shards"]]
        counts = [shard["rows"] for shard in record["shards"]]
        _allow_open_files(len(counts))
        self._files = [self._open(path, rows) for path, rows in zip(self._paths, counts, strict=True)]
        dtypes_of = [opened.get_slice(key)[:0].dtype for opened in self._files]
        if len(set(dtypes_of)) > 1:
            raise UserError(f"the shards in {folder} hold different kinds of numbers", self._remedy(self._paths[-1]))
        self._rows = [_mapped(path, key, dtype) for path, dtype in zip(self._paths, dtypes_of, strict=True)]
        self._sums: dict[int, np.ndarray] = {}  # of the shards read from so far
        self._sums_of_sums = [shard[CHECKSUMS] for shard in record["shards"]]
        self._ends = np.cumsum(np.array(counts, dtype=np.int64))

    def _open(self, path: Path, count: int) -> Any:
        """A shard whose header is as it should be; its size is checked by safetensors."""
        key, row_shape, dtypes = self._wanted
        remedy = self._remedy(path)
        try:
            opened = self._stack.enter_context(safe_open(path, framework="np"))
            rows = opened.get_slice(key)
        except (OSError, SafetensorError) as error:
            # So safetensors puts it where too many are open.
            if isinstance(error, FileNotFoundError) and path.is_file():
                raise UserError(*TOO_MANY) from error
            raise UserError(f"{path} is missing or damaged ({error})", remedy) from error
        shape, dtype = tuple(rows.get_shape()), rows.get_dtype()
        if shape[:1] != (count,):
            raise UserError(f"{path} has {shape[0] if shape else 0} rows, recorded are {count}", remedy)
        if (row_shape is not None and shape[1:] != row_shape) or (dtypes and dtype not in dtypes):
            raise UserError(f"{path} is damaged: its rows are {dtype} of shape {shape[1:]}", remedy)
        return opened

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """The rows of those numbers, in their order: (B, ...).

        Raises:
            IndexError: There is no such row.
            UserError: A row is damaged; names its file.
        """
        numbers = np.asarray(rows, dtype=np.int64)
        outside = (numbers < 0) | (numbers >= len(self))
        if outside.any():
            raise IndexError(f"no row {numbers[outside][0]} among {len(self)}")
        shards = np.searchsorted(self._ends, numbers, side="right")
        gathered = np.empty((len(numbers), *self._rows[0].shape[1:]), self._rows[0].dtype)
        for shard in np.unique(shards).tolist():
            mine = shards == shard
            places = numbers[mine] - (self._ends[shard - 1] if shard else 0)
            values = self._rows[shard][places]
            self._check(shard, places, values)
            gathered[mine] = values
        return gathered

    def _remedy(self, path: Path) -> str:
        latents = self._wanted[0] == "latents"  # of which encode --ae makes those that are missing
        return f"remove {path.name} and repeat encode --ae" if latents else "run encode again"

    def _checksums(self, shard: int) -> np.ndarray:
        """The checksums of a shard's rows, which must be the recorded ones: else it is another shard."""
        opened, recorded = self._files[shard], self._sums_of_sums[shard]
        sums = opened.get_tensor(CHECKSUMS) if CHECKSUMS in opened.keys() else None  # noqa: SIM118
        if sums is None or row_sum(sums) != recorded:
            path = self._paths[shard]
            raise UserError(f"{path} is not the shard that was written: its checksums differ", self._remedy(path))
        return sums

    def _check(self, shard: int, places: np.ndarray, rows: np.ndarray) -> None:
        if shard not in self._sums:
            self._sums[shard] = self._checksums(shard)
        sums = self._sums[shard]
        changed = np.ones(len(rows), dtype=bool)
        if sums.shape == (len(self._rows[shard]),):
            changed = sums[places] != np.fromiter(map(row_sum, rows), dtype=np.uint32, count=len(rows))
        if changed.any():
            path = self._paths[shard]
            raise UserError(f"{path} is damaged: row {places[changed][0]} has changed", self._remedy(path))


def _mapped(path: Path, key: str, dtype: np.dtype[Any]) -> np.ndarray:
    """A tensor of a safetensors file with a sound header, memory-mapped: many of its rows can be taken at once."""
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            record = json.loads(file.read(header))[key]
        return np.memmap(path, dtype, "r", 8 + header + record["data_offsets"][0], tuple(record["shape"]))
    except OSError as error:
        if error.errno in (EMFILE, ENFILE):
            raise UserError(*TOO_MANY) from error
        raise


def _allow_open_files(further: int) -> None:
    """Raise this process's own limit on open files, as far as the system lets it: each shard takes one."""
    try:
        import resource
    except ImportError:  # on Windows, which has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if further <= SPARE_FILES or soft == resource.RLIM_INFINITY:
        return
    wanted = soft + further  # beside what is open, and what other data sets of this process take
    with suppress(ValueError, OSError):
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def well_formed(splits: Any) -> bool:
    """Whether the splits of a config.json are as :class:`Shards` takes them."""
    if not isinstance(splits, dict) or not splits.keys() >= {"train", "valid"}:
        return False
    shard_lists = [split.get("shards") if isinstance(split, dict) else None for split in splits.values()]
    if not all(isinstance(shards, list) for shards in shard_lists):
        return False
    records = [record for shards in shard_lists if shards is not None for record in shards]
    return all(
        isinstance(r, dict)
        and isinstance(r.get("file"), str)
        and type(r.get(CHECKSUMS)) is int
        and type(r.get("rows")) is int
        and 0 < r["rows"] < 1 << 40
        for r in records
    )
