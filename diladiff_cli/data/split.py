"""Which documents are held out for validation."""

import heapq
import math
from collections.abc import Iterable, Iterator

from diladiff_cli.config import EncodeConfig
from diladiff_cli.core.splitmix import mix
from diladiff_cli.data.text import Piece
from diladiff_cli.errors import UserError

SHORTEST = 8  # tokens of a block, below which no length is named
ALONE = "give several documents, or a text for validation with --valid"


def is_held_out(config: EncodeConfig, number: int) -> bool:
    """Whether document ``number`` belongs to the validation split; known from the seed and the number alone."""
    return mix(config.seed, number) < config.valid_share * (1 << 63)


def share_between(low: float, high: float) -> float:
    """A tenth where it lies between, else a share nearer to the lower one, with no more digits than it needs."""
    share = 0.1 if low < 0.1 <= high else low + (high - low) / 4
    return next((short for digits in range(2, 17) if low < (short := round(share, digits)) <= high), share)


def remedy_for_few(config: EncodeConfig, documents: int, tokens: int, held_out: int) -> str:
    """What to do where the documents held out are less than one block.

    Args:
        config: Length, share and seed.
        documents: Number of all of them.
        tokens: In all of them.
        held_out: Number of those held out.

    Returns:
        Words that name a share which holds out more documents, with four blocks if they are of average length. Where
        that takes over half of them, it is of a shorter length as well, of which four blocks are at most a fifth.
    """
    if documents == 1:
        return ALONE
    length = config.length
    if 4 * length > tokens / 2:
        length = 1 << int(math.log2(max(1.0, tokens / 5 / 4)))
    wanted = max(held_out + 1, math.ceil(4 * length * documents / tokens))
    if length < SHORTEST or wanted > documents / 2:
        return "give more text, a smaller --length, or --valid"
    low, high = heapq.nsmallest(wanted + 1, (mix(config.seed, n) / (1 << 63) for n in range(documents)))[-2:]
    share = f"--valid-share {share_between(low, high)}"
    shorter = f"a smaller --length, {share}" if length == config.length else f"--length {length} with {share}"
    return f"give more text, {shorter}, or --valid"


def splittable(pieces: Iterable[Piece], config: EncodeConfig) -> Iterator[Piece]:
    """The pieces, to be read before a tokenizer is trained on them.

    Raises:
        UserError: After the last, where none of their documents or all would be held out for validation.
    """
    number, low, high = 0, 1.0, 0.0
    for piece in pieces:
        yield piece
        if piece.last:
            share = mix(config.seed, number) / (1 << 63)  # above which the document is held out
            number, low, high = number + 1, min(low, share), max(high, share)
    if not low < config.valid_share <= high:
        held_out, wanted = (number, "smaller") if high < config.valid_share else (0, "larger")
        fitting = f"a {wanted} --valid-share than {config.valid_share}, such as {share_between(low, high)}"
        raise UserError(
            f"of {number} documents {held_out} would be held out for validation (in text files blank lines separate "
            "documents)",
            f"give {fitting}, or --valid" if number > 1 else ALONE,
        )
