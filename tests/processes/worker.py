"""One process of a run, or the only one: ``worker.py COMMANDS`` gives the command line a list of commands in turn.

Process start-up takes seconds, so one launch serves many checks. COMMANDS is a JSON list of objects with ``name``,
``arguments`` and perhaps ``faults``. For each command the process writes into its working folder
``NAME-RANK.out``, ``NAME-RANK.err``, ``NAME-RANK.status``, where it trained ``NAME-RANK.digests``, a line for each
step: a hash of the weights that this process holds after it, and where it tokenised ``NAME-RANK.batches``, a line for
each batch: its number of documents.

A fault is an object with ``rank``, ``kind`` (see ``FAULTS``, or "nan", which spoils the loss of that rank's share) and
when it happens: after a ``step``, during the ``validation`` or the ``save`` of that number, or before that ``shard`` of
this rank is written.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diladiff_cli.cli.main import leave, run
from diladiff_cli.cli.output import quiet_libraries
from diladiff_cli.data import shards
from diladiff_cli.errors import UserError
from diladiff_cli.runtime import loop
from diladiff_cli.runtime.run import Run
from diladiff_cli.runtime.sharding import whole
from diladiff_cli.stages import distill, encode, encode_latents, train_ae, train_mdlm, train_prior

RANK = int(os.environ.get("RANK", "0"))
SHARD_BYTES = 1 << 11  # several shards of latents, so that every process writes some
DOCUMENTS_AT_ONCE = 3  # several batches of text, so that every process tokenises some

Fault = dict[str, Any]


def _fail(error: Exception) -> None:
    raise error


FAULTS: dict[str, Callable[[], None]] = {
    "sigterm": lambda: os.kill(os.getpid(), signal.SIGTERM),
    "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "user error": lambda: _fail(UserError("this process alone cannot go on", "mend it")),
    "error": lambda: _fail(ValueError("this process alone met the unforeseen")),
}


def digest(model: nn.Module) -> str:
    """Hash of all weights and statistics, bit for bit."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(name.encode() + whole(value.detach()).cpu().numpy().tobytes())
    return found.hexdigest()


def observed(job: Run, faults: list[Fault], digests: Path) -> loop.Run:
    """The same training, which notes its weights after each step and meets this process's faults."""
    step = validations = 0

    def loss_fn(model: nn.Module, batch: Tensor, rng: Any) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal step
        step = rng.step + 1
        loss, metrics = job.loss_fn(model, batch, rng)
        bad = any(fault["kind"] == "nan" and fault["step"] == step for fault in faults)
        # the value alone: gradients stay finite everywhere, and nobody else sees anything odd
        return (loss + loss.detach() * float("nan") if bad else loss), metrics

    def after_step(bare: nn.Module) -> None:
        job.after_step(bare)
        with digests.open("a") as file:
            file.write(f"{step} {digest(bare)}\n")
        for fault in faults:
            if fault["kind"] != "nan" and fault.get("step") == step:
                FAULTS[fault["kind"]]()

    def validate(average: nn.Module) -> dict[str, Any]:
        nonlocal validations
        validations += 1
        for fault in faults:
            if fault.get("validation") == validations:
                FAULTS[fault["kind"]]()
        return job.validate(average)

    return replace(job, loss_fn=loss_fn, after_step=after_step, validate=validate)


@contextmanager
def faulty_saving(faults: list[Fault]) -> Iterator[None]:
    """The main process meets a fault when half of a checkpoint is written, the others while it is."""
    gather, save, shard = loop.whole_state, loop.save_state, encode_latents.write_shard
    counts = {"save": 0, "shard": 0}

    def strike(kind: str) -> None:
        for fault in faults:
            if fault.get(kind) == counts[kind]:
                FAULTS[fault["kind"]]()

    def gathered(*arguments: Any, **options: Any) -> Any:
        found = gather(*arguments, **options)  # what the processes do together, before the main one writes
        counts["save"] += 1
        if RANK != 0:
            strike("save")
        return found

    def half_saved(folder: Path, *arguments: Any) -> None:
        save(folder, *arguments)
        if any(fault.get("save") == counts["save"] for fault in faults):
            whole = (folder / "state.safetensors").read_bytes()
            (folder / "state.safetensors").write_bytes(whole[: len(whole) // 2])
            strike("save")

    def write_shard(*arguments: Any) -> dict[str, Any]:
        counts["shard"] += 1
        strike("shard")
        return shard(*arguments)

    loop.whole_state, loop.save_state, encode_latents.write_shard = gathered, half_saved, write_shard
    try:
        yield
    finally:
        loop.whole_state, loop.save_state, encode_latents.write_shard = gather, save, shard


def counted(tokenise: Callable[..., Any], batches: Path) -> Callable[..., Any]:
    """The same tokenising, which notes its batches."""

    def tokenised(tokenizer: Any, documents: Any) -> Any:
        with batches.open("a") as file:
            file.write(f"{len(documents)}\n")
        return tokenise(tokenizer, documents)

    return tokenised


@contextmanager
def streams(name: str) -> Iterator[None]:
    """Both standard streams in files of their own, what compiled code writes included."""
    saved = {number: os.dup(number) for number in (1, 2)}
    for number, ending in ((1, "out"), (2, "err")):
        with open(f"{name}-{RANK}.{ending}", "wb") as file:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in saved.items():
            os.dup2(copy, number)
            os.close(copy)


def main() -> None:
    quiet_libraries()
    torch.set_num_threads(1)
    shards.SHARD_BYTES = SHARD_BYTES
    encode.DOCUMENTS_AT_ONCE, tokenise = DOCUMENTS_AT_ONCE, encode.encode_documents
    status = 0
    for command in json.loads(sys.argv[1]):
        name = command["name"]
        faults = [fault for fault in command.get("faults", []) if fault["rank"] == RANK]

        def train(job: Run, *rest: Any, name: str = name, faults: list[Fault] = faults) -> dict[str, Any]:
            return loop.train(observed(job, faults, Path(f"{name}-{RANK}.digests")), *rest)

        for stage in (train_mdlm, train_ae, train_prior, distill):
            vars(stage)["train"] = train
        encode.encode_documents = counted(tokenise, Path(f"{name}-{RANK}.batches"))
        with streams(name), faulty_saving(faults):
            status = run(command["arguments"])
        Path(f"{name}-{RANK}.status").write_text(str(status))
    leave(status)


if __name__ == "__main__":
    main()
