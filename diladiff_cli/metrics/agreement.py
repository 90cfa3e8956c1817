"""Whether the latent steers the text: compare two decodings of one latent."""

from torch import Tensor


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
