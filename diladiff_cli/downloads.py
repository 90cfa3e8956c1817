"""Models from the Hugging Face Hub, into the local cache."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from diladiff_cli.errors import UserError, first_line

REACH_SECONDS = 3.0


def download(
    repo: str,
    patterns: Sequence[str],
    remedy: str,
    revision: str | None = None,
    needed: Sequence[str] = (),
    offline: bool = False,
) -> Path:
    """The folder in the local cache with the files of a model, brought up to date where the Hub can be reached.

    Args:
        repo: Id on the Hub.
        patterns: Of the names of the files that are wanted.
        remedy: What to do where they cannot be had.
        revision: A branch, a tag or a commit; None for the newest.
        needed: Patterns of which each has a file in a cache that will do without the Hub.
        offline: Look into the cache alone.

    Raises:
        UserError: They cannot be had; without a network this fails quickly.
    """
    from huggingface_hub import constants, snapshot_download  # takes half a second

    wanted: dict[str, Any] = {"revision": revision, "allow_patterns": list(patterns)}
    if not (offline or constants.HF_HUB_OFFLINE) and _is_reached(repo, revision):
        try:
            return Path(snapshot_download(repo, **wanted))
        except Exception as error:  # every kind of network fault
            raise UserError(f"{repo} cannot be downloaded ({first_line(error)})", remedy) from error
    with suppress(Exception):
        folder = Path(snapshot_download(repo, **wanted, local_files_only=True))
        if all(any(folder.glob(pattern)) for pattern in needed):
            return folder
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "cannot be reached on the Hub"
    what = repo if revision is None else f"{repo}@{revision}"
    raise UserError(f"{what} is not in the local cache and {why}", remedy)


def _is_reached(repo: str, revision: str | None) -> bool:
    from huggingface_hub import HfApi

    reached: list[bool] = []

    def ask() -> None:
        with suppress(Exception):
            HfApi().model_info(repo, revision=revision, timeout=REACH_SECONDS)
            reached.append(True)

    # In a thread, since looking up a host's name has no time limit of its own.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return bool(reached)
