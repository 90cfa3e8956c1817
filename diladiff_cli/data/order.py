"""The order in which training visits a data set: a new permutation each epoch, known from the seed alone."""

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, rows: int) -> np.ndarray:
    """The permutation of ``rows`` rows in an epoch."""
    return np.random.default_rng([seed, epoch]).permutation(rows)


def batch_rows(seed: int, drawn: int, batch_size: int, rows: int) -> np.ndarray:
    """(batch_size,) row numbers of the global batch after ``drawn`` rows, which may reach into the next epoch."""
    places = np.arange(drawn, drawn + batch_size)
    epochs, offsets = np.divmod(places, rows)
    return np.concatenate([epoch_order(seed, int(e), rows)[offsets[epochs == e]] for e in np.unique(epochs)])
