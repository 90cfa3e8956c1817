"""What keeps a process from writing or reading: each a context, or Python for a process to run first."""

import ctypes
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

ROOM = 1500  # bytes of a file that still find room: less than any artifact or shard has


@contextmanager
def full_disk(place: Path, room: int = ROOM) -> Iterator[None]:
    """No file grows beyond ``room`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing can be made in the folder, not even by root, who does without the right to ignore permissions here."""
    place.chmod(0o555)
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, this thread
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert library.capget(header, before) == 0
    without[1], without[4] = before[1], before[4]  # permitted still, but not effective
    assert library.capset(header, without) == 0
    try:
        yield
    finally:
        assert library.capset(header, before) == 0
        place.chmod(0o755)


@contextmanager
def file_in_the_way(place: Path) -> Iterator[None]:
    """A file lies where the folder should be."""
    place.rmdir()
    place.write_text("mine")
    try:
        yield
    finally:
        assert place.read_text() == "mine"
        place.unlink()
        place.mkdir()


OBSTACLES: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "file in the way": file_in_the_way,
}


def prepare(obstacle: str, place: Path) -> str:
    """The same for a process of its own."""
    name = OBSTACLES[obstacle].__name__
    lines = (
        "from pathlib import Path",
        "from tests.faults.obstacles import " + name,
        f"obstacle = {name}(Path({os.fspath(place)!r}))",
        "obstacle.__enter__()",
        "import atexit",
        "atexit.register(obstacle.__exit__, None, None, None)",
    )
    return "\n".join(lines)
