"""Latents for the prior and the student: from a folder, or encoded on the fly."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diladiff_cli.data.latents import LatentData, open_latents
from diladiff_cli.data.tokens import TokenData
from diladiff_cli.errors import UserError
from diladiff_cli.notes import say
from diladiff_cli.runtime.artifacts import Artifact, linked
from diladiff_cli.runtime.folders import is_there, restore
from diladiff_cli.runtime.state import read_progress
from diladiff_cli.stages.feature_sources import TextEncoder


@dataclass(frozen=True)
class LatentSource:
    """Training rows, and how a fetched batch becomes standardised latents on the device.

    Attributes:
        rows: How many there are.
        fetch: Row numbers -> batch on the CPU.
        to_latents: Batch on the device -> z_0 (B, N, C).
        encoder: The networks that do this; None where latents are stored.
    """

    rows: int
    fetch: Callable[[np.ndarray], Tensor]
    to_latents: Callable[[Tensor], Tensor]
    encoder: TextEncoder | None = None

    def to(self, device: torch.device) -> None:
        """Move the networks, where there are any."""
        if self.encoder is not None:
            self.encoder.to(device)


def encoded_latents(encoder: TextEncoder, tokens: TokenData) -> LatentSource:
    """Latents of training blocks, encoded on the fly."""
    split = tokens.split("train")
    return LatentSource(len(split), split.gather, encoder, encoder)


def stored_latents(ae: Artifact, tokens: TokenData, folder: Path) -> LatentSource:
    """Latents of training blocks from a folder of ``encode --ae``.

    Raises:
        UserError: It holds none, or those of another auto-encoder or of other data.
    """
    rows = matching_latents(ae, tokens, folder).split("train")
    return LatentSource(len(rows), lambda r: torch.from_numpy(rows.gather(r)), lambda z: z.float())


def maker_of(latents: Path) -> Path:
    """The auto-encoder that latents record as theirs.

    Raises:
        UserError: There are no such latents, or it is not where they have it.
    """
    restore(latents)
    link = open_latents(latents).config.get("parents", {}).get("ae", {}).get("path")
    place = linked(latents, link) if link else None
    if place is None or not is_there(place):
        where = f", {place}, is missing" if place else " is not recorded"
        raise UserError(f"the auto-encoder that made {latents}{where}", "name it with --ae")
    return place


def matching_latents(ae: Artifact, tokens: TokenData, folder: Path) -> LatentData:
    """Stored latents of an auto-encoder and a data set.

    Raises:
        UserError: No latents are there, or those of another auto-encoder or of other data.
    """
    restore(folder)
    stored = open_latents(folder)
    if stored.config["ae_hash"] != ae.hash:
        raise UserError(f"{folder} holds latents of another auto-encoder", f"run encode --ae {ae.path} --out {folder}")
    if stored.config["fingerprint"] != tokens.fingerprint:
        raise UserError(
            f"{folder} holds latents of another data set than {tokens.path}",
            f"name theirs with --data, or run encode --ae {ae.path} --data {tokens.path} --fresh --out {folder}",
        )
    return stored


def data_of(latents: Path) -> Path | None:
    """The data set that latents record as theirs, where it is still there."""
    restore(latents)
    place = linked(latents, open_latents(latents).config["data"])
    return place if is_there(place) else None


def recorded_latents(prior: Artifact, ae: Artifact, tokens: TokenData, out: Path, resume: bool | None) -> Path | None:
    """The folder of latents that a prior was trained on, where it still holds those of this auto-encoder and data set.

    A run in ``out`` that may go on without stored latents, as it began, gets none. What is taken, or why nothing is,
    is reported on stderr.
    """
    stored = None if resume is False else read_progress(out / "state")
    if not prior.data.get("latents") or (stored is not None and not stored["made_from"].get("stored latents")):
        return None
    folder = linked(prior.path, prior.data["latents"])
    note, matches = f"latents: {folder}, as {prior.path} was trained on", True
    try:
        matching_latents(ae, tokens, folder)
    except UserError as error:
        note, matches = f"encoding on the fly: {prior.path} was trained on stored latents, but {error.what}", False
    say(note)
    return folder if matches else None
