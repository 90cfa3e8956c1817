"""Latents for the prior and the student: from a folder, or encoded on the fly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.tokens import TokenData
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import Artifact, linked
from diladiff_cli.runtime.folders import restore
from diladiff_cli.runtime.processes import process_state
from diladiff_cli.runtime.progress import say
from diladiff_cli.stages.networks import TextEncoder


@dataclass(frozen=True)
class LatentSource:
    """Training rows, and how a fetched batch becomes standardised latents on the device."""

    rows: int
    fetch: Callable[[np.ndarray], Tensor]
    to_latents: Callable[[Tensor], Tensor]


def latent_source(ae: Artifact, encoder: TextEncoder | None, tokens: TokenData, folder: Path | None) -> LatentSource:
    """Stored latents where a folder is given, else the encoder on training blocks.

    Raises:
        UserError: The folder holds latents of another auto-encoder or of other data.
    """
    if folder is None:
        if encoder is None:
            raise ValueError("neither latents nor an encoder")
        split = tokens.split("train")
        return LatentSource(len(split), split.gather, encoder)
    restore(folder)
    stored = open_latents(folder)
    if stored.config["ae_hash"] != ae.hash:
        raise UserError(f"{folder} holds latents of another auto-encoder", f"run encode --ae {ae.path} --out {folder}")
    if stored.config["fingerprint"] != tokens.fingerprint:
        raise UserError(f"{folder} holds latents of another data set", f"run encode --ae {ae.path} --out {folder}")
    rows = stored.split("train")
    return LatentSource(len(rows), lambda r: torch.from_numpy(rows.gather(r)), lambda z: z.float())


def recorded_latents(prior: Artifact, ae: Artifact, tokens: TokenData) -> Path | None:
    """The folder of latents that a prior was trained on, where it still holds those of this auto-encoder and data set.

    What is taken, or why nothing is, is told on stderr.
    """
    if not prior.data.get("latents"):
        return None
    folder: Path | None = linked(prior.path, prior.data["latents"])
    note = f"latents: {folder}, as {prior.path} was trained on"
    try:
        latent_source(ae, None, tokens, folder)
    except UserError as error:
        folder, note = None, f"encoding on the fly: {prior.path} was trained on stored latents, but {error.what}"
    if process_state().is_main_process:
        say(note)
    return folder


def validation_latents(encoder: TextEncoder, batches: list[Tensor]) -> list[Tensor]:
    """Standardised latents of the validation batches."""
    return [encoder(x) for x in batches]
