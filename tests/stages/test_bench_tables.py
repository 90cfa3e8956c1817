"""What the table and the lines of ``bench`` tell beside the figures themselves."""

from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.stages.bench_tables import frontier_table

from ..chain import Chain
from .test_bench_frontier import bench

ONE: dict[str, Any] = {"decode_steps": "4", "steps": "2", "seeds": "0"}


def test_latent_agreement_stands_beside_chance(tiny_chain: Chain, tmp_path: Path) -> None:
    reports = bench(tiny_chain, tmp_path, "mdlm", "student", **ONE)
    (column,) = [c for c in frontier_table(reports).columns if c.header == "agreement (chance)"]
    found, chance = (reports[1]["figures"][name]["mean"] for name in ("latent_agreement", "chance_agreement"))
    base, student, _ = map(str, column.cells)
    assert base == "-"
    assert student.endswith(f" ({chance:.2g})")
    assert float(student.split()[0]) == pytest.approx(found, rel=1e-2)


def test_figures_that_are_there_are_defined_and_no_others(tiny_chain: Chain, tmp_path: Path) -> None:
    for report in bench(tiny_chain, tmp_path, "mdlm", "student", **ONE):
        assert report["definitions"].keys() == report["figures"].keys()
        assert "entropy" in report["definitions"]


def test_what_will_be_drawn_is_told_and_nothing_where_all_is_kept(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench(tiny_chain, tmp_path, "mdlm", "student", decode_steps="2,4", steps="2", seeds="0,1")
    assert "32 texts to draw and to score" in capsys.readouterr().err.splitlines()
    bench(tiny_chain, tmp_path, "mdlm", "student", decode_steps="2,4", steps="2", seeds="0,1")
    assert "to draw and to score" not in capsys.readouterr().err


@pytest.mark.parametrize(("pooled", "told"), [(None, 4), (12, 12), (1056, None)])
def test_mauve_of_few_texts_is_marked(tiny_chain: Chain, tmp_path: Path, pooled: int | None, told: int | None) -> None:
    (report,) = bench(tiny_chain, tmp_path, "mdlm", **ONE)
    assert "says little" not in str(frontier_table([report]).caption)  # there is no MAUVE
    report["figures"]["mauve"] = {"mean": 0.5, "std": None, "by_seed": [0.5]}
    if pooled is not None:
        report["figures"]["mauve_pooled"] = {"mean": 0.5, "std": 0.1, "by_clustering": [0.5], "n": pooled}
    caption = str(frontier_table([report]).caption)
    assert (f"mauve of {told} texts says little" in caption) is (told is not None)
    assert ("says little" in caption) is (told is not None)
