"""The processes that share a piece of work, for stages that need no Accelerator."""

import atexit
import os
import time
from contextlib import suppress
from functools import cache
from typing import TypeVar

import torch.distributed
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, parse_flag_from_env

from diladiff_cli.notes import several_processes

T = TypeVar("T")

FSDP = "ACCELERATE_USE_FSDP"
SETTLING = 0.2  # seconds for the threads of a group, see _disconnect


@cache
def fsdp_was_asked_for() -> bool:
    """Whether ``accelerate launch`` was told to use FSDP, which is ``--shard`` here; Accelerate hears no more of it.

    What it would do on GPUs knows nothing of averages of weights and of Muon, and on CPUs it does nothing.
    """
    asked = parse_flag_from_env(FSDP)
    os.environ.pop(FSDP, None)
    return asked


def process_state() -> PartialState:
    """This process's place and device, with the others connected; heeds ACCELERATE_USE_CPU as an Accelerator does.

    A bare ``PartialState()`` ignores that variable, and takes each of several CPU processes for the only one. Without
    any GPU the CPU needs no naming.
    """
    atexit.unregister(_disconnect)
    atexit.register(_disconnect)
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or (several_processes() and not _has_gpu()))


def from_main(value: T) -> T:
    """What the main process has, on all processes, which must all call this."""
    box = [value]
    broadcast_object_list(box)
    return box[0]


def first_to_end(status: int) -> tuple[bool, int] | None:
    """Let the others know that this process ends early, unless one of them did before.

    Args:
        status: Exit status of this process.

    Returns:
        Whether this process is the first of its run to end so, and the status of the first; None where the processes
        are not connected, or the one that keeps such notes is gone.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    mine = f"{torch.distributed.get_rank()} {status}"
    try:
        store = torch.distributed.distributed_c10d._get_default_store()
        first = store.compare_set("diladiff/first-to-end", "", mine).decode()
    except RuntimeError:
        return None
    return first == mine, int(first.split()[1])


def _has_gpu() -> bool:
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return accelerator is not None and accelerator.type != "mps"  # of which a machine has one, which cannot be shared


def _disconnect() -> None:
    # The threads of a group that is still at work when the interpreter ends abort the process. Sharded weights keep a
    # group beyond this: its threads need the interpreter until they have let go of their last result.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
        with suppress(SystemExit):  # of a launcher that has seen another process end
            time.sleep(SETTLING)
