"""One flipped bit in what a command reads: the command says which file, and writes nothing."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.runtime import loop
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages.encode_latents import encode_latents

from ..chain import Chain
from ..command_line import Cli

SMALL = ("--batch-size", "64", "--max-steps", "4", "--save-every", "2", "--precision", "fp32")
MDLM = ("train-mdlm", "--data", "copy/data", "--out", "out", "--width", "16", "--layers", "1", "--heads", "2", *SMALL)
PRIOR = ("train-prior", "--ae", "copy/ckpt/ae", "--width", "16", "--layers", "1", "--heads", "2", *SMALL)
STUDENT = ("sample", "--model", "copy/ckpt/student", "--n", "2", "--steps", "1", "--out", "out")
CASES: list[tuple[str, tuple[str, ...]]] = [
    ("data/config.json", MDLM),
    ("data/train-00000.safetensors", MDLM),
    ("data/valid-00000.safetensors", MDLM),
    ("data/tokenizer.json", MDLM),
    ("ckpt/mdlm/config.json", ("train-ae", "--base", "copy/ckpt/mdlm", "--out", "out", "--dry-run")),
    ("ckpt/mdlm/model.safetensors", ("train-ae", "--base", "copy/ckpt/mdlm", "--out", "out", *SMALL)),
    ("ckpt/mdlm/model.safetensors", ("encode", "--ae", "copy/ckpt/ae", "--out", "out")),
    ("ckpt/mdlm/model.safetensors", ("eval", "copy/ckpt/mdlm")),
    ("ckpt/ae/model.safetensors", ("encode", "--ae", "copy/ckpt/ae", "--out", "out")),
    ("ckpt/ae/model.safetensors", (*PRIOR, "--out", "out")),
    ("latents/config.json", (*PRIOR, "--latents", "copy/latents", "--out", "out")),
    ("latents/train-00000.safetensors", (*PRIOR, "--latents", "copy/latents", "--out", "out")),
    ("ckpt/prior/state/state.json", (*PRIOR, "--out", "copy/ckpt/prior")),
    ("ckpt/prior/model.safetensors", ("distill", "--prior", "copy/ckpt/prior", "--out", "out", *SMALL)),
    ("ckpt/student/config.json", STUDENT),
    ("ckpt/student/model.safetensors", STUDENT),
    ("ckpt/student/tokenizer_config.json", STUDENT),
    ("ckpt/ae/config.json", STUDENT),
    ("ckpt/ae/model.safetensors", ("export", "--model", "copy/ckpt/student", "--out", "out")),
    ("ckpt/ae/tokenizer.json", ("export", "--model", "copy/ckpt/student", "--out", "out")),
    ("ckpt/student/metrics.jsonl", ("export", "--model", "copy/ckpt/student", "--out", "out")),
    ("ckpt/student/metrics.jsonl", ("plot", "copy/ckpt/student", "--out", "out")),
    ("ckpt/student/config.json", ("bench", "--model", "copy/ckpt/student", "--out", "out", "--scorer", "none")),
    ("ckpt/student/config.json", ("info", "copy/ckpt/student")),
]


def flip(file: Path) -> None:
    """The lowest bit of a letter or digit in the middle."""
    raw = bytearray(file.read_bytes())
    place = next(i for i in range(len(raw) // 2, len(raw)) if chr(raw[i]).isalnum())
    raw[place] ^= 1
    file.write_bytes(raw)


@pytest.mark.parametrize(("file", "command"), CASES, ids=[f"{c[0]}-{f.replace('/', '.')}" for f, c in CASES])
def test_the_next_command_names_the_damaged_file(
    cli: Cli, chain_copy: Chain, tmp_path: Path, file: str, command: tuple[str, ...]
) -> None:
    if file.startswith("latents"):
        encode_latents(ae=chain_copy.ae, out=chain_copy.root / "latents")
    flip(chain_copy.root / file)
    found = cli(*command)
    assert (found.status, found.out) == (1, "")
    assert file in found.error
    assert not [p for p in tmp_path.rglob("*") if p.name in ("config.json", "samples.jsonl") and "copy" not in p.parts]


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
def test_a_run_does_not_go_on_from_a_damaged_state(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save = loop._Loop._save

    def save_once(self: Any) -> None:
        if self.step > 2:
            raise KeyboardInterrupt
        save(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Loop, "_save", save_once)
        assert cli(*MDLM).status == 130
    shutil.copytree(tmp_path / "out", tmp_path / "before")
    flip(tmp_path / "out" / "state" / name)
    found = cli(*MDLM)
    assert found.status == 1
    assert f"out/state/{name}" in found.error
    whole = "; the model of step 2 in out is whole: use it as it is, or train it again with --fresh"
    assert found.error.endswith(whole)
    assert load_artifact(tmp_path / "out").state_dict()
    flip(tmp_path / "out" / "model.safetensors")
    assert cli(*MDLM).error.endswith("; start over with --fresh")
    shutil.copy(tmp_path / "before" / "model.safetensors", tmp_path / "out" / "model.safetensors")
    shutil.copy(tmp_path / "before" / "state" / name, tmp_path / "out" / "state" / name)
    assert cli(*MDLM).status == 0
    flip(tmp_path / "out" / "state" / name)
    assert cli(*MDLM, "--fresh").status == 0
