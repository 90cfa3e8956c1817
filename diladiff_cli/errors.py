"""UserError, for what the user can mend beyond options (those have ConfigError), and how common faults become one."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# Stage of a folder -> what it is called, and the command that writes it.
KINDS = {
    "data": ("a token data set", "encode TEXT"),
    "latents": ("a folder of latents", "encode --ae"),
    "mdlm": ("a base", "train-mdlm"),
    "ae": ("an auto-encoder", "train-ae"),
    "prior": ("a prior", "train-prior"),
    "student": ("a student", "distill"),
}
# Stage of a folder -> the option that names one.
OPTIONS = {"data": "--data", "latents": "--latents", "mdlm": "--base", "ae": "--ae", "prior": "--prior"}


class UserError(Exception):
    """Something the user can mend: printed as ``error: what; how to mend it``, without traceback.

    Args:
        what: What is wrong, naming the file, option or value concerned.
        remedy: What to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}; {remedy}")
        self.what = what
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, str]]:
        return UserError, (self.what, self.remedy)


def first_line(error: BaseException) -> str:
    """What an exception of a library says, or is called where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def reason(error: BaseException) -> str:
    """What went wrong: the system's own words where there are some, else the first line of the error's."""
    return str(getattr(error, "strerror", None) or first_line(error))


def kind_of(stage: str) -> str:
    """What a folder of a stage is called."""
    return KINDS[stage][0] if stage in KINDS else f"of stage {stage}"


def wrong_folder(path: Path, wanted: Sequence[str], found: object = None) -> UserError:
    """For a folder of another kind than is wanted: says what it is, and what to give.

    Args:
        path: What was given.
        wanted: The stages that will do.
        found: The stage in its config.json; None where it has none.
    """
    commands = [KINDS[stage][1] for stage in wanted]
    needed = kind_of(wanted[0]) if len(wanted) == 1 else "a model"
    if len(wanted) == 1 and wanted[0] in OPTIONS and not path.exists():  # perhaps a default that was not named
        needed += f" ({OPTIONS[wanted[0]]})"
    remedy = f"give {needed}, which {', '.join(commands[:-1])}{' or ' if commands[1:] else ''}{commands[-1]} writes"
    remedy += ", shipped, or hf://USER/NAME on the Hub" if "student" in wanted else ""
    if isinstance(found, str) and found in KINDS:
        parents = [path / "parents" / stage for stage in wanted]  # of a bundle
        held = next((folder for folder in parents if os.path.isfile(folder / "config.json")), None)
        remedy = remedy if held is None else f"did you mean {held}? Otherwise {remedy}"
        return UserError(f"{path} is {kind_of(found)}", remedy)
    if not path.exists():
        return UserError(f"there is no folder {path}", meant_instead(path, remedy, Path.is_dir))
    if not path.is_dir():
        return UserError(f"{path} is a file", remedy)
    if (unfinished := unfinished_folder(path, wanted)) is not None:
        return unfinished
    has_one = os.path.exists(path / "config.json")
    why = "its config.json is of something else" if has_one else f"it has no config.json{told_inside(path)}"
    return UserError(f"{path} is not a folder of diladiff ({why})", remedy)


def unfinished_folder(path: Path, wanted: Sequence[str] = tuple(KINDS)) -> UserError | None:
    """For latents or a training of a wanted stage that were begun and cannot be read yet; None for any other folder."""
    if os.path.exists(path / "config.json"):
        return None
    if "latents" in wanted and os.path.isfile(path / "plan.json"):
        return UserError(f"{path} holds unfinished latents", "finish them with the same encode --ae command")
    trained = set(wanted) - {"data", "latents"}
    if trained and os.path.isfile(path / "metrics.jsonl") and not any(path.glob("*.safetensors")):
        remedy = "wait for the first one; where nothing is at work on it any more, repeat the command that began it"
        return UserError(f"{path} has no checkpoint yet", remedy)
    return None


def told_inside(path: Path) -> str:
    """Which folders inside one without a config.json have some, as the end of a sentence; nothing where none has."""
    with suppress(OSError):
        inside = sorted(str(p) for p in path.iterdir() if (p / "config.json").is_file())
        if inside:
            return f", but {', '.join(inside[:4])}{', …' if inside[4:] else ''} {'have' if inside[1:] else 'has'}"
    return ""


def meant_instead(path: Path, remedy: str, of_kind: Callable[[Path], bool] = Path.exists) -> str:
    """The remedy for a path that is not there, after the neighbour with almost its name, where there is one.

    Args:
        path: What was given.
        remedy: What to do where nothing has almost its name.
        of_kind: Which neighbours are asked after; hidden ones never are.
    """
    with suppress(OSError):
        names = sorted(p.name for p in path.parent.iterdir() if not p.name.startswith(".") and p != path and of_kind(p))
        if close := difflib.get_close_matches(path.name, names, n=1, cutoff=0.75):
            return f"did you mean {path.parent / close[0]}? Otherwise {remedy}"
    return remedy


# Of a CPU and of Apple's GPUs, for which torch raises no error of its own.
OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on an accelerator or on the CPU."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    )


def system_error(error: BaseException) -> OSError | None:
    """The system's error behind an exception: itself, or the one that a compiled library put into its words."""
    if isinstance(error, OSError):
        return error
    match = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, Exception) else None
    return None if match is None else OSError(int(match[1]), os.strerror(int(match[1])))


def _related(first: Path, second: Path) -> bool:
    a, b = Path(os.path.realpath(first)), Path(os.path.realpath(second))
    return a.is_relative_to(b) or b.is_relative_to(a)


BEFORE = {  # what may help besides another place, where one cannot be written
    **dict.fromkeys((errno.ENOSPC, errno.EFBIG, errno.EDQUOT), "free space or "),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its permissions or "),
}


def another_place(error: OSError, option: str = "--out") -> str:
    """What to do where the place that an option names cannot be written."""
    return f"{BEFORE.get(error.errno or 0, '')}choose another {option}"


@contextmanager
def writing(place: Path, own: Path | None = None) -> Iterator[None]:
    """Turns errors of the system inside the block into one line.

    Args:
        place: What is written.
        own: Where the writing happens, if not there; an error at a file elsewhere is one of reading.

    Raises:
        UserError: A file cannot be written, or one that is needed cannot be read.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        cause = system_error(error)
        if cause is None:
            raise
        reason = cause.strerror or str(cause)
        file = cause.filename
        if isinstance(file, str) and not any(_related(Path(file), home) for home in (place, own or place)):
            raise UserError(f"cannot use {file} ({reason})", "check that it is there and can be read") from error
        raise UserError(f"cannot write {place} ({reason})", another_place(cause)) from error
