import shutil
from pathlib import Path

import pytest

from diladiff_cli.cli.main import run

from .chain import Chain, build_chain
from .command_line import Cli, Outcome


def pytest_configure(config: pytest.Config) -> None:
    """Torch's own rules for forward-mode derivatives, and its compiler, still go through torch.jit."""
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script(_method)?. is deprecated")


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Artifacts of all stages, see :mod:`tests.chain`; shared by all tests, so nothing may write into it."""
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain_copy(tiny_chain: Chain, tmp_path: Path) -> Chain:
    """A copy of :func:`tiny_chain` below ``tmp_path / "copy"`` that the test may change."""
    shutil.copytree(tiny_chain.root, tmp_path / "copy")
    return Chain(tmp_path / "copy")


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in this process, in an empty working folder."""
    for name in ("RANK", "LOCAL_RANK", "DILADIFF_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    return call
