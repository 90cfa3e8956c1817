"""Running mean and standard deviation of features and latents, for standardising them."""

import torch
from torch import Tensor, nn

MIN_STD = 1e-5


class RunningMoments(nn.Module):
    """Mean and standard deviation per entry, over batches.

    Batches are first collected and then committed together, so that the result does not depend on how a global
    batch is split over micro-batches and processes.

    Args:
        shape: Shape of the entries; all leading dimensions of the data are averaged over.
        momentum: Weight of a commit in the running values; None averages all commits equally.
    """

    mean: Tensor
    square: Tensor
    weight: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float | None = None) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("square", torch.zeros(shape))
        self.register_buffer("weight", torch.zeros((), dtype=torch.float64))
        self._pending: Tensor | None = None  # sum, sum of squares, count

    @torch.no_grad()
    def collect(self, x: Tensor) -> None:
        """Add a batch (..., *shape) to the pending sums."""
        flat = x.detach().float().reshape(-1, *self.mean.shape)
        sums = torch.stack([flat.sum(0), flat.square().sum(0), torch.full_like(self.mean, len(flat))])
        self._pending = sums if self._pending is None else self._pending + sums

    @torch.no_grad()
    def commit(self) -> None:
        """Fold the pending sums, over all processes, into the running values."""
        if self._pending is None:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(self._pending)
        total, squares, count = self._pending
        self._pending = None
        gain = float(count.flatten()[0]) if self.momentum is None else self.momentum
        keep = 1.0 if self.momentum is None else 1.0 - self.momentum
        weight = float(self.weight) * keep + gain
        share = gain / weight
        self.mean.lerp_(total / count, share)
        self.square.lerp_(squares / count, share)
        self.weight.fill_(weight)

    @torch.no_grad()
    def reset(self) -> None:
        """Forget everything."""
        self.weight.zero_()
        self._pending = None

    def std(self) -> Tensor:
        """Standard deviation per entry; 1 before the first commit."""
        if float(self.weight) == 0.0:
            return torch.ones_like(self.mean)
        return (self.square - self.mean.square()).clamp(min=MIN_STD**2).sqrt()

    def standardise(self, x: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (x.float() - self.mean) / self.std()

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        return x * self.std() + self.mean
