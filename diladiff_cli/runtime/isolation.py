"""A training run beside other work in its process: what that has set does not reach it, and is there afterwards."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from accelerate.state import AcceleratorState, GradientState

from diladiff_cli.runtime.processes import process_state

P = ParamSpec("P")
R = TypeVar("R")

_ONE_RUN = threading.RLock()


def isolated_run(train: Callable[P, R]) -> Callable[P, R]:
    """Decorator of functions that train: one run at a time, as Accelerate has one state a process; others wait.

    Autocast, ``no_grad``, another default dtype or device and an Accelerator of the caller do nothing to the run, and
    all of it is afterwards as it was, the choice of deterministic algorithms too. A dry run neither waits nor sets
    anything aside.
    """

    @wraps(train)
    def alone(*args: P.args, **kwargs: P.kwargs) -> R:
        if kwargs.get("dry_run"):  # beside a run, whose settings these are meanwhile
            return train(*args, **kwargs)
        with _ONE_RUN, _settings_set_aside():
            return train(*args, **kwargs)

    return alone


@contextmanager
def _settings_set_aside() -> Iterator[None]:
    states = [(state._shared_state, dict(state._shared_state)) for state in (AcceleratorState, GradientState)]
    deterministic = _determinism()
    dtype = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float32)
        autocast = torch.autocast(process_state().device.type, enabled=False)
        # Costs time with every call, and is seldom needed.
        on_cpu = torch.device("cpu") if torch.get_default_device().type != "cpu" else nullcontext()
        with torch.inference_mode(False), autocast, on_cpu:  # the first has gradients as well
            yield
    finally:
        torch.set_default_dtype(dtype)
        for shared, before in states:
            shared.clear()
            shared.update(before)
        if _determinism() != deterministic:  # the call imports much, which fails where an interrupt came as it did
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


def _determinism() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
