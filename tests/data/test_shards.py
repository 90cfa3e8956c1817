import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diladiff_cli.data import shards as shards_module
from diladiff_cli.data.latents import open_latents
from diladiff_cli.data.order import batch_rows
from diladiff_cli.data.shards import MAX_SHARDS, Shards, ShardWriter, rows_per_shard, shard_name, write_shard
from diladiff_cli.data.tokens import open_tokens
from diladiff_cli.errors import UserError

ROWS = np.arange(23 * 4, dtype=np.uint16).reshape(23, 4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A token data set of 23 blocks in five shards, and of 3 blocks in one."""
    monkeypatch.setattr(shards_module, "SHARD_BYTES", 5 * ROWS[0].nbytes)
    splits = {}
    for name, rows in (("train", ROWS), ("valid", ROWS[:3])):
        writer = ShardWriter(tmp_path, name, "tokens", ROWS[0].nbytes)
        for part in np.array_split(rows, [1, 2, 9]):  # of which the last ones cross shards
            writer.add(part)
        splits[name] = {"rows": len(rows), "shards": writer.close()}
    config = {
        "stage": "data",
        "format_version": 1,
        "length": 4,
        "vocab_size": 200,
        "mask_id": 199,
        "separator_id": 0,
        "fingerprint": "abc",
        "splits": splits,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_rows_are_gathered_across_shards_in_the_order_asked_for(folder: Path) -> None:
    split = open_tokens(folder).split("train")
    assert len(list(folder.glob("train-*.safetensors"))) == 5
    assert len(split) == 23
    for rows in ([0, 22], [4, 5], [9, 3, 20, 3], list(range(23)), np.array([14, 15])):
        found = split.gather(rows)
        assert found.dtype == torch.int64
        assert found.tolist() == ROWS[rows].tolist()


def test_a_data_set_says_what_it_is(folder: Path) -> None:
    data = open_tokens(folder)
    assert (data.length, data.vocab_size, data.mask_id, data.separator_id) == (4, 200, 199, 0)
    assert (data.fingerprint, data.path) == ("abc", folder)
    assert len(data.split("valid")) == 3


def test_rows_beyond_the_end_are_refused(folder: Path) -> None:
    split = open_tokens(folder).split("train")
    for row in (23, -1):
        with pytest.raises(IndexError):
            split.gather([0, row])


@pytest.mark.parametrize("fault", ["missing", "truncated", "empty", "text", "other tensor", "fewer rows"])
def test_a_damaged_shard_gives_one_line_that_names_it(folder: Path, fault: str) -> None:
    path = folder / "train-00002.safetensors"
    if fault == "missing":
        path.unlink()
    elif fault == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif fault in ("empty", "text"):
        path.write_bytes(b"" if fault == "empty" else b"no shard at all")
    else:
        other = fault == "other tensor"
        shards_module.write_shard(path, ROWS[: 5 if other else 4], "latents" if other else "tokens")
    with pytest.raises(UserError, match=r"train-00002\.safetensors .*; run encode again") as caught:
        open_tokens(folder).split("train")
    assert "\n" not in str(caught.value)


def test_a_record_cannot_name_a_file_elsewhere(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.safetensors"
    shards_module.write_shard(outside, ROWS, "tokens")
    with pytest.raises(UserError, match=r"secret\.safetensors is missing"):
        Shards(folder, {"shards": [{"file": str(outside), "rows": 23}]}, "tokens")


def test_shards_of_different_numbers_give_one_line(tmp_path: Path) -> None:
    kinds = (np.uint16, np.uint32)
    records = [
        write_shard(tmp_path / f"train-{i}.safetensors", np.ones((2, 3), kind), "tokens")
        for i, kind in enumerate(kinds)
    ]
    with pytest.raises(UserError, match="different kinds of numbers"):
        Shards(tmp_path, {"shards": records}, "tokens")


def test_more_shards_than_the_limit_on_open_files_can_be_read(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    records = [write_shard(tmp_path / shard_name("train", i), ROWS[i % 23][None], "tokens") for i in range(120)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        found = Shards(tmp_path, {"shards": records}, "tokens").gather(range(120))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert np.array_equal(found, np.resize(ROWS, (120, 4)))


@pytest.mark.parametrize("by", ["numpy", "safetensors"])
def test_a_limit_on_open_files_that_cannot_be_raised_is_told_and_no_data_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EMFILE, "Too many open files") if by == "numpy" else FileNotFoundError("No such file")

    record = write_shard(tmp_path / "a.safetensors", ROWS, "tokens")
    monkeypatch.setattr(*((np, "memmap") if by == "numpy" else (shards_module, "safe_open")), refuse)
    with pytest.raises(UserError, match="more files than may be open at once; allow more: ulimit -n"):
        Shards(tmp_path, {"shards": [record]}, "tokens")


def test_a_split_without_shards_is_empty(folder: Path) -> None:
    assert len(Shards(folder, {"shards": []}, "tokens")) == 0


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda p: (p / "config.json").unlink(), "no config.json); give a token data set, which encode"),
    "torn": (lambda p: (p / "config.json").write_text('{"stage": "da'), "config.json cannot be read"),
    "a list": (lambda p: (p / "config.json").write_text("[]"), "config.json cannot be read"),
    "an artifact": (lambda p: change(p, stage="mdlm"), "is a base; give a token data set, which encode TEXT writes"),
    "newer": (lambda p: change(p, format_version=9), "has format 9, newer than 2; upgrade diladiff"),
    "incomplete": (
        lambda p: (p / "config.json").write_text('{"stage": "data", "format_version": 1}'),
        "config.json is damaged: it has no fingerprint; restore it, or make it again with encode TEXT --fresh --out",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_token_data_set_gives_one_line(folder: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(UserError) as caught:
        open_tokens(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def latents(folder: Path, **changes: Any) -> Path:
    record = shards_module.write_shard(folder / "train-00000.safetensors", np.zeros((2, 3, 4), np.float16), "latents")
    splits = {"train": {"shards": [record]}, "valid": {"shards": []}}
    config = {"stage": "latents", "format_version": 1, "shape": [3, 4], "splits": splits}
    config |= {"data": "../data", "ae_hash": "a", "fingerprint": "b"}
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_latents_are_read_back(tmp_path: Path) -> None:
    split = open_latents(latents(tmp_path)).split("train")
    assert split.gather([1, 0]).shape == (2, 3, 4)
    assert split.gather([0]).dtype == np.float16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no config.json); give a folder of latents, which encode --ae writes"),
        ("{", "config.json cannot be read"),
        ("[]", "config.json cannot be read"),
        ("{}", "its config.json is of something else); give a folder of latents"),
        ('{"stage": "data", "format_version": 1}', "is a token data set; give a folder of latents"),
        ('{"stage": "latents", "format_version": 5}', "has format 5, newer than 1; upgrade diladiff"),
        ('{"stage": "latents", "format_version": 1}', "config.json is damaged; make it again with encode --ae --fresh"),
    ],
)
def test_a_folder_that_holds_no_latents_gives_one_line(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        open_latents(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_latents_that_are_still_written_are_told(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UserError, match="holds unfinished latents; finish them with the same encode --ae command"):
        open_latents(tmp_path)


@given(rows=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 5))
def test_each_epoch_is_a_permutation_whatever_the_batch(rows: int, batch: int, seed: int) -> None:
    steps = -(-3 * rows // batch)
    batches = [batch_rows(seed, step * batch, batch, rows) for step in range(steps)]
    assert {len(found) for found in batches} == {batch}
    visited = np.concatenate(batches)[: 3 * rows].reshape(3, rows)
    for epoch in visited:
        assert sorted(epoch) == list(range(rows))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first, second = batch_rows(0, 0, 100, 50).reshape(2, 50)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, batch_rows(1, 0, 50, 50))


def test_the_order_does_not_depend_on_the_size_of_the_batch() -> None:
    small = np.concatenate([batch_rows(3, drawn, 4, 10) for drawn in range(0, 40, 4)])
    assert np.array_equal(small, np.concatenate([batch_rows(3, drawn, 20, 10) for drawn in (0, 20)]))


def test_shards_that_were_exchanged_are_noticed(folder: Path) -> None:
    """Each is whole and of the recorded size."""
    first, second, other = (folder / f"train-0000{i}.safetensors" for i in (0, 1, 9))
    for source, target in ((first, other), (second, first), (other, second)):
        source.rename(target)
    rows = open_tokens(folder).split("train")
    assert rows.gather([12]).tolist() == ROWS[[12]].tolist()
    with pytest.raises(UserError, match=r"train-00000\.safetensors is not the shard that was written"):
        rows.gather([0])


@pytest.mark.parametrize("rows", [1, 10**5, 107_000_000])
def test_shards_of_large_data_are_larger_rather_than_more(rows: int) -> None:
    row_bytes = 2 * 32 * 1024
    size = rows_per_shard(row_bytes, rows * row_bytes)
    assert size >= rows_per_shard(row_bytes)
    assert -(-rows // size) <= MAX_SHARDS + 1
