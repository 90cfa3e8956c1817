"""A file or folder has one writer at a time, whatever becomes of that."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.locks import sole_run, sole_writer

from ..warmed import warm_python

HOLDER = """
import sys
from pathlib import Path
from diladiff_cli.runtime.locks import sole_writer
with sole_writer(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_elsewhere(
    place: Path, environment: dict[str, str], python: str | Path | None = None
) -> Iterator["subprocess.Popen[str]"]:
    """Another process writes ``place``, until its standard input ends."""
    command = [str(python or warm_python()), "-c", HOLDER, str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("lock", [sole_writer, sole_run])
def test_a_place_that_another_process_writes_is_refused_until_that_ends(
    tmp_path: Path, environment: dict[str, str], lock: type
) -> None:
    place = tmp_path / "new" / "mdlm"
    with held_elsewhere(place, environment) as process:
        with pytest.raises(UserError, match=f"another process is writing {place}; wait until it ends"), lock(place):
            raise AssertionError("two at once")
        with lock(tmp_path / "new" / "ae"):  # other places are free
            pass
        process.communicate("", timeout=60)
        assert process.returncode == 0
        with lock(place):
            pass
    assert list(place.parent.iterdir()) == []


def test_a_killed_writer_keeps_nobody_away(tmp_path: Path, environment: dict[str, str]) -> None:
    place = tmp_path / "samples.jsonl"
    with held_elsewhere(place, environment, sys.executable) as process:  # no process but that one
        process.kill()
        process.wait(60)
        assert [path.name for path in tmp_path.iterdir()] == [".samples.jsonl.lock"]
        with sole_writer(place):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_and_what_it_leads_to_are_one_place(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / "mdlm"
    link.symlink_to(tmp_path / "disk" / "run")
    with (
        held_elsewhere(link, environment),
        pytest.raises(UserError, match="another process"),
        sole_writer(tmp_path / "disk" / "run"),
    ):
        raise AssertionError("two at once")


def test_an_error_inside_ends_the_lock_and_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), sole_writer(tmp_path / "a"):
        raise FileNotFoundError
    with sole_writer(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_no_lock_can_be_made_whoever_writes_tells_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reached = False
    with sole_writer(tmp_path / "file" / "mdlm"):
        reached = True
    assert reached
