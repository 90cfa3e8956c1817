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
