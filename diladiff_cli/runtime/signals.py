"""The signals that ask a process to end."""

import signal
import threading

# Ctrl-C, schedulers, closed terminals, and what schedulers are asked to send before the end of a job.
STOPPING = [getattr(signal, f"SIG{name}") for name in ("INT", "TERM", "HUP", "USR1") if hasattr(signal, f"SIG{name}")]


def is_heard(number: int) -> bool:
    """Whether this thread is to answer a signal.

    The main thread answers SIGINT and SIGTERM always, others unless they are ignored, as under nohup.
    """
    if threading.current_thread() is not threading.main_thread():  # others may not handle signals
        return False
    return number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN
