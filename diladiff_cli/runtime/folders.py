"""Folders and files that change as a whole: written beside their place, then swapped in."""

import ctypes
import glob
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path

from diladiff_cli.errors import UserError, kind_of, writing
from diladiff_cli.integrity import CONFIG_FILE, read_json

_AT_FDCWD = -100
_SWAP = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
METRICS_FILE = "metrics.jsonl"


def _exchange(a: Path, b: Path) -> bool:
    """Swap two folders atomically, where system and disk can (renameat2 of Linux, renamex_np of macOS)."""
    library, first, second = ctypes.CDLL(None, use_errno=True), os.fsencode(a), os.fsencode(b)
    if hasattr(library, "renameat2"):
        return bool(library.renameat2(_AT_FDCWD, first, _AT_FDCWD, second, _SWAP) == 0)
    return hasattr(library, "renamex_np") and bool(library.renamex_np(first, second, _SWAP) == 0)


def real(folder: Path) -> Path:
    """The folder itself, where ``folder`` is a link to it: its content is what changes, the link stays."""
    return Path(os.path.realpath(folder))


def _old_name(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.old"


def partial_name(folder: Path, name: str = "") -> Path:
    """A temporary name beside ``folder`` for what is being written, ending in ``name`` or else at random.

    :func:`recover` removes what a kill leaves there.
    """
    folder = real(folder)
    return folder.parent / f".{folder.name}.partial-{name or uuid.uuid4().hex[:8]}"


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share(path: Path) -> None:
    """Give a file the rights that a new one has; safetensors are written for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """The name of a new file, which takes the place of ``path`` when the block ends without error."""
    partial = partial_name(path)
    try:
        yield partial
        partial.replace(real(path))
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    with replacing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def restore(folder: Path) -> None:
    """Put the old folder back where a two-step swap was cut off. For readers: a writer may be at work."""
    folder = real(folder)
    old = _old_name(folder)
    if old.exists() and not folder.exists():
        with suppress(OSError):  # another reader was faster
            old.rename(folder)


def is_there(folder: Path) -> bool:
    """Whether a folder of this package is there, if need be after :func:`restore`."""
    restore(folder)
    return (folder / CONFIG_FILE).exists()


def recover(folder: Path) -> None:
    """:func:`restore`, and remove leftovers of killed writers. For the next writer, which must be the only one."""
    restore(folder)
    folder = real(folder)
    shutil.rmtree(_old_name(folder), ignore_errors=True)
    remove_leftovers(folder)


def remove_leftovers(place: Path) -> None:
    """Remove what killed writers of a file or folder left beside it. For the next writer, as :func:`recover`."""
    for leftover in place.parent.glob(f".{glob.escape(place.name)}.partial-*"):
        if leftover.is_file():
            leftover.unlink(missing_ok=True)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def check_replaceable(folder: Path, stage: str | None = None, others_stay: bool = False) -> str | None:
    """Refuse to replace what this package did not make: the content would be lost.

    Args:
        folder: Missing, empty, begun by a run, or with the config.json of a stage.
        stage: The only stage that may be replaced; None for any.
        others_stay: Whether files of others stay there: then they may lie beside what a run has begun.

    Returns:
        The stage found there, or None.

    Raises:
        UserError: Something else is there.
    """
    remedy = "move it away or choose another --out"
    if not folder.exists():
        above = next((place for place in folder.parents if place.exists()), None)
        if above is not None and not above.is_dir():
            raise UserError(f"{folder} cannot be made: {above} is not a folder", "choose another --out")
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", remedy)
    if fixed := _holds_fast(real(folder)):
        raise UserError(f"{folder} is {fixed}, so that no other folder can take its place", "name a folder in it")
    try:
        stage_there = read_json(folder / CONFIG_FILE)["stage"]
    except FileNotFoundError as error:
        # What a run writes before its first checkpoint.
        begun = (METRICS_FILE, f".{METRICS_FILE}.partial-*")
        foreign = [path for path in _entries(folder) if not any(fnmatch(path.name, name) for name in begun)]
        if not foreign or (others_stay and (folder / METRICS_FILE).exists()):
            return None
        raise UserError(f"{folder} holds files that are not of diladiff", remedy) from error
    except (OSError, ValueError, LookupError) as error:
        raise UserError(f"{folder} holds a config.json that is not of diladiff, or damaged", remedy) from error
    if stage is not None and stage_there != stage:
        raise UserError(f"{folder} is {kind_of(str(stage_there))}, which {kind_of(stage)} would replace", remedy)
    return str(stage_there)


def _holds_fast(folder: Path) -> str | None:
    """Why a folder cannot be replaced by another one; None where it can."""
    if os.path.ismount(folder):
        return "a mount point"
    with suppress(FileNotFoundError):  # of a current folder that is gone
        if Path.cwd().is_relative_to(folder):
            return "the current folder, or above it"
    return None


@contextmanager
def replacing(folder: Path, stage: str | None = None, ours: Collection[str] = ("*",)) -> Iterator[Path]:
    """A new, empty folder that takes the place of ``folder`` when the block ends without error.

    A kill at any moment leaves the old content or the new one, never a mixture.

    Args:
        folder: See :func:`check_replaceable` for what may be there.
        stage: The only stage that may be replaced; None for any.
        ours: Patterns of the names of what may vanish; all else that lies there is in the new folder as well.

    Raises:
        UserError: The folder cannot be written, or holds something else, or a file that is read inside is gone.
    """
    check_replaceable(folder, stage, others_stay="*" not in ours)
    folder = real(folder)
    partial = partial_name(folder)
    try:
        with writing(folder, partial):
            partial.mkdir(parents=True)
            yield partial
            for path in list(partial.rglob("*")):
                if path.is_file():
                    share(path)
                sync(path)
            # Only now, since much takes long to reach the disk and their owners may go on writing.
            others = [path for path in _entries(folder) if not any(fnmatch(path.name, name) for name in ours)]
            for path in others:
                if not os.path.lexists(partial / path.name):
                    _keep(path, partial / path.name)
            sync(partial)
            take_place(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _keep(path: Path, place: Path) -> None:
    """Have a file, folder or link at another place as well, a file as the same one where rights and disks allow it.

    What vanishes meanwhile is left out.
    """
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            place.mkdir()
            for below in path.iterdir():
                _keep(below, place / below.name)
            shutil.copystat(path, place)
            return
        try:
            os.link(path, place, follow_symlinks=False)
        except FileNotFoundError:
            raise
        except OSError:
            _copy(path, place)


def _copy(path: Path, place: Path) -> None:
    try:
        shutil.copy2(path, place, follow_symlinks=False)
        if not place.is_symlink():
            sync(place)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be kept ({error.strerror or error})", f"move it out of {path.parent}"
        ) from error


def take_place(new: Path, folder: Path) -> None:
    """Put ``new`` where ``folder`` is, and remove that; a kill between leaves one of them, see :func:`recover`."""
    folder = real(folder)
    if not folder.exists():
        new.rename(folder)
    elif _exchange(new, folder):
        shutil.rmtree(new, ignore_errors=True)
    else:
        _take_place_in_two_steps(new, folder)
    with suppress(OSError):
        sync(folder.parent)


def _take_place_in_two_steps(new: Path, folder: Path) -> None:
    old = _old_name(folder)
    while new.exists():
        if old.exists():  # as where NFS keeps files that were open when it was removed
            old.rename(partial_name(folder))
        folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            if not folder.exists():  # else a reader has put the old one back, see restore
                raise
    shutil.rmtree(old, ignore_errors=True)
