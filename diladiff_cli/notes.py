"""Lines for the user, on stderr."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def is_main_process() -> bool:
    """Whether this is the only process of a run, or the first of several."""
    return os.environ.get("RANK", "0") == "0"


def several_processes() -> bool:
    """Whether this is one of several processes of a run, connected yet or not."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def say(text: str, everywhere: bool = False) -> None:
    """One line on stderr, from the main process alone unless ``everywhere``."""
    if everywhere or is_main_process():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def saying_if_interrupted(text: Callable[[], str]) -> Iterator[None]:
    """If a signal ends the block, say a line on what is left of its work."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        say(text())
        raise
