"""Lines for the user, on stderr."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def say(text: str, everywhere: bool = False) -> None:
    """One line on stderr, from the main process alone unless ``everywhere``."""
    if everywhere or is_main_process():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def telling_what_is_kept(kept: Callable[[], str]) -> Iterator[None]:
    """Where a signal ends what happens inside, a line that says what of it stays."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(f"{kept()}; the same command goes on")
        raise
