"""A file or folder has one writer at a time, whatever becomes of that."""

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.locks import sole_run, sole_writer

from ..warmed import warm_python

Lock = Callable[[Path], AbstractContextManager[None]]
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
    tmp_path: Path, environment: dict[str, str], lock: Lock
) -> None:
    place = tmp_path / "new" / "mdlm"
    with held_elsewhere(place, environment) as process:
        with pytest.raises(UserError, match=f"another run is writing {place}; wait until it ends"), lock(place):
            raise AssertionError("two at once")
        with lock(tmp_path / "new" / "ae"):  # other places are free
            pass
        process.communicate("", timeout=60)
        assert process.returncode == 0
        with lock(place):
            pass
    assert list(tmp_path.iterdir()) == []


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
        pytest.raises(UserError, match="another run"),
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
    with sole_writer(tmp_path / "file" / "mdlm"):
        pass
    with sole_writer(Path("/")):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_where_the_file_system_has_no_locks_nobody_is_kept_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with sole_writer(tmp_path / "mdlm"), sole_writer(tmp_path / "mdlm"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_folders_above_are_left_as_they_were_where_nothing_was_written(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "new" / "deep" / "mdlm"):
        pass
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path / "new" / "deep" / "mdlm"):
        (tmp_path / "new" / "deep" / "mdlm").touch()
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["mdlm"]


def test_what_comes_between_opening_and_locking_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, flock, opened = tmp_path / ".mdlm.lock", fcntl.flock, list[int]()

    def late(descriptor: int, how: int) -> None:
        if not opened:  # the holder ends, and removes the file that is open here
            file.unlink()
        opened.append(descriptor)
        flock(descriptor, how)

    monkeypatch.setattr("fcntl.flock", late)
    with sole_writer(tmp_path / "mdlm"):
        assert len(opened) == 2
        with pytest.raises(UserError, match="another run is writing"), sole_writer(tmp_path / "mdlm"):
            raise AssertionError("two at once")


def test_the_end_of_a_lock_whose_file_was_removed_leaves_that_of_the_next(tmp_path: Path) -> None:
    file = tmp_path / ".mdlm.lock"
    with ExitStack() as first:
        first.enter_context(sole_writer(tmp_path / "mdlm"))
        file.unlink()
        with sole_writer(tmp_path / "mdlm"):
            first.close()
            assert file.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes another user")
def test_another_users_lock_is_heeded(environment: dict[str, str]) -> None:
    with TemporaryDirectory() as name:  # pytest's own folders lie in ones that others may not enter
        shared = Path(name)
        shared.chmod(0o777)
        with held_elsewhere(shared / "mdlm", environment):
            os.seteuid(65534)
            try:
                with pytest.raises(UserError, match="another run is writing"), sole_writer(shared / "mdlm"):
                    raise AssertionError("two at once")
            finally:
                os.seteuid(0)
