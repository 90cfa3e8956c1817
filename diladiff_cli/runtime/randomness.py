"""Random numbers that depend on what they are for, never on who draws them.

In training, those of an example come from (seed, step, place in the global batch); so losses do not depend on
the number of processes or micro-batches, and resuming needs no saved generator state.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.core.splitmix import mix, shifted, splitmix64


def generator(device: torch.device, *parts: int) -> torch.Generator:
    """A generator seeded with a hash of ``parts``."""
    return torch.Generator(device).manual_seed(mix(*parts))


class BatchRng:
    """The random numbers of one micro-batch: SplitMix64 streams, drawn for all examples at once.

    Uniform draws are the same bits on every device; normal ones as far as its logarithm and cosine are.

    Args:
        seed: Seed of the run.
        step: Optimiser step.
        positions: Places of the examples in the global batch.
        batch_size: Size of the global batch.
        device: Where the numbers are drawn and live.
    """

    def __init__(self, seed: int, step: int, positions: range, batch_size: int, device: torch.device) -> None:
        self.step = step
        self.positions = torch.arange(positions.start, positions.stop, positions.step, device=device)  # (B,)
        self.batch_size = batch_size
        self._places = positions
        self._device = device
        self._examples = splitmix64(mix(seed, step), self.positions)  # (B,) keys
        self._shared = splitmix64(mix(seed, step), torch.full((1,), -1, device=device))
        self._draws = self._shared_draws = 0

    def uniform(self, *shape: int) -> Tensor:
        """(B, *shape) draws from U(0, 1)."""
        return _unit(self._bits(math.prod(shape))).view(len(self._places), *shape)

    def normal(self, *shape: int) -> Tensor:
        """(B, *shape) standard normal draws, two from each pair of uniform ones (Box and Muller, 1958)."""
        count = math.prod(shape)
        bits = self._bits(-(-count // 2))
        first, second = shifted(bits, 32) + 1, bits & 0xFFFFFFFF  # 32 bits each
        radius = (first.float() * 2.0**-32).log_().mul_(-2.0).sqrt_()
        angle = second.float().mul_(2.0**-32 * 2 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[:, :count].reshape(
            len(self._places), *shape
        )

    def some(self, share: float) -> Tensor:
        """Rows of the micro-batch that are among a share of all examples.

        They lie as evenly as they can, over steps too, so that all micro-batches have about as many and small batches
        their share. Which examples stand there is random, as the order of the data is.
        """
        numbers = (self.step * self.batch_size + place for place in self._places)
        rows = [row for row, i in enumerate(numbers) if math.floor((i + 1) * share) > math.floor(i * share)]
        return torch.tensor(rows, device=self._device, dtype=torch.int64)

    def shared_uniform(self) -> Tensor:
        """One draw from U(0, 1) for the whole global batch."""
        self._shared_draws += 1
        return _unit(splitmix64(self._shared, torch.full((), self._shared_draws, device=self._device)))[0]

    def _bits(self, count: int) -> Tensor:
        """(B, count) int64 of random bits; every call has a stream of its own."""
        self._draws += 1
        keys = splitmix64(self._examples, torch.full((), self._draws, device=self._device))
        return splitmix64(keys[:, None], torch.arange(count, device=self._device))


def _unit(bits: Tensor) -> Tensor:
    """Multiples of 2^-24 in [0, 1), from the upper bits."""
    return shifted(bits, 40).float() * 2.0**-24


class SampleRng:
    """The random numbers of the samples with these numbers (indices), drawn in float64 on the CPU.

    Each kind of number has its own stream, so that asking for more of one does not move another.
    """

    REVEAL, TOKEN, START, GAMMA, REDRAW, REDRAWN_TOKEN = range(6)

    def __init__(self, seed: int, indices: Sequence[int]) -> None:
        self.seed, self.indices = seed, indices

    def _stream(self, kind: int, index: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, index, kind])))

    def uniform(self, kind: int, *shape: int) -> Tensor:
        """(B, *shape) draws from U(0, 1), float64."""
        return torch.from_numpy(np.stack([self._stream(kind, i).random(shape) for i in self.indices]))

    def normal(self, kind: int, *shape: int) -> Tensor:
        """(B, *shape) standard normal draws, float64."""
        return torch.from_numpy(np.stack([self._stream(kind, i).standard_normal(shape) for i in self.indices]))
