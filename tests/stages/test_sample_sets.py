"""Which texts were decoded from one latent, by what their lines say."""

from typing import Any

from diladiff_cli.stages.sample_sets import decodings_by_latent


def sample(text: str, **others: Any) -> dict[str, Any]:
    return {"text": text, "token_ids": [ord(c) for c in text]} | others


def test_equal_numbers_of_different_seeds_are_different_latents() -> None:
    rows = [sample("ab", id=i, latent=0, seed=seed) for i in range(3) for seed in (0, 1)]
    assert decodings_by_latent(rows[:2]) is None
    found = decodings_by_latent(rows[:5])
    assert found is not None
    assert found.shape == (2, 2, 2)


def test_texts_of_several_calls_that_have_one_number_are_not_of_one_latent() -> None:
    calls = [sample(text, id=i, latent=i, seed=1) for text in ("ab", "cd") for i in (0, 1)]
    assert decodings_by_latent(calls) is None
    unnumbered = [{name: value for name, value in row.items() if name != "id"} for row in calls]
    assert decodings_by_latent(unnumbered) is not None  # another program's
