"""``encode --ae``: the blocks of a token data set -> standardised latents, sharded and resumable."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from diladiff_cli import __version__
from diladiff_cli.data.latents import FORMAT_VERSION
from diladiff_cli.data.shards import shard_name, write_shard
from diladiff_cli.data.tokens import TokenData, TokenSplit
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact, parent_links
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.runtime.progress import Bar
from diladiff_cli.stages.common import open_recorded_data, relative
from diladiff_cli.stages.networks import TextEncoder, build, text_encoder

ROWS_PER_SHARD = 8192


def encode_latents(
    *,
    ae: Path,
    data: Path | None = None,
    out: Path,
    batch_size: int = 256,
    precision: str = "bf16",
    resume: bool | None = None,
) -> dict[str, Any]:
    """Write the standardised latents of a data set's blocks, in their order.

    Shards appear one by one under ``out``; the same command skips those that are there. Several processes share them.

    Args:
        ae: Artifact of ``train-ae``.
        data: Token data set; None for the one that the auto-encoder was trained on.
        out: Folder of the latents.
        batch_size: Blocks encoded at once.
        precision: "bf16" for autocast of matrix products, or "fp32"; latents are stored in float16 either way.
        resume: False starts over; otherwise finished shards of the same auto-encoder and data are kept.

    Returns:
        The folder's config.json.

    Raises:
        UserError: Unusable inputs, or a folder that holds something else.
    """
    artifact = load_artifact(ae, "ae")
    tokens, data_path = open_recorded_data(artifact, data)
    state = process_state()
    encoder = text_encoder(artifact, build(artifact, state.device), state.device)
    plan = {
        "stage": "latents",
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "ae_hash": artifact.hash,
        "fingerprint": tokens.fingerprint,
        "shape": list(encoder.autoencoder.latent_shape),
        "precision": precision,
        "parents": parent_links(out, {"ae": artifact}),
        "data": relative(data_path, out),
    }
    done = _finished_shards(out, plan, resume)
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        _write_json(out / "plan.json", plan)
    state.wait_for_everyone()
    with torch.autocast(state.device.type, torch.bfloat16, enabled=precision == "bf16"):
        splits = {
            name: _encode_split(name, tokens, encoder, out, batch_size, done, state) for name in ("train", "valid")
        }
    state.wait_for_everyone()
    config = plan | {"splits": splits}
    if state.is_main_process:
        for split in splits.values():
            split["shards"] = [json.loads((out / f"{name}.json").read_text()) for name in split["shards"]]
        _write_json(out / "config.json", config)
    state.wait_for_everyone()
    return config


def _write_json(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=2) + "\n")
    partial.replace(path)


def _finished_shards(out: Path, plan: dict[str, Any], resume: bool | None) -> set[str]:
    """Names of the shards under ``out`` that belong to this plan."""
    if not out.exists() or resume is False:
        return set()
    try:
        stored = json.loads((out / "plan.json").read_text())
    except FileNotFoundError as error:
        if any(out.iterdir()):
            raise UserError(f"{out} holds something else than latents", "choose another --out") from error
        return set()
    except ValueError:
        stored = {}
    same = all(stored.get(key) == plan[key] for key in ("format_version", "ae_hash", "fingerprint", "precision"))
    if not same:
        raise UserError(
            f"{out} holds latents of another auto-encoder, data set or precision",
            "use --fresh to replace them, or another --out",
        )
    return {p.name for p in out.glob("*.safetensors") if p.with_name(f"{p.name}.json").exists()}


def _encode_split(
    name: str, tokens: TokenData, encoder: TextEncoder, out: Path, batch_size: int, done: set[str], state: PartialState
) -> dict[str, Any]:
    split = tokens.split(name)
    starts = range(0, len(split), ROWS_PER_SHARD)
    names = [shard_name(name, i) for i in range(len(starts))]
    mine = [i for i in range(len(starts)) if i % state.num_processes == state.process_index and names[i] not in done]
    with Bar(f"latents {name}", len(mine), 0, state.is_main_process) as bar:
        for i in mine:
            rows = np.arange(starts[i], min(starts[i] + ROWS_PER_SHARD, len(split)))
            record = write_shard(out / names[i], _latents(split, rows, encoder, batch_size, state.device), "latents")
            _write_json(out / f"{names[i]}.json", record)
            bar.update(1, f"{len(rows):,} blocks")
    return {"rows": len(split), "shards": names}


def _latents(
    split: TokenSplit, rows: np.ndarray, encoder: TextEncoder, batch_size: int, device: torch.device
) -> np.ndarray:
    found = [
        encoder(split.gather(rows[i : i + batch_size]).to(device)).half().cpu().numpy()
        for i in range(0, len(rows), batch_size)
    ]
    return np.concatenate(found)
