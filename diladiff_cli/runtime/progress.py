"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from diladiff_cli.notes import say

SILENT_SECONDS = 30.0


class RateColumn(ProgressColumn):
    """Units of work per second; nothing until that is known."""

    def render(self, task: Task) -> Text:
        """The rate over the last units, or over all where the work is done."""
        speed = task.finished_speed or task.speed
        return Text("" if not speed else f"{speed:,.0f}/s" if speed >= 100 else f"{speed:.3g}/s")


class Bar:
    """A progress bar with rate and time left for ``total`` units of work; ``update`` may carry a short text.

    Args:
        title: What is being done.
        total: Units of work.
        done: Units done before.
        enabled: False shows nothing (processes other than the first).
        patient: Off a terminal, say nothing of work of less than half a minute.
    """

    def __init__(self, title: str, total: int, done: int = 0, enabled: bool = True, patient: bool = False) -> None:
        self.title, self.total, self.done, self.enabled = title, total, done, enabled
        console = Console(stderr=True)
        self.terminal = enabled and console.is_terminal
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not self.terminal)
        self._task = self._progress.add_task(title, total=total, completed=done, text="")
        self.patient, self._spoke = patient, time.monotonic() if patient else 0.0
        self._began: tuple[float, int] | None = None  # when the first units were done, and how many then

    def __enter__(self) -> "Bar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, advance: int = 1, text: str | None = None) -> None:
        """Advance the bar; off a terminal, print a line with the time left at most every half minute."""
        self.done += advance
        values: dict[str, Any] = {} if text is None else {"text": text}
        self._progress.update(self._task, advance=advance, **values)
        now = time.monotonic()
        left = self._left(now)
        due = text is not None and (
            now - self._spoke > SILENT_SECONDS or (self.done >= self.total and not self.patient)
        )
        if self.enabled and not self.terminal and due:
            self._spoke = now
            say(f"{self.title} {self.done}/{self.total} {text}{left}")

    def _left(self, now: float) -> str:
        """The time left at the rate since the first units, as the end of a line; nothing where that is not known."""
        if self._began is None:
            self._began = now, self.done
        since, units = now - self._began[0], self.done - self._began[1]
        seconds = round(since / units * (self.total - self.done)) if units else 0
        return f", {timedelta(seconds=seconds)} left" if seconds else ""

    @contextmanager
    def doing(self, text: str) -> Iterator[None]:
        """Show what else is done for a while; off a terminal, in a line of its own."""
        before = self._progress.tasks[0].fields["text"]
        self._progress.update(self._task, text=text)
        if self.enabled and not self.terminal:
            say(f"{self.title} {self.done}/{self.total} {text}")
        try:
            yield
        finally:
            self._progress.update(self._task, text=before)


class Spinner:
    """Progress of work in a line that moves on a terminal, and comes now and then elsewhere.

    Args:
        title: What is being done.
        total: Units that :meth:`advance` will count in all, from which the share and the time left are told; 0 where
            nobody knows.
    """

    def __init__(self, title: str, total: int = 0) -> None:
        self.title, self.total, self.done = title, total, 0
        self._began = time.monotonic()
        console = Console(stderr=True)
        self._status = console.status(title) if console.is_terminal else None
        self._spoke = time.monotonic()
        self._text = ""

    def __enter__(self) -> "Spinner":
        if self._status:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status:
            self._status.stop()
        if error is None and self._text:
            say(f"{self.title}: {self._text}")

    def advance(self, units: int) -> None:
        """Count further units, for the next :meth:`update`."""
        self.done += units

    def update(self, text: str) -> None:
        """Say how far the work is."""
        self._text, now = text, time.monotonic()
        if self._status:
            self._status.update(f"{self.title}: {text}{self._left(now)}")
        elif now - self._spoke > SILENT_SECONDS:
            self._spoke = now
            say(f"{self.title}: {text}{self._left(now)}")

    def _left(self, now: float) -> str:
        share = min(1.0, self.done / self.total) if self.total else 0.0
        seconds = round((now - self._began) * (1 / share - 1)) if share else 0
        return f", {share:.0%}, {timedelta(seconds=seconds)} left" if share else ""
