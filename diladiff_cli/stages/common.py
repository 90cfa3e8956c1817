"""What stages share: provenance, data and its order, compiling, seeded networks."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from diladiff_cli.config import StageConfig
from diladiff_cli.data.order import batch_rows
from diladiff_cli.data.tokenizer import same_tokenizer
from diladiff_cli.data.tokens import TokenData, open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.networks.latent import LatentTrunk
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import Artifact, linked, load_artifact, parent_links, relative
from diladiff_cli.runtime.folders import is_there
from diladiff_cli.runtime.model_paths import name_of, ships
from diladiff_cli.runtime.resume import check_resume
from diladiff_cli.runtime.session import check_tracker
from diladiff_cli.stages.from_artifacts import outline
from diladiff_cli.tokenizer_files import read_tokenizer

MAX_LOGITS = 1 << 27  # of one call: 512 MB in float32
# Kinds of sizes, and networks, for which torch compiles a function: beyond its own limits it stops without a word.
VARIANTS = 1024


def path_or_none(name: Path | str | None) -> Path | None:
    """A path where there is a name."""
    return None if name is None else Path(name)


def data_record(data: TokenData, out: Path) -> dict[str, Any]:
    """The data set as an artifact records it."""
    return {
        "path": relative(data.path, out),
        "fingerprint": data.fingerprint,
        "length": data.length,
        "vocab_size": data.vocab_size,
        "mask_id": data.mask_id,
        "separator_id": data.separator_id,
    }


def child_fields(
    stage: str,
    network: Mapping[str, Any],
    out: Path,
    parents: Mapping[str, Artifact],
    tokens: TokenData,
    latents: Path | None = None,
) -> dict[str, Any]:
    """The fields of an artifact that builds on others, the nearest of ``parents`` first, apart from its weights."""
    nearest = next(iter(parents.values()))
    data = {"path": relative(tokens.path, out), "fingerprint": tokens.fingerprint}
    return {
        "stage": stage,
        "network": network,
        "parents": parent_links(out, parents),
        "data": nearest.data | data | {"latents": relative(latents, out) if latents else None},
        "tokenizer": read_tokenizer(nearest.path),
    }


def load_parent(path: Path, stage: str) -> Artifact:
    """The artifact that a stage builds on; says on stderr where its training is not done.

    Raises:
        UserError: It is missing, damaged or of another stage.
    """
    artifact = load_artifact(path, stage)
    progress = artifact.config["progress"]
    step, steps = progress.get("step"), artifact.config["training"].get("max_steps")
    validated = progress.get("validated_step", step)
    if isinstance(step, int) and isinstance(steps, int) and (step < steps or validated != step):
        say(f"{path} is at step {step} of {steps}; what is made from it now will refuse it once it was trained further")
    return artifact


def plan(artifact: Mapping[str, Any], config: StageConfig, out: Path, resume: bool | None) -> dict[str, Any]:
    """What a dry run prints, after a check that the run could go on in its folder."""
    check_tracker(config.log_with)
    check_resume(out, config, artifact, resume)
    for note in config.notes():
        say(note)
    parents = {stage: link | {"path": _from_here(out, link["path"])} for stage, link in artifact["parents"].items()}
    data = {k: _from_here(out, v) if k in ("path", "latents") and v else v for k, v in artifact["data"].items()}
    described = {"stage": artifact["stage"], "network": artifact["network"], "parents": parents, "data": data}
    described |= artifact.get("also", {})
    described |= {"parameters": sum(p.numel() for p in outline(artifact["stage"], artifact["network"]).parameters())}
    return described | {"training": config.to_dict(), "out": str(out)}


def _from_here(out: Path, link: str) -> str:
    """A path that the artifact at ``out`` records: relative to the current folder where it lies in that."""
    path = linked(out, link)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def linear_flops(module: nn.Module, positions: int) -> float:
    """Floating-point operations of a forward pass through a module's linear layers at some positions."""
    weights = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
    return 2.0 * weights * positions


def trunk_flops(trunk: LatentTrunk, latents: int) -> float:
    """:func:`linear_flops` of a latent network, whose layers for the time run once a sequence."""
    once = [part for part in (trunk.time, trunk.interval, trunk.condition) if part is not None]
    return linear_flops(trunk, latents) - sum(linear_flops(part, latents - 1) for part in once)


def open_recorded_data(artifact: Artifact, given: Path | None) -> TokenData:
    """The data set given, else the one that the artifact was trained on.

    Raises:
        UserError: It is missing, or has another tokenizer or length; or nothing was given and it was replaced.
    """
    recorded = artifact.data.get("path")
    path = given or (linked(artifact.place, recorded) if recorded else None)
    if path is None or (given is None and not is_there(path)):
        what = f"the data set of {artifact.path}{f', {path},' if path else ''} is missing"
        if "export" in artifact.config:
            what = f"{name_of(artifact.path)} is a bundle, which comes without its data set"
        remedy = "name one with --data"
        if ships(artifact.path):
            remedy += ", here what diladiff encode --preset demo writes"
        raise UserError(what, remedy)
    data, called = open_tokens(path), name_of(artifact.path)
    for name in ("length", "vocab_size", "mask_id"):
        found, wanted = getattr(data, name), artifact.data.get(name)
        if found != wanted:
            raise UserError(
                f"{path} has {name} {found}, but {called} was trained with {wanted}",
                f"encode the text with --tokenizer {called} --length {artifact.data['length']}",
            )
    tables = (artifact.config["tokenizer"], data.config.get("tokenizer"))
    if tables[0] != tables[1] and not same_tokenizer(artifact.path, path):
        remedy = f"encode the text with --tokenizer {called} --length {data.length}"
        raise UserError(f"{path} has another tokenizer than {called}", remedy)
    if given is None and data.fingerprint != artifact.data.get("fingerprint"):
        raise UserError(f"{path} is not what {called} was trained on", f"restore that, or use this with --data {path}")
    return data


def row_order(config: StageConfig, rows: int) -> Callable[[int], np.ndarray]:
    """Rows drawn before -> row numbers of a global batch; says where there are not enough rows for one."""
    if rows < config.batch_size:
        say(f"{rows} training blocks are fewer than --batch-size {config.batch_size}: a batch has some more than once")
    return lambda drawn: batch_rows(config.seed, drawn, config.batch_size, rows)


def logits_batch(tokens: TokenData) -> int:
    """How many texts may have logits everywhere at once, 64 at most."""
    return min(64, max(1, MAX_LOGITS // (tokens.length * tokens.vocab_size)))


def validation_batches(tokens: TokenData, config: StageConfig, device: torch.device) -> list[torch.Tensor]:
    """The first ``eval_batches`` times the batch size (64 at most) blocks of the validation split, in small batches."""
    split = tokens.split("valid")
    count = min(len(split), config.eval_batches * min(config.batch_size, 64))
    size = logits_batch(tokens)
    return [split.gather(np.arange(i, min(i + size, count))).to(device) for i in range(0, count, size)]


def compile_method(name: str, model: nn.Module, **options: Any) -> None:
    """Replace a method by its compiled form, in place, with options of torch.compile."""
    import torch._dynamo  # late: it takes a second

    limits: Any = torch._dynamo.config
    for name_of_limit in ("recompile_limit", "accumulated_recompile_limit"):
        setattr(limits, name_of_limit, max(getattr(limits, name_of_limit), VARIANTS))
    setattr(model, name, torch.compile(getattr(model, name), **options))


_INITIALISING = threading.Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Networks that are made in the block begin as a seed has it.

    The stages use the global generator for nothing else. It is as before afterwards, and other threads wait.
    """
    with _INITIALISING, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
