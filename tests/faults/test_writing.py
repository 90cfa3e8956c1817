"""Disks that are full, folders that cannot be written, inputs that vanish: one line, and nothing of before is lost."""

import hashlib
import importlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.runtime import loop
from diladiff_cli.runtime.artifacts import load_artifact
from diladiff_cli.runtime.metrics_log import read_metrics
from diladiff_cli.stages.from_artifacts import build

from ..chain import Chain
from ..command_line import Cli
from .obstacles import OBSTACLES, full_disk, prepare, read_only

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and capabilities are those of Linux")

BENCH = ("--decode-steps", "2", "--seeds", "0", "--n", "4", "--scorer", "none")
WRITERS: dict[str, tuple[str, ...]] = {
    "encode": (
        "encode",
        "{text}",
        "--tokenizer",
        "train:300",
        "--length",
        "16",
        "--valid-share",
        "0.25",
        "--out",
        "{out}/data",
    ),
    "encode --ae": ("encode", "--ae", "{ae}", "--out", "{out}/latents"),
    "train-mdlm": ("train-mdlm", "--data", "{data}", "--out", "{out}/mdlm", "{training}"),
    "sample": ("sample", "--model", "{student}", "--n", "32", "--steps", "1", "--out", "{out}/samples.jsonl"),
    "export": ("export", "--model", "{student}", "--out", "{out}/bundle"),
    "bench": ("bench", "--model", "{mdlm}", *BENCH, "--out", "{out}/bench"),
}
TRAINING = ("--width", "16", "--layers", "1", "--heads", "2", "--batch-size", "8", "--precision", "fp32")
TRAINING += ("--max-steps", "6", "--save-every", "2", "--log-every", "1", "--warmup-steps", "0", "--eval-every", "0")
RUN = ("train-mdlm", "--data", "copy/data", "--out", "mdlm", *TRAINING)


def words(command: str, chain: Chain, out: Path) -> list[str]:
    names = {name: getattr(chain, name) for name in ("text", "data", "mdlm", "ae", "prior", "student")}
    return [
        word
        for part in WRITERS[command]
        for word in (TRAINING if part == "{training}" else [part.format(out=out, **names)])
    ]


def check_refusal(error: str, out: Path) -> None:
    what, remedy = error.split("; ", 1)
    assert what.startswith(f"error: cannot write {out}") or f"{out} is not a folder" in what
    assert len(remedy) > 10
    if "File too large" in what:
        assert remedy == "free space or choose another --out"


def is_begun(path: Path) -> bool:
    """Whether it holds the samples of a run that was cut short."""
    return re.fullmatch(r"\.samples\.jsonl\.partial-[0-9a-f]{12}", path.name) is not None


def check_rest(out: Path) -> None:
    """No half-written file is left, but perhaps a plan, a log or the samples of work that can go on."""
    left = {p.name for p in out.rglob("*") if p.is_file() and not is_begun(p)}
    assert left <= {"plan.json", "metrics.jsonl"}
    assert not [p for p in out.parent.iterdir() if "partial" in p.name]


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("command", WRITERS)
def test_what_cannot_be_written_is_told_in_one_line(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, command: str, obstacle: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with OBSTACLES[obstacle](out):
        found = cli(*words(command, tiny_chain, out))
    assert (found.status, found.out) == (1, "")
    check_refusal(found.error, out)
    check_rest(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "obstacle"),
    [*((command, "full disk") for command in WRITERS), ("encode", "read-only folder"), ("bench", "read-only folder")],
)
def test_a_process_of_its_own_tells_it_as_well(
    shell: Cli, tiny_chain: Chain, tmp_path: Path, command: str, obstacle: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    found = shell(*words(command, tiny_chain, out), prepare=prepare(obstacle, out))
    assert (found.status, found.out) == (1, "")
    check_refusal(found.error, out)
    check_rest(out)


@pytest.mark.slow
def test_a_full_stdout_is_told_in_one_line(shell: Cli, tiny_chain: Chain) -> None:
    with open("/dev/full", "w") as full:
        found = shell("sample", "--model", tiny_chain.mdlm, "--n", "2", stdout=full.fileno())
    assert found.status == 1
    assert "No space left on device" in found.error


def digest(folder: Path) -> str:
    state = build(load_artifact(folder)).state_dict()
    return hashlib.sha256(b"".join(v.numpy().tobytes() for _, v in sorted(state.items()))).hexdigest()


def log(folder: Path) -> list[tuple[Any, ...]]:
    names = ("step", "split", "loss", "grad_norm", "learning_rate")
    return [tuple(line.get(name) for name in names) for line in read_metrics(folder / "metrics.jsonl")]


def vanish(place: Path) -> AbstractContextManager[None]:
    stack = ExitStack()
    stack.callback(shutil.move, place.parent / "gone", place)
    shutil.move(place, place.parent / "gone")
    return stack


LATER: dict[str, tuple[Callable[[Path], AbstractContextManager[Any]], str]] = {
    "full disk": (lambda p: full_disk(p), "cannot write {out} (File too large); free space"),
    "read-only folder": (lambda p: read_only(p), "cannot write {out} (Permission denied); check its permissions"),
}


@pytest.mark.parametrize("fault", LATER)
def test_a_checkpoint_that_fails_leaves_the_one_before_and_the_run_goes_on_later(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    start, message = LATER[fault]
    save, stack = loop._Loop._save, ExitStack()

    def failing_save(self: Any) -> None:
        if self.step == 4:
            stack.enter_context(start(tmp_path))
        save(self)

    with monkeypatch.context() as patch, stack:
        patch.setattr(loop._Loop, "_save", failing_save)
        found = cli(*RUN)
    assert (found.status, found.out) == (1, "")
    assert message.format(out=tmp_path / "mdlm") in found.error
    out = tmp_path / "mdlm"
    assert load_artifact(out, "mdlm").config["progress"]["step"] == 2
    assert [line[0] for line in log(out)] == [1, 2, 3, 4]
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]
    assert cli(*RUN).status == 0
    shutil.move(out, tmp_path / "interrupted")
    assert cli(*RUN).status == 0
    assert digest(out) == digest(tmp_path / "interrupted")
    assert log(out) == log(tmp_path / "interrupted")


def test_a_run_ends_though_its_data_were_moved_away(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shards are open, and the tokenizer was read when the run began."""
    step = loop._Loop._step

    def move_then_step(self: Any) -> Any:
        if self.step == 3:
            shutil.move(chain_copy.data, tmp_path / "elsewhere")
        return step(self)

    monkeypatch.setattr(loop._Loop, "_step", move_then_step)
    assert cli(*RUN).status == 0
    assert load_artifact(tmp_path / "mdlm", "mdlm").config["progress"]["step"] == 6


def test_a_log_without_room_stops_the_run_and_names_itself(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, save, stack = tmp_path / "mdlm", loop._Loop._save, ExitStack()

    def save_and_fill(self: Any) -> None:
        save(self)
        stack.enter_context(full_disk(out, (out / "metrics.jsonl").stat().st_size + 50))

    with monkeypatch.context() as patch, stack:
        patch.setattr(loop._Loop, "_save", save_and_fill)
        found = cli(*RUN)
    assert found.status == 1
    assert f"cannot write {out / 'metrics.jsonl'} (File too large)" in found.error.replace("write mdlm", f"write {out}")
    assert load_artifact(out, "mdlm").config["progress"]["step"] == 2
    assert cli(*RUN).status == 0
    assert [line[0] for line in log(out)] == [1, 2, 3, 4, 5, 6, 6]


def test_an_older_bundle_and_older_samples_survive_a_full_disk(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for command in ("encode", "sample", "export"):
        assert cli(*words(command, tiny_chain, out)).status == 0
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    for command in ("encode", "sample", "export"):
        with full_disk(out):
            anew = ("--fresh",) if command == "encode" else ()  # which else leaves a finished data set alone
            assert cli(*words(command, tiny_chain, out), *anew).status == 1
    assert {p: p.read_bytes() for p in out.rglob("*") if p.is_file() and not is_begun(p)} == before


VANISHING: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "train-ae": ("stages.train_ae", "mdlm", ("train-ae", "--base", "copy/ckpt/mdlm"), "model.safetensors"),
    "encode --ae": ("stages.encode_latents", "ae", WRITERS["encode --ae"], "model.safetensors"),
    "encode --ae, data": ("stages.encode_latents", "ae", WRITERS["encode --ae"], "../../data/train-00000.safetensors"),
    "sample": ("stages.sampling.sampler", "student", WRITERS["sample"], "model.safetensors"),
    "sample, tokenizer": ("stages.sampling.sampler", "student", WRITERS["sample"], "tokenizer.json"),
    "export": ("stages.export", "student", WRITERS["export"], "model.safetensors"),
    "export, metrics": ("stages.export", "student", WRITERS["export"], "metrics.jsonl"),
    "bench": ("stages.sampling.sampler", "mdlm", WRITERS["bench"], "tokenizer_config.json"),
}


@pytest.mark.parametrize("case", VANISHING)
def test_an_input_that_vanishes_after_the_start_is_named(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    where, stage, command, name = VANISHING[case]
    module = importlib.import_module(f"diladiff_cli.{where}")
    loader = next(name for name in ("load_parent", "load_artifact") if hasattr(module, name))
    real: Callable[..., Any] = getattr(module, loader)
    folder = chain_copy.root / "ckpt" / stage

    def load_then_remove(*arguments: Any) -> Any:
        found, gone = real(*arguments), folder / name
        if gone.exists():
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        return found

    monkeypatch.setattr(module, loader, load_then_remove)
    if case.startswith("sample"):
        (tmp_path / "out").mkdir()  # else the command does not start
    names = {n: getattr(chain_copy, n) for n in ("text", "data", "mdlm", "ae", "prior", "student")}
    found = cli(*(part.format(out=tmp_path / "out", **names) for part in command))
    assert (found.status, found.out) == (1, "")
    assert Path(name).name in found.error
    check_rest(tmp_path / "out")


def test_a_text_that_vanishes_after_the_start_is_named(
    cli: Cli, chain_copy: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diladiff_cli.stages import encode

    real = encode.check_replaceable

    def check_then_remove(out: Path, stage: str) -> Any:
        chain_copy.text.unlink(missing_ok=True)
        return real(out, stage)

    monkeypatch.setattr(encode, "check_replaceable", check_then_remove)
    for tokenizer in ("train:300", os.fspath(chain_copy.data)):
        (chain_copy.text).write_text("a dog\n\n" * 200)
        found = cli("encode", chain_copy.text, "--tokenizer", tokenizer, "--out", "data")
        assert (found.status, found.out) == (1, "")
        assert str(chain_copy.text) in found.error
        assert not (tmp_path / "data").exists()


def test_what_a_finished_command_wrote_can_be_read_by_the_next(cli: Cli, chain_copy: Chain, tmp_path: Path) -> None:
    """The writers above do write where nothing is in the way."""
    out = tmp_path / "out"
    out.mkdir()
    for command in WRITERS:
        assert cli(*words(command, chain_copy, out)).status == 0, command
    assert json.loads((out / "samples.jsonl").read_text().splitlines()[0])["id"] == 0
    for folder in ("data", "latents", "mdlm", "bundle"):
        assert cli("info", out / folder).status == 0
