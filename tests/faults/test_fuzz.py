"""Random damage to every kind of file: refused with its name, or without any effect; never a wrong result.

``DILADIFF_FUZZ=1000 pytest tests/faults/test_fuzz.py`` tries a thousand positions in each file, and prints the counts.
"""

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from diladiff_cli.config import SECTIONS
from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.tokenizer import load_tokenizer
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.runtime.optim import LrOverride, build_optimizers
from diladiff_cli.runtime.state import load_state, read_progress
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.from_artifacts import CLASSES, build

from ..chain import Chain
from .damage import Tally, spoil

POSITIONS = int(os.environ.get("DILADIFF_FUZZ", "10"))
STAGE_NAMES = ("mdlm", "ae", "prior", "student")
SHARDS = ("train-00000.safetensors", "valid-00000.safetensors")
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def chain(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A copy to damage, with latents."""
    root = tmp_path_factory.mktemp("fuzz") / "chain"
    shutil.copytree(tiny_chain.root, root)
    encode_latents(ae=Chain(root).ae, out=root / "latents")
    return Chain(root)


@pytest.fixture(scope="module")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts over all files; shown in the end where somebody asked for more positions."""
    found = Tally()
    yield found
    if "DILADIFF_FUZZ" in os.environ:
        manager = request.config.pluginmanager.getplugin("capturemanager")
        with manager.global_and_fixture_disabled():
            print("", *found.lines(), sep="\n")


def digest(tensors: Any) -> str:
    """Of names, kinds and contents."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def meaning(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its checksum, whatever the damage made of that entry's name."""
    kept = ("hash", "fingerprint", "ae_hash")
    return {k: v for k, v in config.items() if k in kept or not (isinstance(v, str) and len(v) == 64)}


def use_artifact(folder: Path) -> Callable[[], Any]:
    """As the next stage does."""

    def use() -> Any:
        artifact = load_artifact(folder)
        return meaning(artifact.config), digest(build(artifact).state_dict())

    return use


def use_tokenizer(folder: Path) -> Callable[[], Any]:
    def use() -> Any:
        tokenizer = load_tokenizer(folder)
        return tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map

    return use


def use_state(folder: Path) -> Callable[[], Any]:
    """As a run that goes on does: weights, average and optimisers."""
    artifact = load_artifact(folder)
    network = {k: v for k, v in artifact.network.items() if k != "features"}
    fresh: nn.Module = CLASSES[artifact.stage](**network)

    def use() -> Any:
        progress = read_progress(folder / "state")
        assert progress is not None
        model, averaged = copy.deepcopy(fresh), copy.deepcopy(fresh)
        config = SECTIONS[artifact.stage].from_dict(progress["training"])
        optimizers = build_optimizers(model, config, lambda _: LrOverride())
        load_state(folder / "state", model, averaged, optimizers)
        states = [v for o in optimizers for v in o.state_dict()["state"].values()]
        moments = {f"{i}/{k}": torch.as_tensor(v) for i, state in enumerate(states) for k, v in state.items()}
        return meaning(progress), *map(digest, (model.state_dict(), averaged.state_dict(), moments))

    return use


def use_data(folder: Path) -> Callable[[], Any]:
    """As training does, all blocks of both splits."""

    def use() -> Any:
        data = open_tokens(folder)
        splits = [data.split(name) for name in ("train", "valid")]
        return meaning(data.config), [split.gather(range(len(split))).tolist() for split in splits]

    return use


def use_latents(folder: Path) -> Callable[[], Any]:
    def use() -> Any:
        latents = open_latents(folder)
        splits = [latents.split(name) for name in ("train", "valid")]
        return meaning(latents.config), [split.gather(np.arange(len(split))).tobytes() for split in splits]

    return use


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_artifact_is_refused(chain: Chain, tally: Tally, stage: str, name: str) -> None:
    folder = chain.root / "ckpt" / stage
    spoil(folder / name, use_artifact(folder), POSITIONS, f"{stage} {name}", tally, name)


@pytest.mark.parametrize("place", ["data", *(f"ckpt/{stage}" for stage in STAGE_NAMES)])
@pytest.mark.parametrize("name", TOKENIZER)
def test_a_damaged_tokenizer_is_refused(chain: Chain, tally: Tally, place: str, name: str) -> None:
    folder = chain.root / place
    spoil(folder / name, use_tokenizer(folder), POSITIONS, f"{place} {name}", tally, name)


@pytest.mark.parametrize("stage", STAGE_NAMES)
@pytest.mark.parametrize("name", ["state.json", "state.safetensors"])
def test_a_damaged_training_state_is_refused(chain: Chain, tally: Tally, stage: str, name: str) -> None:
    folder = chain.root / "ckpt" / stage
    spoil(folder / "state" / name, use_state(folder), POSITIONS, f"{stage} {name}", tally, f"state/{name}")


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_damaged_metrics_are_refused(chain: Chain, tally: Tally, stage: str) -> None:
    file = chain.root / "ckpt" / stage / "metrics.jsonl"
    spoil(file, lambda: read_metrics(file), POSITIONS, f"{stage} metrics", tally, file.name)


@pytest.mark.parametrize("name", ["config.json", *SHARDS])
def test_a_damaged_token_data_set_is_refused(chain: Chain, tally: Tally, name: str) -> None:
    kind = "data/config.json" if name == "config.json" else "token shard"
    spoil(chain.data / name, use_data(chain.data), POSITIONS, f"data {name}", tally, kind)


@pytest.mark.parametrize("name", ["config.json", *SHARDS])
def test_damaged_latents_are_refused(chain: Chain, tally: Tally, name: str) -> None:
    folder = chain.root / "latents"
    kind = "latents/config.json" if name == "config.json" else "latent shard"
    spoil(folder / name, use_latents(folder), POSITIONS, f"latents {name}", tally, kind)


@pytest.mark.parametrize("name", ["plan.json", *(f"{shard}.json" for shard in SHARDS)])
def test_damaged_notes_of_unfinished_latents_are_refused(chain: Chain, tally: Tally, name: str) -> None:
    folder = chain.root / "latents"

    def use() -> Any:
        (folder / "config.json").unlink(missing_ok=True)
        return encode_latents(ae=chain.ae, out=folder), (folder / "config.json").read_bytes()

    try:
        spoil(folder / name, use, min(POSITIONS, 100), f"latents {name}", tally, "latents/plan, notes")
    finally:
        use()


def test_the_readme_carries_no_meaning(chain: Chain, tally: Tally) -> None:
    before = tally.harmless["README.md"]
    spoil(chain.mdlm / "README.md", use_artifact(chain.mdlm), POSITIONS, "readme", tally, "README.md")
    assert tally.harmless["README.md"] - before == tally.tried["README.md"] > 0


def test_what_only_spaces_the_layout_out_carries_no_meaning(chain: Chain) -> None:
    file = chain.mdlm / "config.json"
    raw, wanted = file.read_bytes(), use_artifact(chain.mdlm)()
    file.write_bytes(raw.replace(b"\n  ", b"\n\t "))
    try:
        assert use_artifact(chain.mdlm)() == wanted
    finally:
        file.write_bytes(raw)
