"""Lines for the user, on stderr."""

import os
import sys


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, everywhere: bool = False) -> None:
    """One line on stderr, from the main process alone unless ``everywhere``."""
    if everywhere or is_main_process():
        print(text, file=sys.stderr, flush=True)
