"""The signals that ask a process to end."""

import signal

# Ctrl-C, schedulers, closed terminals, and what schedulers are asked to send before the end of a job.
STOPPING = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "USR1") if hasattr(signal, f"SIG{name}")]


def is_heard(number: int) -> bool:
    """Whether a signal is to be answered: SIGINT and SIGTERM always, others unless they are ignored, as under nohup."""
    return number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN
