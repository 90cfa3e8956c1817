"""What somebody else put into an artifact's folder stays there when the artifact is written anew."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.runtime.artifacts import OURS, load_artifact
from diladiff_cli.runtime.folders import replacing

from .test_artifacts import save  # noqa: F401 (a fixture)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(1, "Operation not permitted")


def test_all_of_it_stays_and_nothing_of_ours(save: Callable[..., Path]) -> None:  # noqa: F811
    path = save("base")
    (path / "eval" / "deep").mkdir(parents=True)
    (path / "eval" / "deep" / "report.json").write_text("{}")
    (path / "notes.txt").write_text("mine")
    (path / "model_comparison.safetensors.md").write_text("mine")
    (path / "link").symlink_to("/nowhere")
    (path / "folder").symlink_to(path / "eval", target_is_directory=True)
    (path / "run.sh").touch(mode=0o700)
    ours = ("state", "parents", "model-00009.safetensors", "vocab.txt", ".metrics.jsonl.partial-1")
    for name in ours:
        (path / name).write_text("old")
    before = names(path)
    for _ in range(2):
        assert save("base") == path
        assert names(path) == before - set(ours)
    assert (path / "notes.txt").read_text() == "mine"
    assert (path / "eval" / "deep" / "report.json").read_text() == "{}"
    assert (path / "link").readlink() == Path("/nowhere")
    assert (path / "folder").readlink() == path / "eval"
    assert (path / "run.sh").stat().st_mode & 0o777 == 0o700
    assert load_artifact(path).config["files"].keys() == {"model.safetensors"}


def test_what_is_written_there_while_the_rest_reaches_the_disk_stays(
    save: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save("base")
    (path / "notes.txt").write_text("old")

    def slow(_: Path) -> None:
        (path / "new.txt").write_text("while the weights are written")
        (path / "draft").write_text("new")
        (path / "draft").replace(path / "notes.txt")  # as editors save

    monkeypatch.setattr("diladiff_cli.runtime.folders.share", slow)
    save("base")
    assert (path / "notes.txt").read_text() == "new"
    assert (path / "new.txt").exists()


def test_what_is_written_anew_wins(save: Callable[..., Path]) -> None:  # noqa: F811
    path = save("base")
    (path / "extra.txt").write_text("old")
    save("base", extra=lambda folder: (folder / "extra.txt").write_text("new"))
    assert (path / "extra.txt").read_text() == "new"


def test_what_cannot_be_linked_is_copied(save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    path = save("base")
    (path / "notes.txt").write_text("mine")
    (path / "link").symlink_to("/nowhere")
    monkeypatch.setattr("os.link", refuse)
    save("base")
    assert (path / "notes.txt").read_text() == "mine"
    assert (path / "link").readlink() == Path("/nowhere")


def test_what_cannot_be_kept_stops_the_save_and_is_not_lost(
    save: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = save("base")
    (path / "notes.txt").write_text("mine")
    before = names(path)
    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr("shutil.copy2", refuse)
    with pytest.raises(UserError, match=r"notes\.txt cannot be kept .*; move it out of"):
        save("base")
    assert names(path) == before


@pytest.mark.parametrize("where", [".", "eval"])
def test_what_vanishes_meanwhile_is_left_out(
    save: Callable[..., Path],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    path = save("base")
    (path / "eval").mkdir()
    for name in ("a.swp", "b.txt", "c.swp"):
        (path / where / name).write_text("text")
    link = os.link

    def late(source: Path, place: Path, **options: Any) -> None:
        if Path(source).suffix == ".swp":
            Path(source).unlink()
        link(source, place, **options)

    monkeypatch.setattr("os.link", late)
    save("base")
    assert names(path / where) >= {"b.txt"}
    assert not names(path / where) & {"a.swp", "c.swp"}


def test_a_note_put_there_before_the_first_checkpoint_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not of diladiff"), replacing(out, "mdlm", OURS):
        pass
    (out / "metrics.jsonl").touch()  # a run's
    with replacing(out, "mdlm", OURS) as folder:
        (folder / "config.json").write_text("{}")
    assert names(out) == {"notes.txt", "config.json"}
