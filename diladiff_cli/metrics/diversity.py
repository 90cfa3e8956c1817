"""How varied the tokens are: a low GenPPL is worth little without these."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

Ids = Sequence[int]


def _ngrams(ids: Ids, n: int) -> Iterator[tuple[int, ...]]:
    return zip(*(ids[i:] for i in range(n)), strict=False)


def token_entropy(samples: Sequence[Ids]) -> float | None:
    """Mean over samples of the entropy, in nats, of the tokens within one sample.

    H = -sum_v p_v log p_v with p_v = (times that token v occurs) / (length of the sample), as in Duo. At most the log
    of the length: samples of different lengths do not compare. Empty samples are skipped; None if all are empty.
    """
    entropies = []
    for ids in samples:
        if len(ids):
            shares = [count / len(ids) for count in Counter(ids).values()]
            entropies.append(-sum(p * math.log(p) for p in shares))
    return sum(entropies) / len(entropies) if entropies else None


def distinct_n(samples: Sequence[Ids], n: int) -> float | None:
    """Number of different n-grams over the number of n-grams, counted over all samples together.

    N-grams do not cross samples. Falls as the total number of tokens grows: compare at equal numbers.
    None if no sample has n tokens.
    """
    counts = Counter(gram for ids in samples for gram in _ngrams(ids, n))
    return len(counts) / counts.total() if counts else None


def repetition(samples: Sequence[Ids], n: int = 4) -> float | None:
    """Mean over samples of the share of a sample's n-grams that already occurred earlier in it.

    1 - (different n-grams) / (n-grams) per sample; those shorter than n are skipped, None if all are.
    """
    shares = []
    for ids in samples:
        counts = Counter(_ngrams(ids, n))
        if counts:
            shares.append(1.0 - len(counts) / counts.total())
    return sum(shares) / len(shares) if shares else None
