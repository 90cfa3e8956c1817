"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from diladiff_cli.notes import say

SILENT_SECONDS = 30.0
AT_ONCE = 0.5  # seconds within which units count as done together
WIDE = 112  # columns of a terminal that leave room for a long bar beside the figures of training


class NoteColumn(ProgressColumn):
    """A short text, which is cut where the terminal is too narrow for all columns."""

    def render(self, task: Task) -> Text:
        """The text on one line."""
        return Text(task.fields["text"], no_wrap=True, overflow="ellipsis")


class Pace:
    """How fast units of work are done.

    The first ones, which are slow in many kinds of work, count until others follow. Units that come together, as those
    of a batch, took the time since the ones before.

    Args:
        done: Units done before.
    """

    def __init__(self, done: int) -> None:
        self._since = self._first = self._last = time.monotonic(), done
        self._begun: float | None = None

    def note(self, now: float, done: int) -> None:
        """So many units are done."""
        self._begun = now if self._begun is None else self._begun
        if now - self._begun < AT_ONCE:
            self._first = now, done
        else:
            self._since = self._first
        self._last = now, done

    @property
    def is_settled(self) -> bool:
        """Whether others followed the first units."""
        return self._last[1] > self._first[1]

    @property
    def rate(self) -> float:
        """Units per second; 0 before it is known."""
        seconds, units = self._last[0] - self._since[0], self._last[1] - self._since[1]
        return units / seconds if units > 0 and seconds > 0 else 0.0


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
            BarColumn(bar_width=40 if console.width >= WIDE else 8),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[left]}"),
            NoteColumn(),
        )
        self._progress = Progress(*columns, console=console, disable=not self.terminal)
        self._task = self._progress.add_task(title, total=total, completed=done, text="", rate="", left="")
        self.patient, self._spoke = patient, time.monotonic() if patient else 0.0
        self._pace = Pace(done)

    def __enter__(self) -> "Bar":
        self._progress.start()
        self._pace = Pace(self.done)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def update(self, advance: int = 1, text: str | None = None) -> None:
        """Advance the bar; off a terminal, print a line with the time left at most every half minute."""
        self.done += advance
        now = time.monotonic()
        if advance:
            self._pace.note(now, self.done)
        rate, left = self._pace.rate, self._left()
        values: dict[str, Any] = {} if text is None else {"text": text}
        values |= {"rate": f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.3g}/s" if rate else "", "left": left}
        self._progress.update(self._task, advance=advance, **values)
        due = text is not None and (
            now - self._spoke > SILENT_SECONDS or (self.done >= self.total and not self.patient)
        )
        if self.enabled and not self.terminal and due:
            self._spoke = now
            said = " ".join([f"{self.title} {self.done}/{self.total}", *([text] if text else [])])
            say(said + (f", {left} left" if left else ""))

    def _left(self) -> str:
        """The time left; nothing where that is less than a second, or only the first units are known."""
        seconds = round((self.total - self.done) / self._pace.rate) if self._pace.is_settled else 0
        return str(timedelta(seconds=seconds)) if seconds > 0 else ""

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
        total: Units that :meth:`advance` will count in all, from which the share and the time left follow; 0 where
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
