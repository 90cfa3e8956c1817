"""Names of models: a path, ``shipped`` for the one that comes with the package, or ``hf://user/name`` on the Hub."""

import os
import re
from contextlib import suppress
from pathlib import Path

from diladiff_cli.downloads import download
from diladiff_cli.errors import KINDS, UserError
from diladiff_cli.hub import ON_HUB
from diladiff_cli.integrity import CONFIG_FILE, read_json
from diladiff_cli.notes import say
from diladiff_cli.runtime.folders import is_there
from diladiff_cli.shipped import SHIPPED_MODEL, SHIPPED_NAME

# Of an artifact, and of its tokenizer, whichever that has.
KINDS_OF_FILES = ("*.json", "*.jsonl", "*.safetensors", "*.md", "*.txt", "*.model", "*.spm", "*.tiktoken", "*.jinja")
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


def resolved(name: Path | str) -> Path | str:
    """A name of what ships or is on the Hub as its folder, see :func:`named_model`; paths and other texts as given."""
    if isinstance(name, str) and (name.startswith(ON_HUB) or name.partition("/")[0] == SHIPPED_NAME):
        return named_model(name)
    return name


def _downloaded(name: str, offline: bool) -> Path:
    """The folder in the local cache of what is on the Hub; of several processes the main one looks for it."""
    user, _, rest = name.removeprefix(ON_HUB).partition("/")
    title, _, below = rest.rstrip("/").partition("/")
    title, _, revision = title.partition("@")
    if not (user and title) or (below and {"", ".", ".."} & set(below.split("/"))) or "\\" in name:
        raise UserError(f"{name} names no model on the Hub", f"give {ON_HUB}USER/NAME")
    repo = f"{user}/{title}"

    def fetch(revision: str | None, offline: bool = False) -> Path:
        remedy = "check its name and revision, or give a folder"
        # First what shows whether it is a model at all: others may be large.
        config = download(repo, [CONFIG_FILE], remedy, revision, (CONFIG_FILE,), offline) / CONFIG_FILE
        with suppress(OSError, ValueError):
            if read_json(config).get("stage") in KINDS:
                at = config.parent.name  # the commit, of which the rest is taken as well
                return download(repo, KINDS_OF_FILES, remedy, at, (CONFIG_FILE, "*.safetensors"), offline)
        raise UserError(f"{repo} on the Hub is not a model of diladiff", "give one that diladiff export made")

    if offline:
        return fetch(revision or None, offline=True) / below
    from diladiff_cli.runtime.shared_work import run_on_main  # late: it imports torch

    say(f"asking the Hub for {repo}")
    folder = run_on_main(lambda: fetch(revision or None))
    return (folder if folder.exists() else fetch(folder.name)) / below  # on a machine of its own, the same commit


def _name_on_hub(path: Path) -> str | None:
    """The name of what lies in the local cache of the Hub."""
    from huggingface_hub.constants import HF_HUB_CACHE

    with suppress(ValueError):
        repo, snapshots, commit, *below = path.relative_to(os.path.abspath(HF_HUB_CACHE)).parts
        kind, user, title = repo.split("--")
        if (kind, snapshots) == ("models", "snapshots") and re.fullmatch("[0-9a-f]{40}", commit):
            return f"{ON_HUB}{'/'.join([user, f'{title}@{commit}', *below])}"
    return None


def ships(path: Path) -> bool:
    """Whether a folder is the model that ships, or one of its parents."""
    return Path(os.path.abspath(path)).is_relative_to(SHIPPED_MODEL)


def name_of(path: Path) -> str:
    """What to call a model: its path, or the name by which :func:`named_model` finds what ships or is of the Hub."""
    if "models--" in str(path) and (name := _name_on_hub(Path(os.path.abspath(path)))):
        return name
    if ships(path):
        whole = Path(os.path.abspath(path))
        name = (SHIPPED_NAME / whole.relative_to(SHIPPED_MODEL)).as_posix()
        with suppress(UserError):
            return name if named_model(name) == whole else str(path)  # something here may have that name
    return f"./{path}" if path.parts[:1] == (SHIPPED_NAME,) else str(path)  # which is not a name of what ships
