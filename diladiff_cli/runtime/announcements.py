"""What a training run says to the user."""

from collections.abc import Mapping
from typing import Any

from diladiff_cli.config import StageConfig
from diladiff_cli.notes import say
from diladiff_cli.runtime.precision import has_fast_bf16
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.session import Session


def announce(run: Run, session: Session, config: StageConfig, step: int, parameters: int) -> None:
    """Say what is about to be done, from ``step`` on, and what in it may not be meant."""
    done = f", {step:,} of them done" if step else ""
    batch = f"{config.batch_size} x {run.tokens_per_row} tokens"
    several = f"{session.processes} x " if session.processes > 1 else ""
    place = f"{config.precision} on {several}{session.device.type}"
    work = f"{config.max_steps:,} steps{done}, batches of {batch}, {parameters:,} parameters to train, {place}"
    say(f"{run.artifact['stage']}: {work}")
    if config.precision == "bf16" and not has_fast_bf16(session.device):
        say("bf16 is emulated here, and slow; --precision fp32 is faster, with --resume where a run goes on")
    for note in [*run.notes, *config.notes()]:
        say(note)


def in_words(line: Mapping[str, Any]) -> str:
    """A line of training metrics."""
    mfu = f", MFU {line['mfu']:.1%}" if "mfu" in line else ""
    skipped = f", {line['skipped_steps']} steps skipped" if "skipped_steps" in line else ""
    rate = f"{line['tokens_per_second']:,.0f} tokens/s"
    return f"loss {line['loss']:.4f}, {rate}, lr {line['learning_rate']:.2g}{mfu}{skipped}"


def time_is_up(minutes: float, step: int, saved_step: int) -> str:
    """How a run ends after ``--max-minutes``."""
    saved = "" if saved_step == step else f"; step {saved_step} is saved"
    return f"stopped after {minutes} minutes at step {step}{saved}; the same command continues"
