"""How one text was decoded, step by step (method sections 4 to 6), as data and as a page for the browser."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from diladiff_cli.config import SampleConfig
from diladiff_cli.data.tokenizer import decode_text, find_separator
from diladiff_cli.runtime.memory import Halving
from diladiff_cli.shipped import TRACE_PAGE
from diladiff_cli.stages.sampling.prompts import masked_between
from diladiff_cli.stages.sampling.sample import Sample, decode, describe, ids_of, latent_batches, latents_of_texts
from diladiff_cli.stages.sampling.sampler import Sampler
from diladiff_cli.stages.sampling.settings import base_steps, complete, corrector_steps

PLACE = "__TRACE__"  # where the template wants the data


@dataclass(frozen=True)
class Estimate:
    """What the clean estimate z^ of a latent step decodes to.

    Attributes:
        step: Number of the latent step, from 1.
        token_ids: (L) Tokens, drawn with the reveal times and uniform numbers of the sample itself.
        pieces: (L) The texts of the tokens.
    """

    step: int
    token_ids: list[int]
    pieces: list[str]


@dataclass(frozen=True)
class Correction:
    """What a corrector step made of the text.

    Attributes:
        step: Number of the decoding step, from 1.
        pieces: (L) The texts of the tokens after it.
        changed: (L) Whether each token is another than before.
    """

    step: int
    pieces: list[str]
    changed: list[bool]


@dataclass(frozen=True)
class Trace:
    """The decoding of a sample. A token that is revealed stays, but for corrections, so when it was says all.

    Attributes:
        sample: The sample with its settings, as ``sample`` writes it.
        pieces: (L) The texts of its tokens before corrections, which join to a text; empty where a token has none, or
            only part of a character that a later one completes.
        revealed: (L) The decoding step, from 1, that revealed each token; 0 of those that are given.
        estimates: Of every latent step; none without latents drawn.
        base_steps: How many decoding steps, the last ones, are the base's in place of a decoder that looks at a latent.
        corrections: Of every corrector step.
    """

    sample: Sample
    pieces: list[str]
    revealed: list[int]
    estimates: list[Estimate]
    base_steps: int = 0
    corrections: list[Correction] = field(default_factory=list)


def record(sampler: Sampler, config: SampleConfig) -> Trace:
    """Draw sample 0 of :func:`diladiff_cli.stages.sampling.sample.generate` once more, and note what happens.

    Raises:
        ConfigError, UserError: As of :func:`diladiff_cli.stages.sampling.settings.complete`.
    """
    config = complete(sampler, config)
    latents, ids = _drawn_together(config)
    z_steps: list[Tensor] = []

    def note_latent(_: int, z: Tensor) -> None:
        z_steps.append(z[:1].clone())

    z_0 = latents_of_texts(sampler, latents, config, note_latent)
    z_0 = None if z_0 is None else z_0[: len(ids)]
    masked = masked_between(sampler, config.prompt, config.suffix, 1)[0] == sampler.decoder.mask_id
    revealed, complete_at = torch.zeros(sampler.decoder.length, dtype=torch.int64, device="cpu"), config.decode_steps
    complete_at -= corrector_steps(config)
    texts: dict[int, list[int]] = {}  # by step, since a GPU may have to take some once more

    def note_tokens(step: int, x: Tensor) -> None:
        revealed[masked & (revealed == 0) & (x[0] != sampler.decoder.mask_id).cpu()] = step + 1
        if step + 1 >= complete_at:
            texts[step + 1] = x[0].tolist()

    tokens = decode(sampler, ids, config, z_0, note_tokens)[:1]
    sample = describe(sampler, ids[:1], config, tokens)[0]
    pieces = {step: token_pieces(sampler.tokenizer, text) for step, text in texts.items()}
    return Trace(
        sample,
        pieces[complete_at],
        revealed.tolist(),
        _estimates(sampler, ids[0], config, z_steps, z_0, tokens) if z_0 is not None and z_steps else [],
        base_steps(config),
        [
            Correction(step, pieces[step], [a != b for a, b in zip(texts[step - 1], texts[step], strict=True)])
            for step in range(complete_at + 1, config.decode_steps + 1)
        ],
    )


def _estimates(
    sampler: Sampler, number: int, config: SampleConfig, latents: list[Tensor], z_0: Tensor, tokens: Tensor
) -> list[Estimate]:
    """The text of each latent step's estimate; the final latent gives the ``tokens`` (1, L) of the sample itself."""
    is_final = torch.equal(latents[-1], z_0[:1])
    others = latents[:-1] if is_final else latents

    def decoded(part: range) -> Tensor:
        return decode(sampler, [number] * len(part), config, torch.cat(others[part.start : part.stop]))

    parts = Halving("latent steps")(decoded, range(len(others)))
    rows = torch.cat([*parts, *[tokens] * is_final]).tolist()
    return [Estimate(step, row, token_pieces(sampler.tokenizer, row)) for step, row in enumerate(rows, 1)]


def _drawn_together(config: SampleConfig) -> tuple[range, range]:
    """Latents and samples of a batch that gives sample 0 as it comes in a run of ``config``.

    Alone in fp32. The much coarser bf16 may round by what else is in the batch, so there it is the whole one.
    """
    if config.precision == "fp32":
        return range(1), range(1)
    latents = latent_batches(config)[0]
    return latents, ids_of(latents, config)[: config.batch_size]


def token_pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token, as it adds to :func:`diladiff_cli.data.tokenizer.decode_text`; they join to just that.

    A character goes to the token that completes it: those that hold only its first bytes have no text.
    """
    end = find_separator(tokenizer)
    pieces: list[str] = []
    start = 0
    for stop in [*(i for i, token in enumerate(ids) if token == end), len(ids)]:
        pieces += _pieces_of_run(tokenizer, ids[start:stop])
        pieces += ["\n\n"] if stop < len(ids) else []
        start = stop + 1
    return pieces


def _pieces_of_run(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The texts of tokens without a separator: what each prefix has in common with the whole."""
    whole = decode_text(tokenizer, ids)
    bounds = [0]
    for stop in range(1, len(ids) + 1):
        bounds.append(max(bounds[-1], _shared(decode_text(tokenizer, ids[:stop]), whole)))
    return [whole[a:b] for a, b in pairwise(bounds)]


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common before they part."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def page(trace: Trace) -> str:
    """A page that shows the trace: one file, which needs no network and asks for none."""
    data = json.dumps(asdict(trace)).replace("<", "\\u003c")  # no text may end the element that holds it
    return TRACE_PAGE.read_text(encoding="utf-8").replace(PLACE, data)
