"""Running mean and standard deviation of features and latents, for standardising them."""

from functools import reduce

import torch
from torch import Tensor, nn

MIN_STD = 1e-5


def _merge(a: Tensor, b: Tensor) -> Tensor:
    """Count, mean and summed squared deviations (3, *shape) of two sets together (Chan et al.)."""
    count = a[0] + b[0]
    difference = b[1] - a[1]
    mean = a[1] + difference * (b[0] / count)
    return torch.stack([count, mean, a[2] + b[2] + difference.square() * (a[0] * b[0] / count)])


def _of_all_processes(pending: Tensor) -> list[Tensor]:
    """The pending statistics of every process, in the order of ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [pending]
    gathered = [torch.empty_like(pending) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, pending)
    return gathered


class RunningMoments(nn.Module):
    """Mean and standard deviation per entry, over batches.

    Batches are first collected and then committed together, so that the result does not depend on how a global
    batch is split over micro-batches and processes.

    Args:
        shape: Shape of the entries; all leading dimensions of the data are averaged over.
        momentum: Weight of a commit in the running values; None averages all commits equally.
    """

    mean: Tensor
    variance: Tensor
    weight: Tensor

    def __init__(self, shape: tuple[int, ...], momentum: float | None = None) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("variance", torch.ones(shape))
        self.register_buffer("weight", torch.zeros(()))
        self._pending: Tensor | None = None

    @torch.no_grad()
    def collect(self, x: Tensor) -> None:
        """Add a batch (..., *shape) to the pending statistics."""
        flat = x.detach().float().reshape(-1, *self.mean.shape)
        if len(flat) == 0:
            return
        mean = flat.mean(0)
        deviations = (flat - mean).square().sum(0)
        batch = torch.stack([torch.full_like(mean, len(flat)), mean, deviations])
        self._pending = batch if self._pending is None else _merge(self._pending, batch)

    @torch.no_grad()
    def commit(self, shared: bool = True) -> None:
        """Fold the pending statistics into the running values.

        Those that are not finite are dropped, as the step that made them is skipped.

        Args:
            shared: Those of all processes; False where each has collected the same.
        """
        if self._pending is None:
            return
        parts = _of_all_processes(self._pending) if shared else [self._pending]
        count, mean, deviations = reduce(_merge, parts)
        self._pending = None
        if not bool(mean.isfinite().all() and deviations.isfinite().all()):
            return
        gain = float(count.flatten()[0]) if self.momentum is None else self.momentum
        keep = 1.0 if self.momentum is None else 1.0 - self.momentum
        weight = float(self.weight) * keep + gain
        share = gain / weight
        # Variance of the mixture of old and new: the mean of the variances, and that of the means.
        between = share * (1.0 - share) * (mean - self.mean).square()
        self.variance.lerp_(deviations / count, share).add_(between)
        self.mean.lerp_(mean, share)
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
        return self.variance.clamp(min=MIN_STD**2).sqrt()

    def standardise(self, x: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (x.float() - self.mean) / self.std()

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of :meth:`standardise`."""
        return x * self.std() + self.mean
