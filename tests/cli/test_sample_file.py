"""``sample --out``: the file is whole or as it was, and a run that was cut short is gone on with."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.cli import sample_file
from diladiff_cli.cli.sample_file import SEPARATOR, Source, write_samples
from diladiff_cli.config import SampleConfig
from diladiff_cli.runtime.folders import partial_name
from diladiff_cli.stages.sampling.sampler import load_sampler
from diladiff_cli.stages.sampling.settings import origin_of

from ..chain import Chain
from ..command_line import Cli, environment

N, BATCH = 12, 5
GONE = "is not written, since it is not complete"


def command(chain: Chain, out: Path, *more: str, n: int = N) -> list[str]:
    return ["sample", "--model", str(chain.mdlm), "--n", str(n), "--batch-size", str(BATCH), "--out", str(out), *more]


@pytest.fixture
def whole(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> bytes:
    """The file of a run that was not cut short."""
    assert cli(*command(tiny_chain, tmp_path / "whole.jsonl")).status == 0
    return (tmp_path / "whole.jsonl").read_bytes()


def give_part(chain: Chain, out: Path, content: bytes) -> Path:
    """What a run of :func:`command` that was cut short leaves."""
    part = partial_name(out, origin_of(load_sampler(chain.mdlm, "cpu"), SampleConfig(batch_size=BATCH)))
    part.write_bytes(content)
    return part


def parts_of(out: Path) -> list[Path]:
    return list(out.parent.glob(f".{out.name}.partial-*"))


@contextmanager
def running(arguments: list[str], out: Path, lines: int) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The command, once it has written so many lines, and where it has."""
    run = [sys.executable, "-m", "diladiff_cli", *arguments]
    before = {part: part.read_bytes().count(b"\n") for part in parts_of(out)}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a background job inherits it ignored
    with subprocess.Popen(run, env=environment(), stderr=subprocess.PIPE, text=True, preexec_fn=heard) as process:
        while not (grown := [p for p in parts_of(out) if p.read_bytes().count(b"\n") >= before.get(p, 0) + lines]):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process, grown[0]
        process.kill()


@pytest.mark.parametrize("as_text", [False, True], ids=["jsonl", "text"])
def test_a_killed_run_is_gone_on_with(cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, as_text: bool) -> None:
    out = tmp_path / "samples"
    more = ["--format", "text"] if as_text else []
    with running(command(tiny_chain, out, *more, n=100_000), out, BATCH + 2) as (process, part):
        process.kill()
    assert not out.exists()
    lines = part.read_bytes().splitlines(keepends=True)[: BATCH + 2]
    part.write_bytes(b"".join(lines[:-1]) + lines[-1][:9])  # within a batch, and within a line
    done = cli(*command(tiny_chain, out, *more))
    assert done.status == 0
    told = f"{out}: going on with {BATCH + 1} of {N} samples, which a run that was cut short had drawn"
    assert told in done.errors
    assert done.errors[-1] == f"{out}: {N} samples"
    texts = [json.loads(line)["text"] for line in whole.splitlines()]
    assert out.read_bytes() == (f"\n{SEPARATOR}\n".join(texts).encode() + b"\n" if as_text else whole)
    assert parts_of(out) == []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_what_is_kept(tiny_chain: Chain, tmp_path: Path, name: str) -> None:
    out = tmp_path / "samples.jsonl"
    with running(command(tiny_chain, out, n=100_000), out, 1) as (process, part):
        process.send_signal(signal.Signals[name])
        _, told = process.communicate(timeout=300)
    kept = len(part.read_bytes().splitlines())
    assert kept > 0
    rest = f"{kept:,} of 100,000 samples are kept, and the same command does the rest"
    assert told.splitlines()[-2] == f"{out} {GONE}; {rest}"
    assert not out.exists()


@pytest.mark.parametrize("change", [["--seed", "1"], ["--temperature", "0.5"], ["--batch-size", "3"]])
def test_what_was_drawn_otherwise_is_not_gone_on_with(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, change: list[str]
) -> None:
    out = tmp_path / "samples.jsonl"
    part = give_part(tiny_chain, out, b"".join(whole.splitlines(keepends=True)[:4]))
    with running([*command(tiny_chain, out, n=100_000), *change], out, 1) as (process, other):
        process.kill()
    assert part.exists()  # it may be what was meant
    other.unlink()
    done = cli(*command(tiny_chain, out), *change)
    assert done.status == 0
    assert done.errors == [f"{out}: {N} samples"]
    assert parts_of(out) == []


@pytest.mark.parametrize(
    "damage", ["nothing", "no JSON", "no sample", "another number", "another text", "another seed", "tokens", "no end"]
)
def test_lines_from_a_damaged_one_on_are_drawn_again(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, damage: str
) -> None:
    out = tmp_path / "samples.jsonl"
    lines = whole.splitlines(keepends=True)
    first = json.loads(lines[3])
    bad = {
        "nothing": b"\n",
        "no JSON": b"{\n",
        "no sample": b"[" * 100_000 + b"\n",
        "another number": lines[4],
        "another text": json.dumps(first | {"text": first["text"] + "!"}).encode() + b"\n",
        "another seed": json.dumps(first | {"seed": 1}).encode() + b"\n",
        "tokens": json.dumps(first | {"token_ids": [10**30, *first["token_ids"][1:]]}).encode() + b"\n",
        "no end": lines[3].rstrip(),
    }[damage]
    give_part(tiny_chain, out, b"".join(lines[:3]) + bad + b"".join(lines[4:6]))
    done = cli(*command(tiny_chain, out))
    assert any(f"going on with 3 of {N} samples" in line for line in done.errors)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("as_text", [False, True], ids=["jsonl", "text"])
def test_of_more_samples_than_are_asked_for_the_first_are_taken_and_none_is_lost(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, as_text: bool
) -> None:
    more = ["--format", "text"] if as_text else []
    out, wanted = tmp_path / "samples.jsonl", b"".join(whole.splitlines(keepends=True)[:BATCH])
    out.write_text('{"id": 0, "text": "before"}\n')
    part = give_part(tiny_chain, out, whole)
    done = cli(*command(tiny_chain, out, *more, n=BATCH))
    texts = [json.loads(line)["text"] for line in wanted.splitlines()]
    assert out.read_bytes() == (f"\n{SEPARATOR}\n".join(texts).encode() + b"\n" if as_text else wanted)
    assert done.errors[-2:] == [
        f"{out}: {BATCH} samples, in place of an earlier file",
        f"{N - BATCH} more that were drawn stay in {part.name} for the same command with a larger --n",
    ]
    assert part.read_bytes() == whole
    out.unlink()
    assert cli(*command(tiny_chain, out)).errors[-1] == f"{out}: {N} samples"
    assert out.read_bytes() == whole
    assert parts_of(out) == []


def test_what_another_run_is_drawing_is_left_alone(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    with running(command(tiny_chain, out, n=100_000), out, 1) as (_, part):
        second = cli(*command(tiny_chain, out))
        assert second.status == 1
        assert f"another run is writing {out}" in second.error
        assert not any(GONE in line for line in second.errors)
        before = part.stat().st_size
        time.sleep(1)
        assert part.stat().st_size > before


def test_a_link_leads_to_what_is_gone_on_with(cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "far").mkdir()
    link, out = tmp_path / "link.jsonl", tmp_path / "far" / "samples.jsonl"
    link.symlink_to(out)
    give_part(tiny_chain, out, b"".join(whole.splitlines(keepends=True)[:4]))
    done = cli(*command(tiny_chain, link))
    assert any(f"going on with 4 of {N} samples" in line for line in done.errors)
    assert out.read_bytes() == whole
    assert link.is_symlink()


def test_two_runs_at_once_without_locks_do_not_mix(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "samples.jsonl"
    with running(command(tiny_chain, out, n=100_000), out, 1) as (process, part):
        monkeypatch.setattr("diladiff_cli.runtime.locks._locked", lambda _: None)
        done = cli(*command(tiny_chain, out))
        assert done.errors[-1] == f"{out}: {N} samples"
        before = part.stat().st_size
        time.sleep(0.5)
        assert process.poll() is None
        assert part.stat().st_size > before  # it goes on, undisturbed
    assert out.read_bytes() == whole


def test_an_interrupt_while_samples_are_looked_through_loses_none(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "samples.jsonl"
    part = give_part(tiny_chain, out, b"".join(whole.splitlines(keepends=True)[:7]))

    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("diladiff_cli.stages.sampling.sample.is_whole", interrupt)
    stopped = cli(*command(tiny_chain, out))
    assert stopped.status == 130
    told = f"{out} {GONE}; 7 of {N} samples are kept, and the same command does the rest"
    assert told in stopped.errors
    assert parts_of(out) == [part]


def test_interrupted_again_and_again_it_leaves_one_file(tiny_chain: Chain, tmp_path: Path) -> None:
    out, kept = tmp_path / "samples.jsonl", 0
    for _ in range(2):
        with running(command(tiny_chain, out, n=100_000), out, 1) as (process, part):
            process.kill()
        assert parts_of(out) == [part]
        assert part.read_bytes().count(b"\n") > kept
        kept = part.read_bytes().count(b"\n")


def test_progress_is_told_off_a_terminal(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diladiff_cli.runtime.progress.SILENT_SECONDS", -1.0)
    done = cli(*command(tiny_chain, tmp_path / "samples.jsonl"))
    told = [line for line in done.errors if " drawn" in line]
    assert len(told) == N  # and none in a shorter time, as the tests above tell
    assert told[-1] == f"sample {N}/{N} drawn"


def test_odd_leftovers_are_in_nobodys_way(cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes) -> None:
    out = tmp_path / "samples.jsonl"
    partial_name(out, "11111111").mkdir()
    partial_name(out, "22222222").write_bytes(b"")
    give_part(tiny_chain, out, b"")
    assert cli(*command(tiny_chain, out)).status == 0
    assert out.read_bytes() == whole
    assert parts_of(out) == []


@pytest.mark.parametrize("as_text", [False, True], ids=["jsonl", "text"])
def test_interrupted_at_the_very_end_all_is_kept(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, as_text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, more = tmp_path / "samples", ["--format", "text"] if as_text else []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sample_file, "replacing_file" if as_text else "real", interrupt)
    stopped = cli(*command(tiny_chain, out, *more))
    assert stopped.status == 130
    kept = f"{out} {GONE}; {N} of {N} samples are kept, and the same command does the rest"
    assert [line for line in stopped.errors if GONE in line] == [kept]
    monkeypatch.undo()
    assert cli(*command(tiny_chain, out, *more)).errors[-1] == f"{out}: {N} samples"
    assert parts_of(out) == []


def test_samples_of_one_latent_are_gone_on_with(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    asked = ["sample", "--model", str(tiny_chain.student), "--n", "9", "--decodings", "3", "--batch-size", "6"]
    assert cli(*asked, "--out", str(out)).status == 0
    whole = out.read_bytes()
    config = SampleConfig(n=9, decodings=3, batch_size=6)
    part = partial_name(out, origin_of(load_sampler(tiny_chain.student, "cpu"), config))
    part.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    done = cli(*asked, "--out", str(out))
    assert any("going on with 4 of 9 samples" in line for line in done.errors)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("has_locks", [True, False])
def test_without_locks_nothing_is_kept_that_the_same_command_would_not_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_locks: bool
) -> None:
    def draw(first: int) -> Iterator[dict[str, Any]]:
        yield {"text": "one"}
        raise KeyboardInterrupt

    if not has_locks:
        monkeypatch.setattr("diladiff_cli.runtime.locks._locked", lambda _: None)
    out = tmp_path / "samples.jsonl"
    with pytest.raises(KeyboardInterrupt):
        write_samples(Source("origin", draw, lambda *_: True), out, N, as_text=False)
    rest = f"; 1 of {N} samples are kept, and the same command does the rest" if has_locks else ""
    assert f"{out} {GONE}{rest}" in capsys.readouterr().err.splitlines()
    assert len(parts_of(out)) == has_locks
