"""One process of a run that shares work out, as the test says; what it made goes to ``RANK.json``."""

import json
import os
import sys
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.shared_work import map_over_processes, run_on_main
from diladiff_cli.settings import ConfigError

RANK = os.environ["RANK"]
TIMEOUT = timedelta(seconds=2)  # of all that run_on_main does not lead


def worked(item: int) -> list[Any]:
    """The item, and who saw it; some cannot be worked on."""
    if item == 13:
        raise UserError("item 13 cannot be used", "leave it out")
    if item == 14:
        raise ConfigError(["--item is 14", "--item is unlucky"])
    return [item, RANK]


def shared(items: list[int], seconds: float = 0.0) -> list[Any]:
    """What the main process does."""
    time.sleep(seconds)
    return [[item, *result] for item, result in map_over_processes(worked, items)]


def told(items: list[int]) -> str:
    """What the work raises, on this process."""
    try:
        run_on_main(lambda: shared(items))
    except (UserError, ConfigError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def fails() -> None:
    """A main process that cannot go on."""
    raise UserError("the main process cannot go on", "mend it")


def failure() -> str:
    """What a failure outside of the shared work raises, on this process."""
    try:
        run_on_main(fails)
    except UserError as error:
        return str(error)
    return "nothing"


def main() -> None:
    dist.init_process_group("gloo", timeout=TIMEOUT)
    found = {
        "shared": run_on_main(lambda: shared(list(range(5)))),
        "late": run_on_main(lambda: shared([7, 8], seconds=5.0)),
        "none": run_on_main(lambda: shared([])),
        "twice": run_on_main(lambda: [shared([1]), shared([2, 3])]),
        "at a helper": told([1, 13, 2]),
        "at the main process": told([14, 1]),
        "alone": failure(),
        "after it": run_on_main(lambda: shared([4])),
    }
    with open(os.path.join(sys.argv[1], f"{RANK}.json"), "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
