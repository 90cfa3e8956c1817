"""The commands that are killed, and what must hold of what they leave on disk."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from diladiff_cli.errors import UserError
from diladiff_cli.integrity import CHECKSUM
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.folders import METRICS_FILE, check_replaceable, restore
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.state import read_progress

from .launcher import OUT

# What two trainings with the same result may differ in: times, and the hashes of files and documents that have some.
TIMES = {"seconds", "tokens_per_second", "mfu", CHECKSUM, "log"}
TIME_IN_CARD = re.compile(rb'"seconds": [0-9.e+-]+|in [0-9.,]+ minutes')
INPUTS = "../../inputs"
# Every optimiser and precision, accumulation, warm-up and decay in one of the trainings; saved and validated often.
SETTINGS = """
batch_size = 16
learning_rate = 1e-2
warmup_steps = 3
ema_decay = 0.9
eval_batches = 1
eval_every = 4
save_every = 3
log_every = 1
max_steps = 20

[data]
tokenizer = "train:300"
length = 16
valid_share = 0.25

[mdlm]
width = 16
layers = 2
heads = 2
optimizer = "muon"
precision = "fp32"

[ae]
latent_width = 8
encoder_layers = 1
decoder_warmup_steps = 5
grad_accum = 2
max_steps = 12
save_every = 5
eval_every = 6

[prior]
width = 16
layers = 2
heads = 2
lr_schedule = "linear"

[student]
tangent_warmup_steps = 10
precision = "fp32"
max_steps = 12
"""


@dataclass(frozen=True)
class Before:
    """What was on disk when a command was started.

    Attributes:
        position: How far it was, see :class:`Case`.
        earlier: An earlier output that the command is to replace, or None.
    """

    position: int
    earlier: Path | None


@dataclass(frozen=True)
class Case:
    """A command that is killed.

    Attributes:
        name: Of the command.
        arguments: Its command line; paths are as seen from the working folder, in which it writes ``out``.
        inspect: Checks what a kill left, ``(place, reference, before) -> position``: how far it is, 0 where the next
            start begins anew. Raises AssertionError or UserError where something was lost or torn.
        goes_on: Whether a later start goes on from what an earlier one left.
        read: What of an output's file must be the reference's.
        earlier: More arguments, which make an output that this command replaces; None where it never does.
        replace: More arguments that let it replace an output of other settings; it then begins anew each time.
    """

    name: str
    arguments: tuple[str, ...]
    inspect: Callable[[Path, Path, Before], int]
    goes_on: bool = False
    read: Callable[[Path], Any] = Path.read_bytes
    earlier: tuple[str, ...] | None = None
    replace: tuple[str, ...] = ()


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in TIMES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def timeless(path: Path) -> Any:
    """A file of a training without its times: JSON as values, all else as bytes."""
    raw = path.read_bytes()
    if path.suffix == ".json":
        return _without_times(json.loads(raw))
    if path.name == METRICS_FILE:
        return [_without_times(json.loads(line)) for line in raw.splitlines()]
    return TIME_IN_CARD.sub(b"", raw) if path.name == "README.md" else raw


def differences(found: Path, wanted: Path, read: Callable[[Path], Any] = Path.read_bytes) -> list[str]:
    """What differs between two outputs, files or folders; ``read`` says what of a file counts."""
    if wanted.is_file():
        return [] if found.is_file() and read(found) == read(wanted) else [f"{found.name} differs"]
    ours, theirs = ({str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()} for root in (found, wanted))
    problems = [f"{name} is missing" for name in sorted(theirs.keys() - ours.keys())]
    problems += [f"{name} is too much" for name in sorted(ours.keys() - theirs.keys())]
    shared = sorted(ours.keys() & theirs.keys())
    return problems + [f"{name} differs" for name in shared if read(ours[name]) != read(theirs[name])]


def whole(place: Path, reference: Path, before: Before) -> int:
    """Of a command that replaces its output as a whole: nothing there, the earlier output, or the new one."""
    out = place / OUT
    restore(out)  # as every reader does
    if not out.exists():
        assert before.earlier is None, "the earlier output is gone"
        return 0
    problems = differences(out, reference)
    if problems and before.earlier is not None:
        problems = differences(out, before.earlier)
    assert not problems, f"neither the old output nor the new one: {problems}"
    return 0


def drawn(place: Path, reference: Path, before: Before) -> int:
    """Of ``sample --out``: the file is old or new, and what lies beside it are its samples, no fewer than before.

    The last line may have been cut off.
    """
    whole(place, reference, before)
    wanted, found = reference.read_bytes().splitlines(keepends=True), [0]
    for part in place.glob(f".{OUT}.partial-*"):
        lines = part.read_bytes().splitlines(keepends=True)
        complete = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
        assert complete == wanted[: len(complete)], "samples beside the file are not its own"
        found.append(len(complete))
    done = (place / OUT).exists() and not differences(place / OUT, reference)
    assert done or max(found) >= before.position, f"{max(found)} samples came after {before.position}"
    return max(found)


def trained(place: Path, reference: Path, before: Before) -> int:
    """Of a training: the last checkpoint loads, is no older than the one before, and its log has no gap."""
    out = place / OUT
    restore(out)
    if not (out / "config.json").exists():
        assert before.earlier is None, "the earlier artifact is gone"
        assert before.position == 0, "the checkpoint is gone"
        if out.exists():
            assert check_replaceable(out) is None  # nothing but what a run begins with
        return 0
    if before.earlier is not None and not differences(out, before.earlier):
        return 0
    artifact, progress = load_artifact(out), read_progress(out / "state")
    assert progress is not None, "the state is gone"
    assert artifact.state_dict().keys() == load_artifact(reference).state_dict().keys()
    assert load_file(out / "state" / "state.safetensors").keys() == state_names(reference)
    step = int(progress["step"])
    assert artifact.config["progress"]["step"] == step, "weights and state are of different steps"
    assert step >= before.position, f"step {step} came after {before.position}"
    assert logged(out, step) == logged(reference, step), "the log up to the checkpoint is not the reference's"
    return step if before.earlier is None else 0


def state_names(out: Path) -> Any:
    """Names of all tensors of a training state."""
    return load_file(out / "state" / "state.safetensors").keys()


def logged(out: Path, step: int) -> list[Any]:
    """Lines of the log up to a step."""
    return [_without_times(line) for line in read_metrics(out / METRICS_FILE) if line["step"] <= step]


def sharded(place: Path, reference: Path, before: Before) -> int:
    """Of a command that adds shards one by one: those that count as finished are whole, and stay."""
    out = place / OUT
    records = sorted(out.glob("*.safetensors.json"))
    for path in records:
        assert path.read_bytes() == (reference / path.name).read_bytes()
        record = json.loads(path.read_text())
        digest = hashlib.sha256((out / record["file"]).read_bytes()).hexdigest()
        assert digest == record["sha256"], f"{record['file']} is torn"
    assert len(records) >= before.position, "a finished shard is gone"
    if (out / "config.json").exists():
        assert not [d for d in differences(out, reference) if ".partial" not in d], "complete, but not the same"
    return len(records)


def training(name: str, *arguments: str) -> Case:
    """A training command, which goes on from its last checkpoint."""
    options = ("--config", f"{INPUTS}/soak.toml", "--out", OUT)
    earlier = ("--seed", "1", "--max-steps", "2")
    return Case(name, (name, *arguments, *options), trained, True, timeless, earlier, ("--fresh",))


CASES = (
    Case(
        "encode",
        ("encode", f"{INPUTS}/soak.txt", "--config", f"{INPUTS}/soak.toml", "--out", OUT),
        whole,
        earlier=("--seed", "1"),
        replace=("--fresh",),
    ),
    Case("encode-ae", ("encode", "--ae", f"{INPUTS}/ckpt/ae", "--batch-size", "8", "--out", OUT), sharded, True),
    training("train-mdlm", "--data", f"{INPUTS}/data"),
    training("train-ae", "--base", f"{INPUTS}/ckpt/mdlm"),
    training("train-prior", "--ae", f"{INPUTS}/ckpt/ae", "--latents", f"{INPUTS}/latents"),
    training("distill", "--prior", f"{INPUTS}/ckpt/prior"),
    Case(
        "sample",
        (
            *("sample", "--model", f"{INPUTS}/ckpt/student", "--steps", "2", "--decode-steps", "8"),
            *("--n", "32", "--batch-size", "4", "--out", OUT),
        ),
        drawn,
        goes_on=True,
        earlier=("--n", "8", "--seed", "1"),
    ),
    Case(
        "export", ("export", "--model", f"{INPUTS}/ckpt/student", "--out", OUT), whole, earlier=("--precision", "fp32")
    ),
)

# What an inspection raises where something was lost.
LOST = (AssertionError, UserError, OSError, ValueError, LookupError)
