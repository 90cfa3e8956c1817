"""Random numbers that depend on what they are for, never on who draws them.

In training, those of an example come from (seed, step, place in the global batch); so losses do not depend on
the number of processes or micro-batches, and resuming needs no saved generator state.
"""

import math

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """A 63-bit hash of integers (splitmix64 steps)."""
    state = 0
    for part in parts:
        state = (state + part + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1


def generator(device: torch.device, *parts: int) -> torch.Generator:
    """A generator seeded with a hash of ``parts``."""
    return torch.Generator(device).manual_seed(mix(*parts))


class BatchNoise:
    """The random numbers of one micro-batch.

    Args:
        seed: Seed of the run.
        step: Optimiser step.
        positions: Places of the examples in the global batch.
        batch_size: Size of the global batch.
        device: Where the numbers are drawn and live.
    """

    def __init__(self, seed: int, step: int, positions: range, batch_size: int, device: torch.device) -> None:
        self.step = step
        self.positions = torch.tensor(positions, device=device, dtype=torch.float32)
        self.batch_size = batch_size
        self._places = positions
        self._examples = [generator(device, seed, step, place) for place in positions]
        self._shared = generator(device, seed, step, -1)
        self._device = device

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) draws from U(0, 1)."""
        return torch.stack([torch.rand(shape, generator=g, device=self._device) for g in self._examples])

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal draws."""
        return torch.stack([torch.randn(shape, generator=g, device=self._device) for g in self._examples])

    def some(self, share: float) -> Tensor:
        """Rows of the micro-batch that are among a share of the global batch's places, the same ones in every step.

        The places lie as evenly as they can, so that all micro-batches have about as many. Which examples stand there
        is random, as the order of the data is.
        """
        rows = [row for row, i in enumerate(self._places) if math.floor((i + 1) * share) > math.floor(i * share)]
        return torch.tensor(rows, device=self._device, dtype=torch.int64)

    def shared_uniform(self) -> Tensor:
        """One draw from U(0, 1) for the whole global batch."""
        return torch.rand((), generator=self._shared, device=self._device)


class SampleNoise:
    """The random numbers of samples ``first`` to ``first + count`` of a seed, drawn in float64 on the CPU.

    Each kind of number has its own stream, so that asking for more of one does not move another.
    """

    REVEAL, TOKEN, START, GAMMA = range(4)

    def __init__(self, seed: int, indices: range) -> None:
        self.seed, self.indices = seed, indices

    def _stream(self, kind: int, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, index, kind])))

    def uniform(self, kind: int, *shape: int) -> Tensor:
        """(B, *shape) draws from U(0, 1), float64."""
        return torch.from_numpy(np.stack([self._stream(kind, i).random(shape) for i in self.indices]))

    def normal(self, kind: int, *shape: int) -> Tensor:
        """(B, *shape) standard normal draws, float64."""
        return torch.from_numpy(np.stack([self._stream(kind, i).standard_normal(shape) for i in self.indices]))
