import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diladiff_cli.data import shards as shards_module
from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.stages import encode_latents as module
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.feature_sources import text_encoder
from diladiff_cli.stages.from_artifacts import build

from ..chain import CHANNELS, LATENTS, Chain


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 40 * 2 * LATENTS * CHANNELS)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_latents_are_those_of_the_encoder_in_the_order_of_the_blocks(tiny_chain: Chain, tmp_path: Path) -> None:
    config = encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents", batch_size=7, precision="fp32")
    blocks = open_tokens(tiny_chain.data).split("train")
    ae = load_artifact(tiny_chain.ae, "ae")
    wanted = text_encoder(ae, build(ae), "cpu")(blocks.gather(np.arange(len(blocks))))
    stored = open_latents(tmp_path / "latents").split("train")
    assert len(config["splits"]["train"]["shards"]) > 1
    assert wanted.shape == (len(blocks), LATENTS, CHANNELS)
    found = torch.from_numpy(stored.gather(np.arange(len(stored)))).float()
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)  # float16 storage


def test_half_precision_moves_latents_little(tiny_chain: Chain, tmp_path: Path) -> None:
    stored = []
    for precision in ("fp32", "bf16"):
        encode_latents(ae=tiny_chain.ae, out=tmp_path / precision, precision=precision)
        split = open_latents(tmp_path / precision).split("train")
        stored.append(torch.from_numpy(split.gather(np.arange(len(split)))).float())
    difference = (stored[0] - stored[1]).square().mean().sqrt()
    assert 0 < float(difference) < 0.5  # the barely trained encoder amplifies rounding: its latents differ little
    with pytest.raises(UserError, match="data set or precision"):
        encode_latents(ae=tiny_chain.ae, out=tmp_path / "fp32", precision="bf16")


def test_all_files_can_be_read_by_those_who_can_read_new_ones(tiny_chain: Chain, tmp_path: Path) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents")
    (tmp_path / "new").touch()
    wanted = (tmp_path / "new").stat().st_mode
    files = [p for folder in (tmp_path, tiny_chain.data, tiny_chain.ae) for p in folder.rglob("*") if p.is_file()]
    assert any(p.suffix == ".safetensors" for p in files)
    assert {p.stat().st_mode for p in files} == {wanted}


def test_stored_latents_are_standardised(tiny_chain: Chain, tmp_path: Path) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents", precision="fp32")
    stored = open_latents(tmp_path / "latents").split("train")
    z = torch.from_numpy(stored.gather(np.arange(len(stored)))).float()
    assert float(z.mean(0).abs().max()) < 0.05
    torch.testing.assert_close(z.std(0), torch.ones(LATENTS, CHANNELS), rtol=0.05, atol=0.05)


def test_a_cut_off_run_goes_on_and_gives_the_same_files(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "latents"
    encode_latents(ae=tiny_chain.ae, out=out)
    whole = contents(out)
    kept = out / "train-00000.safetensors"
    before = kept.stat().st_mtime_ns
    (out / "config.json").unlink()
    (out / "train-00001.safetensors.json").unlink()  # killed between a shard and its record
    (out / "valid-00000.safetensors").unlink()
    assert "is finished" not in capsys.readouterr().err
    encode_latents(ae=tiny_chain.ae, out=out)
    assert contents(out) == whole
    assert kept.stat().st_mtime_ns == before
    told = capsys.readouterr().err
    assert "is finished" not in told
    assert f"{out} goes on: " in told
    encode_latents(ae=tiny_chain.ae, out=out)
    assert contents(out) == whole
    assert f"{out} is finished; --fresh encodes it again" in capsys.readouterr().err


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit])  # as of SIGINT and of SIGTERM
def test_a_run_that_is_interrupted_says_what_it_keeps(
    tiny_chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    end: type[BaseException],
) -> None:
    out, encode, told = tmp_path / "latents", module.TextEncoder.__call__, "the same command goes on\n"
    shards: list[int] = []

    def interrupted(self: Any, blocks: Any) -> Any:
        shards.append(len(list(out.glob("*.safetensors"))))
        if shards[-1] == 1:
            raise end
        return encode(self, blocks)

    monkeypatch.setattr(module.TextEncoder, "__call__", interrupted)
    for resume in (None, False):
        with pytest.raises(end):
            encode_latents(ae=tiny_chain.ae, out=out, resume=resume)
        said = capsys.readouterr().err
        assert (f"{out}: 1 of " in said and said.endswith(f" shards are kept; {told}")) is (resume is None)
        assert (told in said) is (resume is None)  # what --fresh began is begun anew


def test_a_run_that_is_interrupted_within_its_first_shard_says_so(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Any, blocks: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(module.TextEncoder, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents")
    assert capsys.readouterr().err.endswith("latents: no shard was complete; the same command begins anew\n")


def test_latents_of_another_auto_encoder_are_not_mixed_in(tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode_latents(ae=tiny_chain.ae, out=out)
    plan = json.loads((out / "plan.json").read_text())
    del plan["checksum"]
    (out / "plan.json").write_text(json.dumps(plan | {"ae_hash": "another"}))
    with pytest.raises(UserError, match="another auto-encoder"):
        encode_latents(ae=tiny_chain.ae, out=out)
    encode_latents(ae=tiny_chain.ae, out=out, resume=False)
    assert open_latents(out).config["ae_hash"] == load_artifact(tiny_chain.ae).hash


def test_starting_over_keeps_the_latents_of_before_until_the_new_ones_are_whole(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "latents", module.write_shard
    encode_latents(ae=tiny_chain.ae, out=out)
    before = contents(out)

    def cut_off(path: Path, *rest: Any) -> Any:
        if path.name == "valid-00000.safetensors":
            raise KeyboardInterrupt
        return write(path, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "write_shard", cut_off)
        encode_latents(ae=tiny_chain.ae, out=out, precision="fp32", resume=False)
    assert contents(out) == before
    encode_latents(ae=tiny_chain.ae, out=out, precision="fp32", resume=False)
    assert open_latents(out).config["precision"] == "fp32"
    assert [p.name for p in tmp_path.iterdir()] == ["latents"]


def test_shards_of_latents_that_were_exchanged_are_noticed(tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "latents"
    encode_latents(ae=tiny_chain.ae, out=out)
    first, second, other = (out / f"train-0000{i}.safetensors" for i in (0, 1, 9))
    for source, target in ((first, other), (second, first), (other, second)):
        source.rename(target)
    with pytest.raises(UserError, match=r"train-00000\.safetensors is not the shard that was written"):
        open_latents(out).split("train").gather([0])


@pytest.mark.parametrize("resume", [None, False])
def test_a_folder_with_other_files_is_left_alone(tiny_chain: Chain, tmp_path: Path, resume: bool | None) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="something else"):
        encode_latents(ae=tiny_chain.ae, out=tmp_path, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_a_missing_base_is_one_clear_line(tiny_chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(tiny_chain.root, tmp_path / "chain")
    shutil.rmtree(tmp_path / "chain" / "ckpt" / "mdlm")
    with pytest.raises(UserError, match="builds on .*mdlm, which is missing"):
        encode_latents(ae=tmp_path / "chain" / "ckpt" / "ae", out=tmp_path / "latents")


def test_latents_that_the_disk_has_no_room_for_are_told_of(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "latents"
    plan = encode_latents(ae=tiny_chain.ae, out=out, dry_run=True)
    assert plan["bytes"] == 2 * sum(plan["rows"].values()) * LATENTS * CHANNELS
    told = (
        f"{out} will take {plan['bytes'] / 1000:.1f} kB more, but {(plan['bytes'] - 500) / 1000:.1f} kB are free there"
    )
    for free, lines in ((plan["bytes"] - 500, [told]), (10**9, [])):
        usage = shutil.disk_usage(tmp_path)._replace(free=free)
        monkeypatch.setattr(shutil, "disk_usage", lambda place, usage=usage: usage)
        encode_latents(ae=tiny_chain.ae, out=out, resume=False)
        assert [line for line in capsys.readouterr().err.splitlines() if "will take" in line] == lines
