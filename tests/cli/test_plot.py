"""The command ``plot`` as a user runs it."""

import json
from pathlib import Path

import pytest

from tests.chain import Chain

from ..command_line import Cli


@pytest.mark.slow
def test_plot_names_the_pictures_that_it_wrote(shell: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = shell("plot", str(tiny_chain.prior), "--format", "png")
    assert found.status == 0, found.err
    lines = [json.loads(line) for line in found.out.splitlines()]
    assert [line["picture"] for line in lines] == ["prior_training", "prior_noise"]
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == ["prior_noise.png", "prior_training.png"]


def test_plot_refuses_formats_that_it_cannot_write(cli: Cli, tiny_chain: Chain) -> None:
    found = cli("plot", tiny_chain.prior, "--format", "png,bmp")
    assert (found.status, found.out) == (2, "")
    assert found.errors == ["error: --format is 'png,bmp'; give one or several of png, svg, pdf, with commas"]


def test_plot_into_a_folder_that_cannot_be_written_is_one_line(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cli("plot", tiny_chain.prior, "--out", "file")
    assert found.status == 1
    assert found.errors == ["error: cannot write into file (File exists); choose another --out"]
