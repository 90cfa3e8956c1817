"""Documents of any size and number fit into little memory.

``HUGE_MEGABYTES=100 HUGE_DOCUMENTS=1000000 pytest tests/data/test_huge_text.py -m slow -rP`` is the long form; it shows
the memory and the time taken.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import diladiff_cli
from diladiff_cli.data.files import size_of
from diladiff_cli.data.text import iter_pieces
from diladiff_cli.data.tokenizer import train_tokenizer

GOOD = "the cat sat on the mat, and the dog in the log"
MEGABYTES = int(os.environ.get("HUGE_MEGABYTES", "10"))
DOCUMENTS = int(os.environ.get("HUGE_DOCUMENTS", "100000"))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level tokenizer."""
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    train_tokenizer([GOOD] * 9, 300).save_pretrained(folder)
    return folder


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


PEAK = """
import sys, time
from pathlib import Path
from diladiff_cli.config import EncodeConfig
from diladiff_cli.stages.encode import encode_text
peak = lambda: int(next(l for l in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in l).split()[1])
config = EncodeConfig(tokenizer=sys.argv[2], length=256, valid_share=0.0)
before, start = peak(), time.monotonic()
record = encode_text(config, text=[sys.argv[1]], valid=[sys.argv[3]], out=Path(sys.argv[4]))
train = record["splits"]["train"]
print(train["documents"], train["tokens"], peak() - before, time.monotonic() - start)
"""


def encoded(source: Path, tokenizer: Path | str, valid: Path, out: Path) -> tuple[int, int, float]:
    """Documents, tokens and the growth of memory in MB of an encoding in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(Path(diladiff_cli.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PEAK, str(source), str(tokenizer), str(valid), str(out)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    documents, count, growth, seconds = found.stdout.split()
    print(f"{source.name}: {documents} documents, {count} tokens, {int(growth) >> 10} MB more, {float(seconds):.0f} s")
    return int(documents), int(count), int(growth) / 1024


HUGE: dict[str, tuple[str, Callable[[int], bytes], bool]] = {
    "one line": ("a.txt", lambda n: (GOOD + " ").encode() * (n // len(GOOD)), True),
    "one word": ("a.txt", lambda n: b"ab" * (n // 2), True),
    "one JSON line": ("a.jsonl", lambda n: b'{"text": "%b"}\n' % (GOOD.encode() * (n // len(GOOD))), False),
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("name", HUGE)
def test_memory_does_not_grow_with_the_length_of_a_document(tmp_path: Path, tokenizer: Path, name: str) -> None:
    file, content, bounded = HUGE[name]
    valid = write(tmp_path / "valid.txt", (GOOD * 99).encode())
    growth = []
    for megabytes in (2, MEGABYTES):
        documents, count, more = encoded(
            write(tmp_path / file, content(megabytes << 20)), tokenizer, valid, tmp_path / f"data{megabytes}"
        )
        assert documents == 1
        assert count > megabytes << 17
        growth.append(more)
    # A document as a whole would take thirty times its size; a JSON line is parsed as one, but not tokenised as one.
    assert growth[1] - growth[0] < 150 + (0 if bounded else 6 * (MEGABYTES - 2))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_number_of_tiny_documents(tmp_path: Path, tokenizer: Path) -> None:
    valid = write(tmp_path / "valid.txt", (GOOD * 99).encode())
    growth = []
    for number in (DOCUMENTS // 10, DOCUMENTS):
        source = write(tmp_path / f"{number}.txt", b"the cat\n\n" * number)
        documents, _, more = encoded(source, tokenizer, valid, tmp_path / f"data{number}")
        assert documents == number
        growth.append(more)
    assert growth[1] - growth[0] < 100


@pytest.mark.parametrize("kind", ["txt", "txt.zst", "jsonl", "jsonl.zst", "parquet"])
def test_what_is_read_of_files_is_told_in_full(tmp_path: Path, kind: str) -> None:
    text = "".join(json.dumps({"text": GOOD}) + "\n" for _ in range(50_000)) if "jsonl" in kind else GOOD * 50_000
    raw = text.encode()
    file = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"text": [GOOD] * 9}), file)
    else:
        file.write_bytes(zstandard.compress(raw) if kind.endswith("zst") else raw)
    told = list[int]()
    for _ in iter_pieces([str(tmp_path), str(file)], on_read=told.append):
        pass
    assert sum(told) == 2 * file.stat().st_size == size_of([str(tmp_path), str(file)])
    assert len(told) > 2 or kind not in ("txt", "jsonl")  # told as it is read
    assert size_of([str(file), "-"]) == 0
