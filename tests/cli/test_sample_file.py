"""``sample --out``: the file is whole or as it was, and a run that was cut short is gone on with."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diladiff_cli.cli.sample_file import SEPARATOR
from diladiff_cli.config import SampleConfig
from diladiff_cli.runtime.folders import partial_name
from diladiff_cli.stages.sample_settings import origin_of
from diladiff_cli.stages.sampler import load_sampler

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


def part_of(chain: Chain, out: Path, **settings: int | float) -> Path:
    """What is written before the file itself."""
    config = SampleConfig(**{"batch_size": BATCH} | settings)  # type: ignore[arg-type]
    return partial_name(out, origin_of(load_sampler(chain.mdlm, "cpu"), config))


@contextmanager
def running(arguments: list[str], part: Path, lines: int) -> Iterator[subprocess.Popen[str]]:
    """The command, once it has written so many lines."""
    run = [sys.executable, "-m", "diladiff_cli", *arguments]
    with subprocess.Popen(run, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not (part.exists() and part.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process
        process.kill()


@pytest.mark.parametrize("as_text", [False, True], ids=["jsonl", "text"])
def test_a_killed_run_is_gone_on_with(cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, as_text: bool) -> None:
    out = tmp_path / "samples"
    more = ["--format", "text"] if as_text else []
    part = part_of(tiny_chain, out)
    with running(command(tiny_chain, out, *more, n=100_000), part, BATCH + 1) as process:
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
    assert not part.exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interrupted_run_says_what_is_kept(tiny_chain: Chain, tmp_path: Path, name: str) -> None:
    out = tmp_path / "samples.jsonl"
    part = part_of(tiny_chain, out)
    with running(command(tiny_chain, out, n=100_000), part, 1) as process:
        process.send_signal(signal.Signals[name])
        _, told = process.communicate(timeout=300)
    kept = len(part.read_bytes().splitlines())
    assert kept > 0
    rest = f"{kept:,} of 100,000 samples are kept, and the same command draws the rest"
    assert told.splitlines()[-2] == f"{out} {GONE}; {rest}"
    assert not out.exists()


@pytest.mark.parametrize("change", [["--seed", "1"], ["--temperature", "0.5"], ["--batch-size", "3"]])
def test_what_was_drawn_otherwise_is_not_gone_on_with(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, change: list[str]
) -> None:
    out = tmp_path / "samples.jsonl"
    part = part_of(tiny_chain, out)
    part.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    done = cli(*command(tiny_chain, out), *change)
    assert done.status == 0
    assert done.errors[-1] == f"{out}: {N} samples"
    assert not any("going on" in line for line in done.errors)
    assert not part.exists()


@pytest.mark.parametrize("damage", ["nothing", "no JSON", "another number", "no text", "nested", "no end"])
def test_lines_from_a_damaged_one_on_are_drawn_again(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes, damage: str
) -> None:
    out = tmp_path / "samples.jsonl"
    lines = whole.splitlines(keepends=True)
    first = json.loads(lines[3])
    bad = {
        "nothing": b"\n",
        "no JSON": b"{\n",
        "another number": lines[4],
        "no text": json.dumps(first | {"text": 3}).encode() + b"\n",
        "nested": b"[" * 100_000 + b"\n",
        "no end": lines[3].rstrip(),
    }[damage]
    part_of(tiny_chain, out).write_bytes(b"".join(lines[:3]) + bad + b"".join(lines[4:6]))
    done = cli(*command(tiny_chain, out))
    assert any(f"going on with 3 of {N} samples" in line for line in done.errors)
    assert out.read_bytes() == whole


def test_of_more_samples_than_are_asked_for_the_first_are_taken(
    cli: Cli, tiny_chain: Chain, tmp_path: Path, whole: bytes
) -> None:
    out, wanted = tmp_path / "samples.jsonl", b"".join(whole.splitlines(keepends=True)[:BATCH])
    out.write_text("before\n")
    part_of(tiny_chain, out).write_bytes(whole)
    done = cli(*command(tiny_chain, out, n=BATCH))
    assert done.errors[-1] == f"{out}: {BATCH} samples, in place of an earlier file"
    assert out.read_bytes() == wanted


def test_what_another_run_is_drawing_is_left_alone(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    part = part_of(tiny_chain, out)
    with running(command(tiny_chain, out, n=100_000), part, 1):
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
    part_of(tiny_chain, out).write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))
    done = cli(*command(tiny_chain, link))
    assert any(f"going on with 4 of {N} samples" in line for line in done.errors)
    assert out.read_bytes() == whole
    assert link.is_symlink()
