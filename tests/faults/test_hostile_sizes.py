"""Artifacts that claim what they do not have: refused before anything is made in the sizes that they state."""

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.shards import CHECKSUMS
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.integrity import sealed
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.state import read_progress
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.export import export
from diladiff_cli.stages.from_artifacts import build
from diladiff_cli.stages.info import describe

from ..chain import Chain
from .forging import FORGED, forge, refused

DEEP = 100_000


def header(values: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


HUGE = 10**15
HEADERS: dict[str, bytes] = {
    "a huge tensor": header({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}, bytes(4)),
    "a huge shape": header({"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]}}, bytes(4)),
    "an overflowing shape": header({"a": {"dtype": "F32", "shape": [1 << 62, 8], "data_offsets": [0, 0]}}),
    "a huge header": header({}, size=HUGE),
    "a header of all bits": header({}, size=(1 << 64) - 1),
    "overlapping tensors": header(
        {n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in ("a", "b")}, bytes(4)
    ),
    "a deep header": struct.pack("<Q", 2 * DEEP) + b"[" * DEEP + b"]" * DEEP,
}


@pytest.mark.parametrize("name", ["model.safetensors", "state.safetensors", "train-00000.safetensors"])
@pytest.mark.parametrize("fault", HEADERS)
def test_sizes_in_a_header_are_checked_before_anything_is_made(chain_copy: Chain, name: str, fault: str) -> None:
    refused(FORGED[name](chain_copy, HEADERS[fault]), name)


SIZES: dict[str, tuple[str, Any]] = {
    "width": ("mdlm", 10**9),
    "layers": ("mdlm", 10**9),
    "vocab_size": ("mdlm", 10**12),
    "length": ("mdlm", 10**12),
    "mlp_width": ("mdlm", 10**400),
    "heads": ("mdlm", 0),
    "mask_id": ("mdlm", -(10**9)),
    "latents": ("student", 10**9),
    "latent_width": ("student", "wide"),
    "unheard_of": ("prior", 1),
    "encoder": ("ae", {"width": 10**9}),
    "decoder": ("ae", []),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_network_is_not_built_in_sizes_that_its_weights_do_not_have(chain_copy: Chain, name: str) -> None:
    stage, value = SIZES[name]
    folder = chain_copy.root / "ckpt" / stage
    forge(folder, lambda config: config["network"].update({name: value}))
    refused(lambda: build(load_artifact(folder)), "config.json")


def test_plausible_sizes_that_do_not_fit_the_weights_name_the_first_tensor(chain_copy: Chain) -> None:
    forge(chain_copy.mdlm, lambda config: config["network"].update(width=32))
    refused(lambda: build(load_artifact(chain_copy.mdlm)), "do not fit its config.json (blocks.0.", ", wanted (")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vocab_size", 10**9),
        ("vocab_size", 10**30),
        ("length", 10**15),
        ("length", 8),
        ("mask_id", -1),
        ("mask_id", 10**6),
    ],
)
def test_a_data_set_cannot_claim_sizes_that_its_files_do_not_have(chain_copy: Chain, name: str, value: int) -> None:
    config = json.loads((chain_copy.data / "config.json").read_text())
    (chain_copy.data / "config.json").write_text(sealed(config | {name: value}))
    refused(lambda: open_tokens(chain_copy.data).split("train"), str(chain_copy.data))


def test_a_token_beyond_the_vocabulary_is_refused(chain_copy: Chain) -> None:
    config = json.loads((chain_copy.data / "config.json").read_text())
    (chain_copy.data / "config.json").write_text(sealed(config | {"vocab_size": 20, "mask_id": 1, "separator_id": 0}))
    refused(lambda: open_tokens(chain_copy.data).split("train").gather([0, 1]), "vocabulary of 20; run encode again")


JSONS: dict[str, str] = {
    "deep lists": '{"stage": ' + "[" * DEEP + "]" * DEEP + "}",
    "deep objects": '{"a":' * DEEP + "1" + "}" * DEEP,
    "moderately deep": '{"a":' * 500 + "1" + "}" * 500,
    "NaN": '{"stage": "mdlm", "x": NaN}',
    "infinity": '{"stage": "mdlm", "x": [-Infinity]}',
    "a number beyond all": '{"stage": "mdlm", "x": 1e999}',
    "a huge integer": '{"stage": "mdlm", "x": ' + "9" * 5000 + "}",
    "a huge file": "\0" * (1 << 26) + " ",
    "a number": "7",
    "nothing": "",
    "half a character": '{"stage": "\\ud800"}',
}
READERS: dict[str, tuple[str, Callable[[Chain], Any]]] = {
    "artifact": ("ckpt/mdlm/config.json", lambda c: load_artifact(c.mdlm)),
    "state": ("ckpt/mdlm/state/state.json", lambda c: read_progress(c.mdlm / "state")),
    "data": ("data/config.json", lambda c: open_tokens(c.data)),
    "latents": ("latents/config.json", lambda c: open_latents(c.root / "latents")),
    "info": ("ckpt/mdlm/config.json", lambda c: describe(c.mdlm)),
    "export": ("bundle/config.json", lambda c: export(c.mdlm, c.root / "bundle")),
}


@pytest.mark.parametrize("content", JSONS)
def test_absurd_json_is_told_as_such_by_every_reader(chain_copy: Chain, content: str) -> None:
    for file, read in READERS.values():
        path = chain_copy.root / file
        path.parent.mkdir(exist_ok=True)
        before = path.read_text() if path.exists() else ""
        path.write_text(JSONS[content])
        refused(lambda read=read: read(chain_copy), str(path.parent))  # type: ignore[misc]
        path.write_text(before)


@pytest.mark.parametrize("special", ["folder", "pipe", "device"])
def test_what_is_no_file_is_not_waited_for(chain_copy: Chain, special: str) -> None:
    path = chain_copy.mdlm / "config.json"
    path.unlink()
    if special == "folder":
        path.mkdir()
    elif special == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    refused(lambda: load_artifact(chain_copy.mdlm), str(path))


def test_rows_of_another_shape_or_kind_are_refused(chain_copy: Chain) -> None:
    from safetensors.numpy import load_file as load_arrays
    from safetensors.numpy import save_file as save_arrays

    encode_latents(ae=chain_copy.ae, out=chain_copy.root / "latents")
    for folder, key, use in (
        (chain_copy.data, "tokens", lambda: open_tokens(chain_copy.data).split("train")),
        (chain_copy.root / "latents", "latents", lambda: open_latents(chain_copy.root / "latents").split("train")),
    ):
        file = folder / "train-00000.safetensors"
        arrays = load_arrays(file)
        for odd in (arrays[key].astype(np.float32), arrays[key][:, :3], arrays[key].view(np.int16), arrays[key][0]):
            save_arrays({key: odd, CHECKSUMS: arrays[CHECKSUMS]}, file)
            refused(use, str(file))
