"""Samples and references as they are read, and which texts were decoded from one latent."""

import gzip
from pathlib import Path
from typing import Any

import pytest
import zstandard

from diladiff_cli.errors import UserError
from diladiff_cli.stages.evaluation import sets
from diladiff_cli.stages.evaluation.samples import evaluate_samples
from diladiff_cli.stages.evaluation.scoring import Scoring
from diladiff_cli.stages.evaluation.sets import are_of_several_calls, decodings_by_latent, read_samples


def sample(text: str, **others: Any) -> dict[str, Any]:
    return {"text": text, "token_ids": [ord(c) for c in text]} | others


def test_equal_numbers_of_different_seeds_are_different_latents() -> None:
    rows = [sample("ab", id=i, latent=0, seed=seed) for i in range(3) for seed in (0, 1)]
    assert decodings_by_latent(rows[:2]) is None
    decodings = decodings_by_latent(rows[:5])
    assert decodings is not None
    assert decodings.shape == (2, 2, 2)


def test_texts_of_several_calls_that_have_one_number_are_not_of_one_latent() -> None:
    calls = [sample(text, id=i, latent=i, seed=1) for text in ("ab", "cd") for i in (0, 1)]
    assert are_of_several_calls(calls)
    assert not are_of_several_calls([*calls[:2], *(row | {"id": row["id"] + 2} for row in calls[2:])])
    assert not are_of_several_calls([row | {"latent": None} for row in calls])
    unnumbered = [{name: value for name, value in row.items() if name != "id"} for row in calls]
    assert not are_of_several_calls(unnumbered)  # another program's


def test_texts_of_several_calls_have_no_agreement() -> None:
    calls = [sample(text, id=i, latent=i, seed=1, stage="student") for text in ("ab", "cd") for i in (0, 1)]
    report = evaluate_samples(calls, None, Scoring(None))
    reason = "several texts of a latent have one id, as texts of several calls have"
    assert report["left_out"]["latent_agreement"] == reason
    assert "latent_agreement" not in report["samples"]


@pytest.mark.parametrize(("name", "pack"), [("s.jsonl.gz", gzip.compress), ("s.jsonl.zst", zstandard.compress)])
def test_packed_samples_are_read(tmp_path: Path, name: str, pack: Any) -> None:
    (tmp_path / name).write_bytes(pack(b'{"text": "one"}\n{"text": "two"}\n'))
    assert [sample["text"] for sample in read_samples(str(tmp_path / name))] == ["one", "two"]
    (tmp_path / "other.jsonl").write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(UserError, match="it is packed as .+: unpack it first, or let the file's name end so"):
        read_samples(str(tmp_path / "other.jsonl"))
    (tmp_path / name).write_bytes(pack(b'{"text": "one"}\n' * 999)[:-9])
    cut_off = "(the archive is cut off|Compressed file ended .+)"
    with pytest.raises(UserError, match=rf"cannot read .+{name} .{cut_off}.; give JSON lines"):
        read_samples(str(tmp_path / name))


def test_want_of_memory_is_not_a_fault_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise MemoryError

    (tmp_path / "s.jsonl").write_text('{"text": "one"}')
    monkeypatch.setattr("diladiff_cli.stages.evaluation.sets.chunks", full)
    with pytest.raises(MemoryError):
        read_samples(str(tmp_path / "s.jsonl"))


def test_an_array_of_samples_is_told(tmp_path: Path) -> None:
    (tmp_path / "s.json").write_text('[{"text": "one"}]')
    with pytest.raises(UserError, match=r"cannot read .+s\.json .it is one array.; give JSON lines, one object each"):
        read_samples(str(tmp_path / "s.json"))


@pytest.mark.parametrize(("n", "last"), [(4, 7), (5, 8), (10, 9)])
def test_no_more_pieces_are_kept_to_choose_from_than_are_wanted_or_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n: int, last: int
) -> None:
    (tmp_path / "long.txt").write_text("".join(f"{number:06}\n\n" for number in range(1000)))
    monkeypatch.setattr(sets, "ENOUGH", 1)
    monkeypatch.setattr(sets, "MANY", 10)
    pieces = sets.reference_samples(None, 8, n, [str(tmp_path / "long.txt")])
    assert len(pieces) == n
    assert max(int(piece["text"]) for piece in pieces) == last
