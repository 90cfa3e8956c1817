"""``encode --ae``: the blocks of a token data set -> standardised latents, sharded and resumable."""

import os
import shutil
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from rich.filesize import decimal

from diladiff_cli import __version__
from diladiff_cli.core.autocast import autocast
from diladiff_cli.data.latents import FORMAT_VERSION
from diladiff_cli.data.shards import is_whole, rows_per_shard, shard_name, write_shard
from diladiff_cli.data.tokens import TokenData, TokenSplit
from diladiff_cli.errors import UserError, writing
from diladiff_cli.integrity import CHECKSUM, read_sealed, sealed
from diladiff_cli.notes import say, saying_if_interrupted
from diladiff_cli.runtime.artifacts import parent_links, relative
from diladiff_cli.runtime.folders import partial_name, recover, share, take_place, write_text
from diladiff_cli.runtime.locks import exclusive_out
from diladiff_cli.runtime.memory import Halving
from diladiff_cli.runtime.model_paths import resolved
from diladiff_cli.runtime.precision import AUTO, precision_of_main
from diladiff_cli.runtime.processes import from_main, process_state
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.runtime.resume import check_alike
from diladiff_cli.stages.common import load_parent, open_recorded_data, path_or_none
from diladiff_cli.stages.feature_sources import TextEncoder, text_encoder
from diladiff_cli.stages.from_artifacts import build

SAME = ("format_version", "ae_hash", "fingerprint", "precision", "rows_per_shard")  # of a plan that may go on


@exclusive_out
def encode_latents(
    *,
    ae: Path | str,
    data: Path | str | None = None,
    out: Path | str,
    batch_size: int = 64,
    precision: str = AUTO,
    resume: bool | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Write the standardised latents of a data set's blocks, in their order.

    Shards appear one by one under ``out``; the same command skips those that are there. Several processes share them.
    With ``resume`` False they appear beside it, and take its place in the end.

    Args:
        ae: Artifact of ``train-ae``.
        data: Token data set; None for the one that the auto-encoder was trained on.
        out: Folder of the latents.
        batch_size: Blocks encoded at once.
        precision: "bf16" for autocast of matrix products, or "fp32"; latents are stored in float16 either way. "auto"
            goes on with that of finished shards, and otherwise takes the faster one.
        resume: False starts over; otherwise finished shards of the same auto-encoder and data are kept.
        dry_run: Only check the inputs.

    Returns:
        The folder's config.json, or the plan of a dry run: rows of the splits, shards in all, those finished, and
        bytes of the latents.

    Raises:
        UserError: Unusable inputs, or a folder that holds something else.
    """
    ae, data, out = Path(resolved(ae)), path_or_none(data), Path(out)
    artifact = load_parent(ae, "ae")
    tokens = open_recorded_data(artifact, data)
    state = process_state()
    of_main = precision_of_main(_stored_precision(out, resume) if precision == AUTO else precision)
    precision = of_main if precision == AUTO else precision
    encoder = text_encoder(artifact, build(artifact, state.device), state.device)
    latents, channels = encoder.autoencoder.latent_shape
    rows = {name: len(tokens.split(name)) for name in ("train", "valid")}
    row_bytes = 2 * latents * channels
    total_bytes = sum(rows.values()) * row_bytes
    rows_of_shard = rows_per_shard(row_bytes, total_bytes)
    plan: dict[str, Any] = {
        "stage": "latents",
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "ae_hash": artifact.hash,
        "fingerprint": tokens.fingerprint,
        "shape": [latents, channels],
        "precision": precision,
        "rows_per_shard": rows_of_shard,
        "parents": parent_links(out, {"ae": artifact}),
        "data": relative(tokens.path, out),
    }
    check_alike(out, {name: plan[name] for name in SAME} | {"fresh": resume is False, "dry_run": dry_run})
    done = from_main(_finished_shards(out, plan, resume))
    shards = sum(-(-count // rows_of_shard) for count in rows.values())
    if dry_run:
        return plan | {"rows": rows, "shards": shards, "finished_shards": len(done), "bytes": total_bytes}
    if len(done) == shards and (out / "config.json").exists():
        say(f"{out} is finished; --fresh encodes it again")
    elif done:
        say(f"{out} goes on: {len(done)} of {shards} shards are there")
    _tell_if_large(out, total_bytes * (shards - len(done)) // shards)
    state.wait_for_everyone()  # all have read the folder before it changes
    place = partial_name(out, "fresh") if resume is False else out
    if state.is_main_process:
        _begin(out, place, plan)
    _check_shared(out, place, state)
    work = _Work(tokens, encoder, place, batch_size, rows_of_shard, done, state, Halving("blocks"))
    kept = saying_if_interrupted(lambda: _what_is_kept(out, shards))
    with kept if place == out else nullcontext(), autocast(state.device, precision):
        splits = {name: work.encode_split(name) for name in ("train", "valid")}
    state.wait_for_everyone()
    config = plan | {"splits": splits}
    if state.is_main_process:
        _finish(out, place, config)
    state.wait_for_everyone()
    return config


def _begin(out: Path, place: Path, plan: dict[str, Any]) -> None:
    """Make the folder ready in which shards appear."""
    with writing(out, place):
        recover(out)
        place.mkdir(parents=True, exist_ok=True)
        for leftover in _leftovers(place):
            leftover.unlink()
        write_text(place / "plan.json", sealed(plan))


def _check_shared(out: Path, place: Path, state: PartialState) -> None:
    """Refuse a place that is not the same one to all processes, by a new file in it: copies may be alike."""
    mark = place / from_main(partial_name(place / "mark").name)
    if state.is_main_process:
        mark.touch()
    try:
        state.wait_for_everyone()
        with suppress(OSError):
            os.listdir(place.parent)  # a network disk may otherwise still show the folder as missing
        if not mark.exists():
            raise UserError(f"{out} is not the main process's", "--out must lie on a disk that every machine sees")
        state.wait_for_everyone()
    finally:
        if state.is_main_process:
            mark.unlink()


def _finish(out: Path, place: Path, config: dict[str, Any]) -> None:
    """Write the config.json, which takes up the records of all shards, and put the folder in its place."""
    for split in config["splits"].values():
        split["shards"] = [_record(place / name) for name in split["shards"]]
    with writing(out, place):
        write_text(place / "config.json", sealed(config))
        if place != out:
            take_place(place, out)


def _tell_if_large(out: Path, wanted: int) -> None:
    """Say how many bytes are still to be written where the disk has not as many free."""
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.is_dir())
    with suppress(OSError):  # a disk that does not tell
        free = shutil.disk_usage(place).free
        if free < wanted:
            say(f"{out} will take {decimal(wanted)} more, but {decimal(free)} are free there")


def _record(shard: Path) -> dict[str, Any]:
    """What was noted beside a finished shard.

    Raises:
        UserError: Nothing, or nothing that can be trusted.
    """
    note = shard.with_name(f"{shard.name}.json")
    try:
        record = read_sealed(note)
    except (OSError, ValueError) as error:
        raise UserError(f"{note} cannot be read ({error})", "use --fresh to encode again") from error
    return {name: value for name, value in record.items() if name != CHECKSUM}


def _stored_precision(out: Path, resume: bool | None) -> str:
    """The precision of the latents in a folder that may go on; ``auto`` where there are none."""
    if resume is False:
        return AUTO
    try:
        return str(read_sealed(out / "plan.json").get("precision", AUTO))
    except (OSError, ValueError):  # told by whoever looks for finished shards
        return AUTO


def _finished_shards(out: Path, plan: dict[str, Any], resume: bool | None) -> set[str]:
    """Names of the shards under ``out`` that belong to this plan."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is not a folder", "choose another --out")
    if not out.exists() or not set(out.iterdir()) - _leftovers(out):
        return set()
    try:
        stored = read_sealed(out / "plan.json")
    except FileNotFoundError as error:
        raise UserError(f"{out} holds something else than latents", "choose another --out") from error
    except ValueError as error:
        if resume is not False:
            raise UserError(f"{out / 'plan.json'} is damaged ({error})", "use --fresh to encode again") from error
        return set()
    if resume is False:
        return set()
    if any(stored.get(key) != plan[key] for key in SAME):
        raise UserError(
            f"{out} holds latents of another auto-encoder, data set or precision",
            "use --fresh to replace them, or another --out",
        )
    return _whole_shards(out)


def _whole_shards(out: Path) -> set[str]:
    return {p.name for p in out.glob("*.safetensors") if p.with_name(f"{p.name}.json").exists() and is_whole(p)}


def _leftovers(out: Path) -> set[Path]:
    """Files that a killed run was writing."""
    return set(out.glob(".*.partial*"))


def _what_is_kept(out: Path, shards: int) -> str:
    whole = len(_whole_shards(out))
    if not whole:
        return f"{out}: no shard was complete; the same command begins anew"
    return f"{out}: {whole} of {shards} shards are kept; the same command goes on"


@dataclass(frozen=True)
class _Work:
    """What one process needs to encode its share of the shards."""

    tokens: TokenData
    encoder: TextEncoder
    out: Path
    batch_size: int
    rows_per_shard: int
    done: set[str]
    state: PartialState
    halving: Halving

    def encode_split(self, name: str) -> dict[str, Any]:
        """Write this process's shards of a split; returns the names of all of them."""
        split, size = self.tokens.split(name), self.rows_per_shard
        starts = range(0, len(split), size)
        names = [shard_name(name, i) for i in range(len(starts))]
        turn, turns = self.state.process_index, self.state.num_processes
        mine = [i for i in range(len(starts)) if names[i] not in self.done][turn::turns]
        rows = [np.arange(starts[i], min(starts[i] + size, len(split))) for i in mine]
        with Bar(f"latents {name}", sum(map(len, rows)), 0, self.state.is_main_process) as bar:
            for i, part in zip(mine, rows, strict=True):
                latents = self._latents(split, part, bar)
                with writing(self.out):
                    record = write_shard(self.out / names[i], latents, "latents")
                    share(self.out / names[i])
                    write_text(self.out / f"{names[i]}.json", sealed(record))
        return {"rows": len(split), "shards": names}

    def _latents(self, split: TokenSplit, rows: np.ndarray, bar: Bar) -> np.ndarray:
        def encoded(part: range) -> np.ndarray:
            blocks = split.gather(rows[part.start : part.stop]).to(self.state.device)
            latents: np.ndarray = self.encoder(blocks).half().cpu().numpy()
            bar.update(len(part), "")
            return latents

        parts = []
        for start in range(0, len(rows), self.batch_size):
            parts += self.halving(encoded, range(start, min(start + self.batch_size, len(rows))))
        return np.concatenate(parts)
