"""Texts whose beginning or end is given: its tokens, and what is masked beside them. Not in the paper.

A masked diffusion model needs no more: tokens that are there from the start stay, and every step sees them. Latents are
drawn without them.
"""

import torch
from torch import Tensor

from diladiff_cli.config import ENDS
from diladiff_cli.data.tokenizer import encode_documents
from diladiff_cli.errors import UserError
from diladiff_cli.settings import flag, shown
from diladiff_cli.stages.sampling.sampler import Sampler


def given_tokens(sampler: Sampler, text: str) -> list[int]:
    """Token ids of a prompt or suffix; none of an empty one.

    Raises:
        UserError: The tokenizer cannot encode it, for want of a token.
    """
    return encode_documents(sampler.tokenizer, [text])[0][:-1] if text else []


def given_problems(sampler: Sampler, prompt: str, suffix: str = "") -> list[str]:
    """What makes a prompt and a suffix too short, too long or foreign to a model, in the words of the options."""
    given = {name: text for name, text in zip(ENDS, (prompt, suffix), strict=True) if text}
    problems = [line for name, text in given.items() if (line := _problem(sampler, name, text))]
    if problems:
        return problems
    total, length = sum(len(given_tokens(sampler, text)) for text in given.values()), sampler.decoder.length
    if total < length:
        return []
    names, several = " and ".join(map(flag, given)), len(given) > 1
    counted = f"{names} {'have' if several else 'has'} {total} tokens{' together' if several else ''}"
    return [f"{counted}, and the texts of {sampler.name} have {length}; give {'less' if several else 'a shorter one'}"]


def _problem(sampler: Sampler, name: str, text: str) -> str | None:
    """Of one of them alone, but for its length."""
    start = f"{flag(name)} is {shown(text)}"
    unknown = f"{start}, and {sampler.name} has no token for part of it; give other words"
    try:
        tokens = given_tokens(sampler, text)
    except UserError:
        return unknown
    if not tokens:
        return f"{start}, which has no tokens; give some words, or leave it out"
    # Tokens that texts do not show.
    return unknown if {sampler.tokenizer.unk_token_id, sampler.decoder.mask_id} & set(tokens) else None


def masked_between(sampler: Sampler, prompt: str, suffix: str, count: int) -> Tensor:
    """Tokens (B, L) of ``count`` texts before the first decoding step: the prompt, masks, and the suffix at the end."""
    first, last = (given_tokens(sampler, text) for text in (prompt, suffix))
    masks = [sampler.decoder.mask_id] * (sampler.decoder.length - len(first) - len(last))
    return torch.tensor([[*first, *masks, *last]], device="cpu").repeat(count, 1)


def joins_a_word(sampler: Sampler, suffix: str) -> bool:
    """Whether a suffix goes on with the word before it, for want of a space."""
    return suffix[:1].isalnum() and given_tokens(sampler, suffix) != given_tokens(sampler, f" {suffix}")
