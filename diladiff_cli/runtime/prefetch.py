"""Batches read ahead, so that no step waits for its data."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

Fetch = Callable[[int], list[Tensor]]


class Prefetch:
    """Reads the batch of the next step in a thread while the one at hand is computed; both are in memory then.

    Args:
        fetch: Step -> what it needs, in the thread.
        last: There is no batch from this step on.
    """

    def __init__(self, fetch: Fetch, last: int) -> None:
        self._fetch, self._last = fetch, last
        self._pool = ThreadPoolExecutor(1, "batches")
        self._ahead: tuple[int, Future[list[Tensor]]] | None = None

    def __call__(self, step: int) -> list[Tensor]:
        """The batch of a step.

        Raises:
            Whatever reading it raised, now that it is needed.
        """
        ready = self._ahead if self._ahead and self._ahead[0] == step else self._start(step)
        self._ahead = None
        batches = ready[1].result()
        if step + 1 < self._last:
            self._ahead = self._start(step + 1)
        return batches

    def close(self) -> None:
        """Read nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, step: int) -> tuple[int, Future[list[Tensor]]]:
        return step, self._pool.submit(self._fetch, step)
