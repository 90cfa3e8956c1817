import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.runtime import folders
from diladiff_cli.runtime.folders import check_replaceable, recover, replacing, restore

# Replaces the folder again and again by eight large files and a config.json that all hold the same number.
WRITER = """
import sys
from pathlib import Path
from diladiff_cli.runtime.folders import replacing
number = int(sys.argv[2])
while True:
    number += 1
    with replacing(Path(sys.argv[1])) as folder:
        for i in range(8):
            (folder / f"{i}.bin").write_bytes(b"%06d" % number * 20_000)
        (folder / "config.json").write_text('{"stage": "mdlm"}')
    print(number, flush=True)
"""


def write(folder: Path, content: str) -> None:
    with replacing(folder) as partial:
        (partial / "config.json").write_text('{"stage": "mdlm"}')
        (partial / "inner").mkdir()
        (partial / "inner" / "a.txt").write_text(content)


def fail() -> str:
    raise FloatingPointError


def read(folder: Path) -> str:
    return (folder / "inner" / "a.txt").read_text()


@pytest.fixture(params=["one step", "two steps"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's atomic exchange, and without it."""
    if request.param == "two steps":
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
    return str(request.param)


def test_a_folder_appears_and_is_replaced_as_a_whole(tmp_path: Path, swap: str) -> None:
    out = tmp_path / "deep" / "out"
    for content in ("first", "second"):
        write(out, content)
        assert read(out) == content
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_a_reader_between_the_two_steps_of_a_swap_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename, times = tmp_path / "out", Path.rename, iter((True, True, False))
    write(out, "old")
    monkeypatch.setattr(folders, "_exchange", lambda a, b: False)

    def renamed(path: Path, target: Path) -> Path:
        moved = rename(path, target)
        if path == out and next(times):
            folders.restore(out)
        return moved

    monkeypatch.setattr(Path, "rename", renamed)
    write(out, "new")
    assert next(times, None) is None
    assert read(out) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_swap_that_is_refused_is_no_endless_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, rename = tmp_path / "out", Path.rename
    write(out, "old")
    monkeypatch.setattr(folders, "_exchange", lambda a, b: False)

    def renamed(path: Path, target: Path) -> Path:
        if target == out:
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", renamed)
    with pytest.raises(UserError, match=r"cannot write .*out .Permission denied"):
        write(out, "new")
    monkeypatch.undo()
    folders.restore(out)
    assert read(out) == "old"


class AppleLibrary:
    """Of a system with that call alone; swaps as it does."""

    def __init__(self, status: int) -> None:
        self.status, self.calls = status, 0

    def renamex_np(self, first: bytes, second: bytes, flags: int) -> int:
        assert flags == 2
        self.calls += 1
        if self.status == 0:
            between = second + b".between"
            for path, target in ((first, between), (second, first), (between, second)):
                os.rename(path, target)
        return self.status


@pytest.mark.parametrize("status", [0, -1])
def test_a_folder_is_replaced_by_the_call_of_another_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    library = AppleLibrary(status)
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *_, **__: library)
    for content in ("first", "second"):
        write(tmp_path / "out", content)
        assert read(tmp_path / "out") == content
    assert library.calls == 1
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_error_while_writing_leaves_the_old_content(tmp_path: Path, swap: str) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(FloatingPointError), replacing(out) as partial:
        (partial / f"{fail()}").write_text("new")
    assert read(out) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_gives_one_line_and_leaves_the_old_content(tmp_path: Path, swap: str) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with pytest.raises(UserError, match=r"cannot write .*out \(.*No space left.*\); free space"), replacing(out):
        raise OSError(28, "No space left on device")
    assert read(out) == "old"


def test_a_kill_at_any_moment_leaves_the_old_content_or_the_new(tmp_path: Path, environment: dict[str, str]) -> None:
    out, number, source = tmp_path / "out", 0, random.Random(0)
    for _ in range(12):
        command = [sys.executable, "-c", WRITER, str(out), str(number)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(source.random() * 0.03)
        process.kill()
        finished = int((first + process.stdout.read()).split()[-1])
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        contents = [path.read_bytes() for path in out.glob("*.bin")]
        number = int(contents[0][:6])
        assert contents == [b"%06d" % number * 20_000] * 8
        assert number in (finished, finished + 1)
    recover(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_swap_cut_off_between_its_two_steps_is_undone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for mend in (restore, recover):
        write(out, "old")
        out.rename(tmp_path / ".out.old")
        mend(out)
        assert read(out) == "old"


def test_a_leftover_that_could_not_be_removed_is_in_nobodys_way(tmp_path: Path, swap: str) -> None:
    out = tmp_path / "out"
    write(out, "old")
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / ".nfs1234").touch()
    write(out, "new")
    assert read(out) == "new"
    recover(out)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_reader_leaves_the_files_of_a_running_writer_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out, "old")
    with replacing(out) as partial:
        (partial / "config.json").write_text('{"stage": "mdlm"}')
        restore(out)
        assert (partial / "config.json").exists()
    assert not (out / "inner").exists()


def test_the_next_writer_removes_what_killed_writers_left(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    (tmp_path / ".out.partial-12345678").mkdir()
    (tmp_path / ".other.partial-12345678").mkdir()
    recover(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.partial-12345678", "out"]


def test_behind_a_link_the_content_changes_and_the_link_stays(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert read(tmp_path / "disk" / "real") == "new"
    assert sorted(p.name for p in tmp_path.rglob("*") if p.name.startswith(".")) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("notes.txt", "mine"), ("config.json", '{"model_type": "bert"}'), ("config.json", '{"sta'), ("config.json", "[]")],
)
def test_a_folder_that_is_not_ours_is_never_replaced(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"not of diladiff.*; move it away or choose another --out"):
        write(tmp_path, "new")
    assert (tmp_path / name).read_text() == content


@pytest.mark.parametrize("below", [".", "logs"])
def test_the_current_folder_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    (tmp_path / "a" / "logs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / below)
    for folder in (tmp_path / "a", Path(os.path.relpath(tmp_path / "a"))):
        with pytest.raises(UserError, match="is the current folder, or above it, so that no other folder can take"):
            check_replaceable(folder)
    check_replaceable(tmp_path / "b")


def test_a_mount_point_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path)
    with pytest.raises(UserError, match="is a mount point"):
        check_replaceable(tmp_path)


def test_only_the_stage_asked_for_is_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert check_replaceable(out) is None
    out.mkdir()
    (out / "metrics.jsonl").write_text("")  # of a run killed before its first checkpoint
    assert check_replaceable(out, "mdlm") is None
    write(out, "old")
    assert check_replaceable(out, "mdlm") == "mdlm"
    with pytest.raises(UserError, match="is a base, which a token data set would replace"):
        check_replaceable(out, "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        write(tmp_path / "file", "new")


@pytest.mark.parametrize(
    ("name", "begun"), [("metrics.jsonl", True), (".metrics.jsonl.partial-7", True), ("metrics.jsonl.backup", False)]
)
def test_only_what_a_run_begins_with_may_be_replaced(tmp_path: Path, name: str, begun: bool) -> None:
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / name).touch()
    if begun:
        assert check_replaceable(tmp_path) is None
    else:
        with pytest.raises(UserError, match="files that are not of diladiff"):
            check_replaceable(tmp_path)
