"""The files that a text source names."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from diladiff_cli.errors import UserError, meant_instead, reason
from diladiff_cli.hub import hub_parts, names_a_path
from diladiff_cli.integrity import CONFIG_FILE, read_json

ENDINGS = (".parquet", *(f"{kind}{packed}" for kind in (".txt", ".jsonl", ".json") for packed in ("", ".zst", ".gz")))
FORMATS = ".txt, .jsonl or .json, all of them also packed as .zst or .gz, or .parquet"


def several(given: Any) -> list[Any]:
    """A list of sources or models of which a single one may be given alone; a text is one name, not its letters."""
    return [given] if isinstance(given, str | Path) else list(given)


def ending(path: Path | str) -> str | None:
    """The known ending of a file's name, the longest first; None for other files."""
    name = str(path).lower()
    return next((e for e in sorted(ENDINGS, key=len, reverse=True) if name.endswith(e)), None)


def find_files(source: str) -> list[Path] | None:
    """The files that a source names, in order and each once; None where it names no path but perhaps a Hub data set.

    Links are followed, also in circles. A glob may match folders as well. What lies in a folder is left out where its
    name begins with a dot, and so are folders that this package wrote, such as data sets.

    Raises:
        UserError: A folder without text, a file of an unknown kind, or a path that is not there or cannot be read.
    """
    try:
        path = Path(source).expanduser()
        if path.is_dir():
            files = _distinct(p for p in _walk(path) if ending(p))
            if not files:
                raise UserError(f"the folder {source} holds no text", f"put files there that end in {FORMATS}")
            return files
        if path.is_file():
            files = [path]
        elif any(c in source for c in "*?["):
            files = _distinct(_matches(path))
            if not files:
                raise UserError(f"no file matches {source}", "check the pattern, and quote it")
        elif path.exists():
            raise UserError(f"{source} is neither a file nor a folder", "pipe its text in, and give - for it")
        elif ending(source) or names_a_path(source):
            raise UserError(f"there is no file or folder {source}", meant_instead(path, "check the path"))
        else:
            return None
    except (OSError, RuntimeError) as error:  # RuntimeError: a home that nobody has
        place = getattr(error, "filename", None) or source
        raise UserError(f"{place} cannot be read ({reason(error)})", "check the path") from error
    unknown = [p for p in files if ending(p) is None]
    if unknown:
        raise UserError(
            f"{unknown[0]} is of an unknown kind", f"give files that end in {FORMATS}, or - for standard input"
        )
    return files


def check_apart(text: Sequence[str], valid: Sequence[str], files: Mapping[str, list[Path] | None]) -> None:
    """Refuse text that would be learned and validated with alike: figures of such validation mean nothing.

    Args:
        text: Sources of training text.
        valid: Those of validation text.
        files: Of :func:`find_files` for each source that is not standard input.

    Raises:
        UserError: A file, whatever leads to it, or another source is on both sides.
    """
    held_out = {key for source in valid for key in _read_of(source, files)}
    in_both = dict[Any, str]()
    for source in text:
        for key, name in _read_of(source, files).items():
            if key in held_out:
                in_both.setdefault(key, name)
    if in_both:
        more = f" and {len(in_both) - 1} more" if len(in_both) > 1 else ""
        remedy = "name them apart, or leave --valid out: a share of the documents is held out then"
        raise UserError(f"{next(iter(in_both.values()))}{more} would be training and validation text at once", remedy)


def check_once(sources: Sequence[str], files: Mapping[str, list[Path] | None]) -> None:
    """Refuse text that would be read twice: of one copy the other may be held out.

    Args:
        sources: Of one side, training or validation text.
        files: Of :func:`find_files` for each source that is not standard input.

    Raises:
        UserError: A file is of two sources, or a source is named twice.
    """
    seen = dict[Any, str]()
    for source in sources:
        of_source = _read_of(source, files)
        for key in of_source.keys() & seen.keys():
            raise UserError(f"{of_source[key]} would be read twice, of {seen[key]} and of {source}", "name it once")
        seen |= dict.fromkeys(of_source, source)


def _read_of(source: str, files: Mapping[str, list[Path] | None]) -> dict[Any, str]:
    """Names by what is read of a source: files by their place on disk, whatever leads there, else of all revisions."""
    places = {(path.stat().st_dev, path.stat().st_ino): str(path) for path in files.get(source) or ()}
    return dict(places) or {hub_parts(source)[:2]: source}


def size_of(sources: Iterable[str]) -> int:
    """Bytes of the files of some text sources; 0 where one is not a file, so that nobody knows."""
    file_lists = [None if source == "-" else find_files(source) for source in sources]
    return 0 if None in file_lists else sum(file.stat().st_size for files in file_lists for file in files or ())


def skipped_kinds(source: str) -> Counter[str]:
    """The endings of the files in folders that :func:`find_files` leaves out, and how often; none of other sources.

    Hidden files do not count.
    """
    path = Path(source).expanduser()
    folders = [path] if path.is_dir() else _folders(path.parent if path.name == "**" else path)
    others = [p for folder in folders for p in _walk(folder) if not (ending(p) or p.name.startswith("."))]
    return Counter(p.suffix.lower() or "without an ending" for p in others)


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> NoReturn:
        raise error

    seen = set()
    for place, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.realpath(place) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(place))
        if _is_ours(Path(place)):
            folders.clear()
            continue
        yield from (Path(place, name) for name in names if not name.startswith("."))


def _is_ours(folder: Path) -> bool:
    """Whether a folder holds a data set, latents or an artifact of this package, and no text."""
    try:
        return {"stage", "format_version"} <= read_json(folder / CONFIG_FILE).keys()
    except (OSError, ValueError):
        return False


def _folders(pattern: Path) -> list[Path]:
    return [path for path in map(Path, glob.glob(str(pattern))) if path.is_dir()]


def _matches(pattern: Path) -> Iterable[Path]:
    if pattern.name == "**" and "**" not in pattern.parent.parts:
        return (file for folder in _folders(pattern.parent) for file in _walk(folder) if ending(file))
    if "**" not in pattern.parts:
        paths = map(Path, glob.glob(str(pattern)))  # folders as the shell gives them, where nobody quotes the pattern
        return (file for path in paths for file in (filter(ending, _walk(path)) if path.is_dir() else [path]))
    # This glob follows no links below **, and so ends where they lead in circles.
    start = Path(pattern.anchor or ".")
    hidden = any(part.startswith(".") for part in pattern.parts)
    files = pattern / "*" if pattern.name == "**" else pattern  # which alone stands for folders here
    below = start.glob(str(files.relative_to(start)))
    return (p for p in below if hidden or not any(part.startswith(".") for part in p.parts))


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """The paths that are files, in order; of several names of the same file the first."""
    by_real_path: dict[str, Path] = {}
    for path in sorted(paths):
        if path.is_file():
            by_real_path.setdefault(os.path.realpath(path), path)
    return list(by_real_path.values())
