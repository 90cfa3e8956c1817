"""The processes that share a piece of work, for stages that need no Accelerator."""

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def process_state() -> PartialState:
    """This process's place and device, with the others connected; heeds ACCELERATE_USE_CPU as an Accelerator does.

    A bare ``PartialState()`` ignores that variable, and takes each of several CPU processes for the only one.
    """
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
