import pytest

from diladiff_cli.metrics.scorers import Scorer

from ..scorer import build_scorer


@pytest.fixture
def tiny_scorer() -> Scorer:
    """See :func:`tests.scorer.build_scorer`."""
    return build_scorer()
