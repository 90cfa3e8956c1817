import importlib.util

import pytest
import torch

from diladiff_cli.metrics.mauve import mauve_score


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(120, 16, generator=torch.Generator().manual_seed(0))


def test_mauve_is_high_for_equal_and_low_for_disjoint_sets(
    features: torch.Tensor, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mauve")
    same, apart = mauve_score(features, features), mauve_score(features, features + 10)
    assert same["value"] > 0.95
    assert apart["value"] < 0.05
    assert (same["n"], same["buckets"], len(same["values"])) == (120, 12, 3)
    assert capfd.readouterr() == ("", "")


def test_equally_many_of_both_sets_count(features: torch.Tensor) -> None:
    pytest.importorskip("mauve")
    few = features[:12] + 0.5
    found = mauve_score(features, few)
    assert found == mauve_score(features[:12], few)
    assert found == mauve_score(few, features) | {"value": found["value"], "values": found["values"]}
    assert (found["n"], found["buckets"]) == (12, 2)


def test_a_missing_package_or_scorer_is_a_reason(features: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mauve_score(None, features)["value"] is None
    assert "two texts" in mauve_score(features[:1], features)["reason"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert "mauve-text" in mauve_score(features, features)["reason"]
