from pathlib import Path

import pytest

from diladiff_cli.stages.evaluation import sets


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
