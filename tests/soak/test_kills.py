"""The short form of ``kills.py``: a few kills of every command."""

from collections.abc import Iterator

import pytest

from ..chain import Chain
from ..soak.commands import CASES, Case
from ..soak.kills import Soak
from ..soak.launcher import Launcher

pytestmark = pytest.mark.slow
KILLS = 3


@pytest.fixture(scope="module")
def soak(tiny_chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Soak]:
    """All commands share the warmed process and their inputs."""
    root = tmp_path_factory.mktemp("soak")
    with Launcher(root / "caches") as launcher:
        yield Soak(root, tiny_chain.root, launcher, seed=0, alone=False)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_command_killed_at_random_moments_loses_nothing_and_ends_as_if_never_killed(soak: Soak, case: Case) -> None:
    result = soak.run(case, KILLS)
    assert result.problems == []
    assert result.kills >= KILLS
    assert result.rounds >= 1
