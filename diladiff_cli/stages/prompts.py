"""Texts that begin with a prompt: its tokens, and what is masked behind them. Not in the paper, whose texts have none.

A masked diffusion model needs no more: tokens that are there from the start stay, and every step sees them. Latents are
drawn without the prompt.
"""

import torch
from torch import Tensor

from diladiff_cli.data.tokenizer import encode_documents
from diladiff_cli.errors import UserError
from diladiff_cli.settings import shown
from diladiff_cli.stages.sampler import Sampler


def prompt_tokens(sampler: Sampler, prompt: str) -> list[int]:
    """Token ids of a prompt; none of an empty one.

    Raises:
        UserError: The tokenizer cannot encode it, for want of a token.
    """
    return encode_documents(sampler.tokenizer, [prompt])[0][:-1] if prompt else []


def prompt_problems(sampler: Sampler, prompt: str) -> list[str]:
    """What makes a prompt too short, too long or foreign to a model, in the words of the option."""
    unknown = [f"--prompt is {shown(prompt)}, and {sampler.name} has no token for part of it; give other words"]
    try:
        tokens, length = prompt_tokens(sampler, prompt), sampler.decoder.length
    except UserError:
        return unknown
    if prompt and not tokens:
        return [f"--prompt is {shown(prompt)}, which has no tokens; give some words, or leave it out"]
    if {sampler.tokenizer.unk_token_id, sampler.decoder.mask_id} & set(tokens):  # which texts do not show
        return unknown
    if len(tokens) >= length:
        return [f"--prompt has {len(tokens)} tokens, and the texts of {sampler.name} have {length}; give a shorter one"]
    return []


def masked_behind(sampler: Sampler, prompt: str, count: int) -> Tensor:
    """Tokens (B, L) of ``count`` texts before the first decoding step: the prompt, and masks behind it."""
    tokens = prompt_tokens(sampler, prompt)
    x = torch.full((count, sampler.decoder.length), sampler.decoder.mask_id)
    x[:, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
    return x
