import math

import pytest
import torch

from diladiff_cli.metrics import scorers
from diladiff_cli.metrics.genppl import definition, perplexity
from diladiff_cli.metrics.scorers import Scorer

TEXTS = ["a b c d e f a b", "f e", "c", "", "b b b d"]


def by_hand(scorer: Scorer, text: str) -> list[float]:
    """NLL of each token given the ones before, from one unpadded call per prefix."""
    ids = scorer.tokenizer(text)["input_ids"]
    nlls = []
    for i in range(1, len(ids)):
        with torch.no_grad():
            logits = scorer.model(input_ids=torch.tensor([ids[:i]])).logits[0, -1]
        nlls.append(-float(torch.log_softmax(logits, -1)[ids[i]]))
    return nlls


def test_genppl_is_the_exponential_of_nll_per_scored_token(tiny_scorer: Scorer) -> None:
    nlls = [nll for text in TEXTS for nll in by_hand(tiny_scorer, text)]
    report = perplexity(tiny_scorer.score(TEXTS).nlls) | definition(tiny_scorer)
    assert report["value"] == pytest.approx(math.exp(sum(nlls) / len(nlls)), rel=1e-5)
    assert (report["n"], report["skipped"], report["tokens"]) == (3, 2, len(nlls))
    assert (report["scorer"], report["context"]) == ("tiny", 32)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_padding_changes_neither_likelihoods_nor_features(tiny_scorer: Scorer, batch_size: int) -> None:
    scores = tiny_scorer.score(TEXTS, batch_size=batch_size)
    for i, text in enumerate(TEXTS):
        alone = tiny_scorer.score([text])
        torch.testing.assert_close(scores.nlls[i], alone.nlls[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(scores.features[i], alone.features[0], rtol=1e-4, atol=1e-5)
        assert scores.ids[i] == alone.ids[0]


def test_a_call_never_has_more_logits_than_fit(tiny_scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = tiny_scorer.score(TEXTS)
    shapes: list[tuple[int, ...]] = []
    hook = tiny_scorer.model.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.logits.shape)))
    monkeypatch.setattr(scorers, "MAX_LOGITS", 64)
    found = tiny_scorer.score(TEXTS)
    hook.remove()
    assert max(math.prod(shape) for shape in shapes) == 64
    assert sum(shape[0] for shape in shapes) == len(TEXTS)
    torch.testing.assert_close(found.features, wanted.features)
    for i in range(len(TEXTS)):
        torch.testing.assert_close(found.nlls[i], wanted.nlls[i])


def test_texts_are_cut_at_the_context(tiny_scorer: Scorer) -> None:
    long, short = (tiny_scorer.score([text], 4).nlls[0] for text in ("a b c d e f", "a b c d"))
    torch.testing.assert_close(long, short)
    assert len(tiny_scorer.encode(["a " * 100])[0]) == tiny_scorer.context


def test_features_are_the_normalised_last_hidden_state(tiny_scorer: Scorer) -> None:
    ids = torch.tensor(tiny_scorer.encode(["a b c"]))
    with torch.no_grad():
        states = tiny_scorer.model(input_ids=ids, output_hidden_states=True).hidden_states
    torch.testing.assert_close(tiny_scorer.score(["a b c"]).features[0], states[-1][0, -1])


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary() -> None:
    report = perplexity([torch.full((5,), math.log(8)), torch.full((2,), math.log(8)), torch.empty(0)])
    assert report["value"] == pytest.approx(8)
    assert report["stderr"] == pytest.approx(0, abs=1e-6)


def test_the_standard_error_matches_the_spread_of_repeated_draws() -> None:
    draws = torch.randn(2000, 20, 5, generator=torch.Generator().manual_seed(0)) * 0.3 + 2
    reports = [perplexity(list(draw)) for draw in draws]
    spread = torch.tensor([r["value"] for r in reports]).std()
    mean = torch.tensor([r["stderr"] for r in reports]).mean()
    assert float(mean / spread) == pytest.approx(1, abs=0.1)


def test_nothing_to_score_has_no_perplexity() -> None:
    assert perplexity([torch.empty(0)])["value"] is None
    assert perplexity([])["value"] is None
