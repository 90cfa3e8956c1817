"""How long a run has taken, and how fast it is."""

import time


class Clock:
    """Seconds of a run, those before a resume included."""

    def __init__(self, before: float = 0.0) -> None:
        self.started, self.before = time.monotonic(), before

    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.before + self.session_seconds()

    def session_seconds(self) -> float:
        """Seconds since this start."""
        return time.monotonic() - self.started


class TokenRate:
    """Tokens per second of training alone: :meth:`restart` leaves out what came between steps."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """Count from here on."""
        self._tokens, self._since = 0, self._clock.seconds()

    def add(self, tokens: int) -> None:
        """Count tokens of a step."""
        self._tokens += tokens

    def per_second(self) -> float:
        """The rate since the start."""
        return self._tokens / max(self._clock.seconds() - self._since, 1e-9)
