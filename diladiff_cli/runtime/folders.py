"""Folders that change as a whole: written beside their place, then swapped in."""

import ctypes
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from diladiff_cli.errors import UserError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders atomically, where the system can (Linux renameat2)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0)


def _old_name(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def recover(folder: Path) -> None:
    """Put the old folder back where a two-step swap was cut off, and remove leftovers of killed writers."""
    old = _old_name(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for leftover in [old, *folder.parent.glob(f".{folder.name}.partial-*")]:
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``folder`` when the block ends without error.

    A kill at any moment leaves the old content or the new one, never a mixture.

    Raises:
        UserError: The folder cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    partial = folder.with_name(f".{folder.name}.partial-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in [p for p in partial.rglob("*")] + [partial]:
            sync(path)
        if not folder.exists():
            partial.rename(folder)
        elif not _exchange(partial, folder):
            old = _old_name(folder)
            folder.rename(old)
            partial.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        with suppress(OSError):
            sync(folder.parent)
    except OSError as error:
        raise UserError(f"cannot write {folder} ({error})", "free space or choose another --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
