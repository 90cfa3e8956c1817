"""Names of models: a path, ``shipped`` for the one that comes with the package, or ``hf://user/name`` on the Hub."""

import os
from contextlib import suppress
from pathlib import Path

from diladiff_cli.downloads import download
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CONFIG_FILE
from diladiff_cli.notes import say
from diladiff_cli.runtime.folders import is_there
from diladiff_cli.shipped import SHIPPED_MODEL, SHIPPED_NAME

ON_HUB = "hf://"  # before the id of a model on the Hugging Face Hub
KINDS_OF_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.txt", "*.md", "*.model")  # of an artifact and its tokenizer
LOCAL_MODEL = Path("ckpt/student")
EARLIER = (Path("ckpt/prior"), Path("ckpt/mdlm"))  # what can be sampled from before there is a student


def shipped_model() -> Path:
    """The folder of the model that ships.

    Raises:
        UserError: This installation has none.
    """
    if not (SHIPPED_MODEL / "config.json").exists():
        remedy = "name one with --model, or train one: see diladiff --help"
        raise UserError("this installation ships no model", remedy)
    return SHIPPED_MODEL


def default_model() -> tuple[Path, str]:
    """The model used where none is named, and a line for the user that says which.

    Raises:
        UserError: There is none.
    """
    if is_there(LOCAL_MODEL):
        return LOCAL_MODEL, f"model: ./{LOCAL_MODEL}"
    try:
        yours = next((f"; yours: --model {earlier}" for earlier in EARLIER if is_there(earlier)), "")
        return shipped_model(), f"model: the small one that ships with diladiff (no ./{LOCAL_MODEL} here{yours})"
    except UserError as error:
        raise UserError(f"there is no ./{LOCAL_MODEL}, and {error.what}", error.remedy) from None


def named_model(name: str, offline: bool = False) -> Path:
    """The folder of a model: ``shipped``, where no artifact here has that name, is the model that ships.

    Its parents lie below it: ``shipped/parents/mdlm``. What lies below a folder here of that name comes first.
    ``hf://user/name``, which ``@revision`` may follow, is on the Hub, its parents below it as well.

    Args:
        name: Of the model.
        offline: Take what is on the Hub from the local cache; else it is downloaded.

    Raises:
        UserError: It is asked for, and this installation has none; or a parent as if it lay in another place; or what
            is on the Hub cannot be had.
    """
    if name.startswith(ON_HUB):
        return _downloaded(name, offline)
    first, _, below = name.partition("/")
    if first != SHIPPED_NAME or is_there(Path(SHIPPED_NAME)):
        return Path(name)
    if below and os.path.lexists(SHIPPED_NAME) and (os.path.lexists(name) or not (SHIPPED_MODEL / below).exists()):
        return Path(name)
    if below and not (shipped_model() / below).exists() and (shipped_model() / "parents" / below).exists():
        raise UserError(f"there is no folder {name}", f"did you mean {SHIPPED_NAME}/parents/{below}?")
    return shipped_model() / below


def _downloaded(name: str, offline: bool) -> Path:
    """The folder in the local cache of what is on the Hub."""
    user, _, rest = name.removeprefix(ON_HUB).partition("/")
    title, _, below = rest.partition("/")
    title, _, revision = title.partition("@")
    if not (user and title) or ".." in below.split("/"):
        raise UserError(f"{name} names no model on the Hub", f"give {ON_HUB}USER/NAME")
    if not offline:
        say(f"asking the Hub for {user}/{title}")
    remedy, needed = "check its name, or give a folder", (CONFIG_FILE,)
    found = download(f"{user}/{title}", KINDS_OF_FILES, remedy, revision or None, needed, offline)
    return found / below


def ships(path: Path) -> bool:
    """Whether a folder is the model that ships, or one of its parents."""
    return Path(os.path.abspath(path)).is_relative_to(SHIPPED_MODEL)


def name_of(path: Path) -> str:
    """What to call a model: its path, or the name by which :func:`named_model` finds what ships or is of the Hub."""
    parts = Path(os.path.abspath(path)).parts
    for i, part in enumerate(parts):
        if part.startswith("models--") and parts[i + 1 : i + 2] == ("snapshots",) and parts[i + 2 :]:
            title = part.removeprefix("models--").replace("--", "/", 1)
            return ON_HUB + "/".join([f"{title}@{parts[i + 2]}", *parts[i + 3 :]])
    if ships(path):
        whole = Path(os.path.abspath(path))
        name = (SHIPPED_NAME / whole.relative_to(SHIPPED_MODEL)).as_posix()
        with suppress(UserError):
            return name if named_model(name) == whole else str(path)  # something here may have that name
    return f"./{path}" if path.parts[:1] == (SHIPPED_NAME,) else str(path)  # which is no name of what ships
