import io

import pytest

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.stages.sample_measure import SampleMeasure


def test_standard_input_is_the_reference_of_one_way_of_sampling(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"some words of real text, " * 40)

    monkeypatch.setattr("sys.stdin", Stdin)
    samples = [{"text": "a text that was drawn", "temperature": t} for t in (1.0, 1.0, 0.5)]
    reports = SampleMeasure(EvalConfig(scorer="none"), files=("-",)).reports(samples)
    assert next(reports)["reference"]["source"] == "-"
    with pytest.raises(UserError) as error:
        next(reports)
    assert "was read already" in error.value.what
