"""Models from the Hugging Face Hub, into the local cache."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from diladiff_cli.errors import UserError

REACH_SECONDS = 3.0


def download(repo: str, patterns: Sequence[str], remedy: str, revision: str | None = None) -> Path:
    """The folder in the local cache with the files of a model, fetched where they are not there yet.

    Args:
        repo: Id on the Hub.
        patterns: Of the names of the files that are wanted.
        remedy: What to do where they cannot be had.
        revision: A branch, a tag or a commit; None for the newest.

    Raises:
        UserError: They cannot be had, which without a network is told quickly.
    """
    import huggingface_hub  # takes half a second

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        with suppress(Exception):
            return Path(huggingface_hub.snapshot_download(repo, revision=revision, local_files_only=True))
        raise UserError(f"{repo} is not in the local cache and HF_HUB_OFFLINE is set", remedy)
    reached: list[bool] = []

    def ask() -> None:
        with suppress(Exception):
            huggingface_hub.HfApi().model_info(repo, revision=revision, timeout=REACH_SECONDS)
            reached.append(True)

    # In a thread, since looking up a host's name has no time limit of its own.
    thread = Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    if not reached:
        raise UserError(f"{repo} is not in the local cache and cannot be reached on the Hub", remedy)
    try:
        return Path(huggingface_hub.snapshot_download(repo, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # every kind of network fault
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{repo} cannot be downloaded ({reason})", remedy) from error
