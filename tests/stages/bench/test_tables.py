"""What the table and the lines of ``bench`` tell beside the figures themselves."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from diladiff_cli.stages.bench.tables import FrontierView, frontier_table

from ...chain import Chain
from .test_frontier import bench

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


def test_a_narrow_terminal_gets_a_table_for_each_line_whose_figures_are_whole(
    tiny_chain: Chain, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"decode_steps": "2,4", "steps": "2", "temperatures": "1.0,0.5", "seeds": "0,1"}
    reports = bench(tiny_chain, tmp_path, "mdlm", "student", **settings)
    for report in reports:
        report["figures"]["mauve_pooled"] = {"mean": 0.5, "std": 0.1, "by_clustering": [0.5], "n": 8}

    def shown(width: int) -> str:
        console = Console(width=width, record=True, file=StringIO())
        console.print(FrontierView(reports))
        return console.export_text()

    assert "quality and speed" in shown(400)
    assert "± over seeds" in shown(400)
    for width in (60, 80):
        text = shown(width)
        assert "…" not in text
        assert "quality and speed" not in text
        assert "±" not in text
        assert max(map(len, text.splitlines())) <= width
        for report in reports:
            means = {name: figure["mean"] for name, figure in report["figures"].items()}
            speed = f"{report['tokens_per_second']['mean']:,.0f}"
            (row,) = [line.split() for line in text.splitlines() if line.split()[2:3] == [speed]]
            assert row[:2] == [str(report["decode_steps"]), f"{report['temperature']:g}"]
            assert f"{means['entropy']:.3g}" in row
        assert text.count("tokens/s") == 2


def test_a_spread_that_is_rounding_is_none(tiny_chain: Chain, tmp_path: Path) -> None:
    (report,) = bench(tiny_chain, tmp_path, "mdlm", **ONE | {"seeds": "0,1"})
    for std, told in ((1e-16, "0.5 ± 0"), (1e-3, "0.5 ± 0.001")):
        report["figures"]["mauve"] = {"mean": 0.5, "std": std, "by_seed": [0.5, 0.5]}
        (column,) = [c for c in frontier_table([report]).columns if c.header == "mauve"]
        assert next(iter(column.cells)) == told
