"""The command ``plot`` as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..chain import Chain
from ..command_line import Cli, environment


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


def test_plot_takes_a_folder_and_tells_who_names_a_picture(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    found = cli("plot", tiny_chain.prior, "--out", "p.PNG", "--format", "bmp")
    assert (found.status, found.out) == (2, "")
    assert found.errors == [
        "error: --format is 'bmp'; give one or several of png, svg, pdf, with commas",
        "error: --out is 'p.PNG', and pictures go to a folder; name one, and give --format png",
    ]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "figures.svg").mkdir()
    assert cli("plot", tiny_chain.prior, "--out", "figures.svg", "--format", "png").status == 0


def test_plot_into_a_folder_that_cannot_be_written_is_one_line(cli: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = cli("plot", tiny_chain.prior, "--out", "file")
    assert found.status == 1
    assert found.errors == ["error: cannot write into file (File exists); choose another --out"]


@pytest.mark.parametrize("command", [["info"], ["info", "data"], ["plot", "ckpt/mdlm"]])
def test_what_only_looks_need_not_wait_for_torch(chain_copy: Chain, command: list[str]) -> None:
    code = "import sys\nfrom diladiff_cli.__main__ import main\ntry:\n    main()\n"
    code += "except SystemExit as end:\n    print('torch' in sys.modules, file=sys.stderr)\n    raise end"
    line = [sys.executable, "-c", code, *command]
    done = subprocess.run(line, cwd=chain_copy.root, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "False"
