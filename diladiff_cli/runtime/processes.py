"""The processes that share a piece of work, for stages that need no Accelerator."""

import atexit

import torch.distributed
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """This process's place and device, with the others connected; heeds ACCELERATE_USE_CPU as an Accelerator does.

    A bare ``PartialState()`` ignores that variable, and takes each of several CPU processes for the only one.
    """
    atexit.unregister(_disconnect)
    atexit.register(_disconnect)
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))


def _disconnect() -> None:
    # The threads of a group that is still there when the interpreter ends can abort the process.
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
