"""Which precision ``auto`` means."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diladiff_cli.config import (
    AeConfig,
    BenchConfig,
    DistillConfig,
    EvalConfig,
    MdlmConfig,
    PriorConfig,
    SampleConfig,
)
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.precision import has_fast_bf16, resolved_precision, settled_for_device
from diladiff_cli.runtime.processes import FSDP, fsdp_was_asked_for
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.speed import bench_speed
from diladiff_cli.stages.bench.training import bench_training
from diladiff_cli.stages.distill import distill
from diladiff_cli.stages.encode_latents import encode_latents
from diladiff_cli.stages.evaluation.files import evaluate_files
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import notes_on, sample_plan
from diladiff_cli.stages.train_ae import train_ae
from diladiff_cli.stages.train_mdlm import train_mdlm
from diladiff_cli.stages.train_prior import train_prior

from ..chain import Chain
from .toy_run import settings, toy_train

CPU = torch.device("cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, capabilities: Mapping[str, object], system: str = "linux") -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)  # younger than some torch


@pytest.mark.parametrize(
    ("capabilities", "system", "expected"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": False, "amx_bf16": False}, "linux", "fp32"),
        ({"architecture": "x86_64", "avx512_f": True}, "linux", "fp32"),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_bf16": False}, "linux", "bf16"),
        ({"architecture": "x86_64", "avx512_bf16": False, "amx_bf16": True}, "linux", "bf16"),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, "linux", "fp32"),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "linux", "bf16"),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, "darwin", "fp32"),
        ({}, "linux", "fp32"),
    ],
)
def test_auto_is_what_the_processor_is_fast_at(
    capabilities: Mapping[str, object], system: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, capabilities, system)
    assert resolved_precision("auto", CPU) == expected
    assert has_fast_bf16(CPU) == (expected == "bf16")
    for asked in ("bf16", "fp32"):
        assert resolved_precision(asked, CPU) == asked


@pytest.mark.parametrize("name", ["_is_avx512_bf16_supported", "_is_amx_tile_supported"])
def test_versions_of_torch_that_tell_of_few_capabilities(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for other in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, other, lambda: False)
    assert resolved_precision("auto", CPU) == "fp32"
    monkeypatch.setattr(torch.cpu, name, lambda: True)
    assert resolved_precision("auto", CPU) == "bf16"
    monkeypatch.delattr(torch.cpu, name)
    assert resolved_precision("auto", CPU) == "fp32"


def test_apple_gpus_train_in_fp32() -> None:
    assert resolved_precision("auto", torch.device("mps")) == "fp32"


def test_a_run_keeps_the_precision_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_train(settings(max_steps=2, precision="bf16"), tmp_path / "run")
    pretend(monkeypatch, {})
    asked = settings(precision="auto")
    kept, fresh = replace(asked, precision="bf16"), replace(asked, precision="fp32")
    assert [settled_for_device(asked, tmp_path / "run", resume) for resume in (None, True, False)] == [
        kept,
        kept,
        fresh,
    ]
    assert settled_for_device(asked, tmp_path / "new", None) == fresh
    assert settled_for_device(fresh, tmp_path / "run", None) == fresh


@pytest.mark.parametrize(("capabilities", "expected"), [({}, "fp32"), ({"avx512_bf16": True}, "bf16")])
def test_what_auto_became_is_recorded(
    capabilities: Mapping[str, object],
    expected: str,
    tiny_chain: Chain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch, capabilities)
    config = settings(width=8, layers=1, heads=2, max_steps=1, precision="auto")
    train_mdlm(config, data=tiny_chain.data, out=tmp_path / "mdlm")
    assert load_artifact(tmp_path / "mdlm").config["training"]["precision"] == expected
    assert f" {expected} on " in capsys.readouterr().err
    assert encode_latents(ae=tiny_chain.ae, out=tmp_path / "latents")["precision"] == expected


def test_latents_go_on_in_the_precision_that_they_began_with(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_latents(ae=tiny_chain.ae, out=tmp_path, precision="bf16")
    pretend(monkeypatch, {})
    assert encode_latents(ae=tiny_chain.ae, out=tmp_path)["precision"] == "bf16"
    assert encode_latents(ae=tiny_chain.ae, out=tmp_path, resume=False)["precision"] == "fp32"


@pytest.mark.parametrize(("capabilities", "told"), [({}, True), ({"avx512_bf16": True}, False)])
def test_who_trains_in_emulated_bf16_is_told(
    capabilities: Mapping[str, object],
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pretend(monkeypatch, capabilities)
    toy_train(settings(max_steps=1, precision="bf16"), tmp_path / "run")
    assert ("bf16 is emulated here" in capsys.readouterr().err) == told


def test_every_command_settles_it(tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, {"amx_bf16": True})
    out, auto = tmp_path / "out", "auto"
    plans = [
        train_mdlm(MdlmConfig(width=8, heads=2, precision=auto), data=tiny_chain.data, out=out, dry_run=True),
        train_ae(AeConfig(precision=auto), base=tiny_chain.mdlm, out=out, dry_run=True),
        train_prior(PriorConfig(width=8, heads=2, precision=auto), ae=tiny_chain.ae, out=out, dry_run=True),
        distill(DistillConfig(precision=auto), prior=tiny_chain.prior, out=out, dry_run=True),
    ]
    assert [plan["training"]["precision"] for plan in plans] == ["bf16"] * 4
    plan = sample_plan(load_sampler(tiny_chain.student), SampleConfig(precision=auto))
    assert plan["settings"]["precision"] == "bf16"
    bench = BenchConfig(n=2, seeds="0", steps="1", decode_steps="1", scorer="none", precision=auto)
    assert next(bench_frontier(bench, [tiny_chain.student], tmp_path / "bench"))["precision"] == "bf16"
    small = BenchConfig(
        vocab_sizes="50", lengths="8", batch_sizes="1", width=16, layers=1, seconds=0.01, precision=auto
    )
    assert [next(measure(small))["precision"] for measure in (bench_speed, bench_training)] == ["bf16", "bf16"]
    (report,) = evaluate_files(EvalConfig(scorer="none", batches=1, draws=1, precision=auto), [tiny_chain.mdlm])
    assert report["settings"]["precision"] == "bf16"


@pytest.mark.parametrize(("value", "wanted"), [("true", True), ("false", False), (None, False)])
def test_fsdp_of_the_launcher_becomes_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None, wanted: bool
) -> None:
    monkeypatch.delenv(FSDP, raising=False)
    if value is not None:
        monkeypatch.setenv(FSDP, value)
    fsdp_was_asked_for.cache_clear()
    try:
        for precision in ("fp32", "auto", "fp32"):  # every stage of a process, though Accelerate no longer hears of it
            assert settled_for_device(settings(precision=precision), tmp_path / "run", None).shard is wanted
        assert settled_for_device(settings(shard=True), tmp_path / "run", None).shard
        assert FSDP not in os.environ
    finally:
        fsdp_was_asked_for.cache_clear()


def test_no_run_begins_in_a_precision_that_was_not_settled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="precision auto was not settled"):
        toy_train(settings(precision="auto"), tmp_path / "run")


@pytest.mark.parametrize(("capabilities", "told"), [({}, 1), ({"avx512_bf16": True}, 0)])
def test_who_samples_in_emulated_bf16_is_told(
    capabilities: Mapping[str, object], told: int, tiny_chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, capabilities)
    sampler = load_sampler(tiny_chain.mdlm, "cpu")
    assert len(notes_on(sampler, SampleConfig(precision="bf16"))) == told
    assert notes_on(sampler, SampleConfig(precision="auto")) == notes_on(sampler, SampleConfig()) == []
