"""Work that the main process leads: shared out in turns, with results and errors on all processes."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.runtime.shared_work import map_over_processes, run_on_main

from .launch import TORCHRUN, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes made."""
    folder = tmp_path_factory.mktemp("helping")
    command = [*TORCHRUN, str(Path(__file__).with_name("helping.py")), str(folder)]
    subprocess.run(command, env=environment(), check=True, timeout=200)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_all_processes_have_the_results_in_order(found: list[dict[str, Any]]) -> None:
    assert found[0] == found[1]
    assert found[0]["shared"] == [[0, 0, "0"], [1, 1, "1"], [2, 2, "0"], [3, 3, "1"], [4, 4, "0"]]
    assert found[0]["none"] == []
    assert found[0]["twice"] == [[[1, 1, "0"]], [[2, 2, "0"], [3, 3, "1"]]]


def test_helpers_wait_longer_than_processes_do_for_one_another(found: list[dict[str, Any]]) -> None:
    assert found[1]["late"] == [[7, 7, "0"], [8, 8, "1"]]


def test_an_error_anywhere_is_raised_everywhere_and_the_next_work_is_shared(found: list[dict[str, Any]]) -> None:
    for one in found:
        assert one["at a helper"] == "UserError: item 13 cannot be used; leave it out"
        assert one["at the main process"] == "ConfigError: item is 14\nitem is unlucky"
        assert one["alone"] == "the main process cannot go on; mend it"
        assert one["after it"] == [[4, 4, "0"]]


def test_a_process_alone_does_all_of_it() -> None:
    assert run_on_main(lambda: list(map_over_processes(str, [1, 2]))) == [(1, "1"), (2, "2")]
