"""One Accelerate-wrapped runtime: device, precision, processes, interrupts."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    is_tensorboard_available,
    is_wandb_available,
)

from diladiff_cli.config import StageConfig
from diladiff_cli.notes import is_main_process, say
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.signals import STOPPING, is_heard
from diladiff_cli.settings import ConfigError

# Dense bf16 peak of common GPUs in FLOP/s, for the model FLOP utilisation.
PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}

# Frameworks of their own for sharded weights; --shard has them within ours.
UNSUPPORTED = {"FSDP", "DEEPSPEED", "MEGATRON_LM", "TP"}


class Interrupted(Exception):  # noqa: N818 (no error: what can be used is saved)
    """A signal asked the run to stop; ``saved_step`` is that of the last checkpoint, None where there is none."""

    def __init__(self, signal_number: int, saved_step: int | None) -> None:
        saved = "nothing is saved" if saved_step is None else f"step {saved_step} is saved"
        super().__init__(f"interrupted by {signal.Signals(signal_number).name}, {saved}; the same command continues")
        self.signal_number = signal_number


class CutShort(BaseException):
    """A signal came within :meth:`StopRequest.at_once`."""


TIME_IS_UP = 1  # why a run stops


class StopRequest:
    """Turns signals to stop into a flag that the training loop looks at between steps.

    Only work that need not be finished is left when they come, see :meth:`at_once`.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._at_once = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in STOPPING:
            if is_heard(number):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def why(self) -> int:
        """0, or beyond :data:`TIME_IS_UP` by the number of the signal that came."""
        return TIME_IS_UP + self.signal_number if self.signal_number else 0

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Work that need not be finished: a signal, also one that came before, ends it.

        Raises:
            CutShort: One did.
        """
        try:
            self._at_once = True
            if self.signal_number:
                raise CutShort
            yield
        finally:
            self._at_once = False

    def _note(self, number: int, _: FrameType | None) -> None:
        first = not self.signal_number
        self.signal_number = self.signal_number or number  # the exit status is that of the one that was answered
        if is_main_process():
            what = "came: saving and stopping" if first else "came too: still saving"
            with suppress(OSError):  # whoever reads stderr may be gone, by the same Ctrl-C
                # Unbuffered: this may come in the middle of a print.
                os.write(2, f"\n{signal.Signals(number).name} {what}\n".encode())
        if self._at_once:
            self._at_once = False  # a second signal leaves what ends the work alone
            raise CutShort


def check_tracker(name: str) -> None:
    """Refuse a tracker without its package on the main process, which Accelerate leaves out silently.

    Raises:
        ConfigError: It is missing.
    """
    available = {"none": lambda: True, "tensorboard": is_tensorboard_available, "wandb": is_wandb_available}
    if process_state().is_main_process and not available[name]():
        raise ConfigError([f"--log-with {name} needs its package: pip install 'diladiff[{name}]', or leave it out"])


class Session:
    """The Accelerator of a training run, and what depends on it; to be closed at its end.

    It replaces what the process has set, see :func:`diladiff_cli.runtime.isolation.isolated_run`.

    Args:
        config: Precision, accumulation, batch size and tracker.
        out: The artifact's folder. Trackers write to ``logs`` beside it, as each checkpoint replaces the folder.

    Raises:
        ConfigError: The batch does not divide over processes and micro-batches, or the tracker's package is missing.
    """

    def __init__(self, config: StageConfig, out: Path) -> None:
        if config.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision {config.precision} was not settled")
        place = out.absolute()
        check_tracker(config.log_with)
        if config.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, at the first product on a GPU
            torch.use_deterministic_algorithms(True)
        AcceleratorState._reset_state()  # else an Accelerator of before would dictate precision and accumulation
        GradientState._reset_state()
        self.accelerator = Accelerator(
            mixed_precision="bf16" if config.precision == "bf16" else "no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(
                num_steps=config.grad_accum, adjust_scheduler=False, sync_with_dataloader=False
            ),
            kwargs_handlers=[
                # Buffers are alike everywhere: moments are those of all processes' batches.
                DistributedDataParallelKwargs(broadcast_buffers=False),
                # Some versions of torch reuse weights cast without gradient in the pass that needs one.
                AutocastKwargs(cache_enabled=False),
            ],
            log_with=None if config.log_with == "none" else config.log_with,
            project_dir=str(place.parent / "logs" / place.name),
        )
        if config.log_with == "tensorboard":
            say(f"to see the curves: tensorboard --logdir {place.parent / 'logs' / place.name}")
        self.device = self.accelerator.device
        self.processes = self.accelerator.num_processes
        self.is_main = self.accelerator.is_main_process
        self.sharded = config.shard and self.processes > 1
        self.config = config
        kind = self.accelerator.distributed_type.value
        if kind in UNSUPPORTED:
            raise ConfigError([f"training under {kind} is not supported; launch with --multi_gpu, and use --shard"])
        parts = self.processes * config.grad_accum
        if config.batch_size % parts:
            raise ConfigError(
                [
                    f"--batch-size {config.batch_size} is not a multiple of {self.processes} processes times "
                    f"--grad-accum {config.grad_accum}; change one"
                ]
            )
        self.micro_batch = config.batch_size // parts

    def start_tracker(self, step: int) -> None:
        """Begin to log what comes after ``step``; what a kill has left of later steps is taken back."""
        if self.config.log_with != "none":
            purge = {"tensorboard": {"purge_step": step + 1}}
            self.accelerator.init_trackers("diladiff", config=self.config.to_dict(), init_kwargs=purge)

    def close(self) -> None:
        """End the tracker."""
        for tracker in self.accelerator.trackers:  # end_training() would end the processes' group as well
            tracker.finish()

    def micro_batches(self) -> list[range]:
        """The places in the global batch of each of this process's micro-batches."""
        start = self.accelerator.process_index * self.config.grad_accum
        return [
            range((start + i) * self.micro_batch, (start + i + 1) * self.micro_batch)
            for i in range(self.config.grad_accum)
        ]

    def fetch(self, run: Run, drawn: int) -> list[torch.Tensor]:
        """This process's micro-batches of the step after ``drawn`` rows, ready to be copied to the device."""
        rows = run.row_order(drawn)
        batches = [run.fetch(rows[places.start : places.stop]) for places in self.micro_batches()]
        return [batch.pin_memory() for batch in batches] if self.device.type == "cuda" else batches

    def mean_over_processes(self, values: dict[str, torch.Tensor]) -> dict[str, float]:
        """Averages over the processes of scalar tensors."""
        if self.processes == 1:
            return {k: float(v) for k, v in values.items()}
        stacked = torch.stack([v.float().to(self.device) for v in values.values()])
        reduced = self.accelerator.reduce(stacked, "mean")
        return dict(zip(values, reduced.tolist(), strict=True))

    def agree(self, number: int) -> int:
        """The largest of the processes' numbers, so that all of them act alike."""
        if self.processes == 1:
            return number
        gathered = self.accelerator.gather(torch.tensor([number], device=self.device))
        return int(gathered.max())


def peak_flops(device: torch.device) -> float | None:
    """Peak of a GPU in FLOP/s, for dense products in bf16; None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for key, peak in PEAK_FLOPS.items() if key in name), None)
