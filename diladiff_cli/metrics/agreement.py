"""Whether the latent steers the text: compare two decodings of one latent."""

from itertools import combinations
from typing import Any

from torch import Tensor

DEFINITION = (
    "share of equal tokens at equal positions in two texts decoded from one latent with different token randomness, "
    "averaged over pairs of texts and over latents; 1 if the latent fixes the text; tokens of a prompt and a suffix "
    "are left out"
)
CHANCE_DEFINITION = (
    "the same share between texts decoded from neighbouring latents: what frequent tokens alone give, and all that "
    "is left if the decoder ignores its latent"
)


def latent_agreement(first: Tensor, second: Tensor) -> float:
    """Share of equal tokens at equal positions in two decodings of the same latents with different seeds.

    Args:
        first: (B, L) token ids; row i is decoded from latent i.
        second: (B, L) token ids, decoded from the same latents with other random numbers.

    Raises:
        ValueError: The shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"decodings of shapes {tuple(first.shape)} and {tuple(second.shape)} do not pair up")
    return float((first == second).double().mean())


def chance_agreement(first: Tensor, second: Tensor) -> float:
    """The same share between decodings of different latents: what frequent tokens alone give.

    Args:
        first: (B, L) token ids with B >= 2.
        second: (B, L) token ids; each row is compared to the next latent's.
    """
    return latent_agreement(first, second.roll(1, dims=0))


def agreement_figures(decodings: Tensor) -> dict[str, Any]:
    """Both shares, averaged over all pairs of a latent's texts.

    Args:
        decodings: (N, D, L) token ids of D >= 2 texts of length L from each of N latents.

    Returns:
        ``latent_agreement``, ``chance_agreement`` (None for a single latent), ``latents`` N and ``decodings`` D.

    Raises:
        ValueError: D < 2.
    """
    latents, texts = decodings.shape[:2]
    pairs = list(combinations(range(texts), 2))
    if not pairs:
        raise ValueError("agreement needs two decodings of each latent")
    same = [latent_agreement(decodings[:, i], decodings[:, j]) for i, j in pairs]
    other = [chance_agreement(decodings[:, i], decodings[:, j]) for i, j in pairs]
    return {
        "latent_agreement": sum(same) / len(pairs),
        "chance_agreement": sum(other) / len(pairs) if latents > 1 else None,
        "latents": latents,
        "decodings": texts,
    }
