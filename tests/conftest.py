import shutil
from pathlib import Path

import pytest

from .chain import Chain, build_chain


def pytest_configure(config: pytest.Config) -> None:
    """Torch's own rules for forward-mode derivatives still go through torch.jit.script."""
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning")


@pytest.fixture(scope="session")
def tiny_chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Artifacts of all stages, see :mod:`tests.chain`; shared by all tests, so nothing may write into it."""
    return build_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture
def chain_copy(tiny_chain: Chain, tmp_path: Path) -> Chain:
    """A copy of :func:`tiny_chain` below ``tmp_path / "copy"`` that the test may change."""
    shutil.copytree(tiny_chain.root, tmp_path / "copy")
    return Chain(tmp_path / "copy")
