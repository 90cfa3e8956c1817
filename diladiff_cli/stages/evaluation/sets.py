"""Sets of texts to measure: samples from files, and real text of the same form."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diladiff_cli.config import ENDS
from diladiff_cli.data.lines import check_unpacked, chunks, unpacked
from diladiff_cli.data.text import Piece, iter_pieces
from diladiff_cli.data.tokenizer import decode_text, encode_documents
from diladiff_cli.errors import UserError, meant_instead, reason
from diladiff_cli.notes import say
from diladiff_cli.shipped import SHIPPED_TEXT

Sample = dict[str, Any]
MAX_TOKENS = 1 << 31
ENOUGH = 1 << 20  # tokens or characters of a reference text to choose from
MANY = 1 << 16  # pieces to choose from, unless more are wanted
REFERENCE = SHIPPED_TEXT / "valid.jsonl.zst"
# What distinguishes one way of sampling from another; the rest of a line differs from sample to sample.
SETTINGS = (
    *("model", "prompt", "suffix", "steps", "decode_steps", "temperature", "top_p", "gamma", "self_cond", "guidance"),
    *("solver", "latent_until", "corrector", "latent_scale", "order", "threshold", "entropy_bound", "precision"),
)


def read_samples(source: str) -> list[Sample]:
    """The JSON lines of ``sample``, from a file or from standard input (``-``); one that is there twice counts once.

    Raises:
        UserError: No such file, no lines, or a line that is not a sample; names the line.
    """
    name = "standard input" if source == "-" else source
    try:
        lines = _read(source).splitlines()
    except OSError as error:
        remedy = meant_instead(Path(source), "give a file that `diladiff sample` wrote, or an artifact")
        raise UserError(f"cannot read {name} ({reason(error)})", remedy) from error
    except MemoryError:
        raise
    except Exception as error:  # of archives that are damaged, each library has its own
        raise UserError(f"cannot read {name} ({reason(error)})", "give JSON lines, one object each") from error
    samples = [_parse(line, f"{name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise UserError(f"{name} holds no samples", "write some with: diladiff sample --n 64")
    different = _different(samples)
    if len(different) < len(samples):
        say(f"{name}: {len(samples) - len(different)} of {len(samples)} samples are there before, and count once")
    return different


def _read(source: str) -> bytes:
    """What a file or standard input holds, unpacked where the name says that it is packed.

    Raises:
        ValueError: It is packed under another name, or is one array.
    """
    packed = source.endswith((".gz", ".zst"))
    with nullcontext(sys.stdin.buffer) if source == "-" else Path(source).open("rb") as file:
        content = b"".join(unpacked(file, source) if packed else chunks(file))
    check_unpacked(content)
    if content.lstrip()[:1] == b"[":
        raise ValueError("it is one array")
    return content


def _different(samples: list[Sample]) -> list[Sample]:
    """The samples without repeated ones, of the same number, seed, way of sampling and text."""
    distinct: dict[str, Sample] = {}
    for place, sample in enumerate(samples):
        names = [sample.get(name) for name in (*SETTINGS, "seed", "id", "text")]
        distinct.setdefault(json.dumps(names if {"seed", "id"} <= sample.keys() else place), sample)
    return list(distinct.values())


def _parse(line: bytes, place: str) -> Sample:
    remedy = 'every line must be a JSON object like {"text": "..."}, as sample writes them without --format text'
    try:
        sample = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place} is not JSON", remedy) from error
    if not isinstance(sample, dict) or not isinstance(sample.get("text"), str):
        raise UserError(f"{place} has no text", remedy)
    ids = sample.get("token_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int and 0 <= i < MAX_TOKENS for i in ids)):
        raise UserError(f"{place} has token_ids that are not a list of integers from 0", remedy)
    for name in ENDS:
        text = sample.get(name)
        if not (isinstance(text, str) and text and type(sample.get(f"{name}_tokens")) is int):
            sample.pop(name, None)  # that of another program is not a way of sampling
    # JSON may hold halves of surrogate pairs, which no text may.
    return sample | {"text": sample["text"].encode(errors="replace").decode()}


def group_samples(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples that were drawn in the same way together, in order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(json.dumps([sample.get(key) for key in SETTINGS]), []).append(sample)
    return list(groups.values())


def decodings_by_latent(samples: Iterable[Sample]) -> Tensor | None:
    """(N, D, L) token ids of the latents that several texts were decoded from; None where there are none.

    A latent is known by its ``seed`` and its number ``latent``. All are cut to the fewest texts that one of them has.
    Tokens of a prompt and a suffix, which were not drawn, are left out. Texts of different lengths do not compare:
    None.
    """
    latents: dict[str, list[list[int]]] = {}
    for sample in samples:
        if sample.get("latent") is not None and sample.get("token_ids"):
            key = json.dumps([sample.get("seed"), sample["latent"]])
            first, last = (_count(sample.get(f"{name}_tokens")) for name in ENDS)
            ids = sample["token_ids"]
            if drawn := ids[first : max(0, len(ids) - last)]:
                latents.setdefault(key, []).append(drawn)
    several = [texts for texts in latents.values() if len(texts) > 1]
    if len({len(ids) for texts in several for ids in texts}) != 1:
        return None
    fewest = min(map(len, several))
    return torch.tensor([texts[:fewest] for texts in several], device="cpu")


def are_of_several_calls(samples: Iterable[Sample]) -> bool:
    """Whether texts of one latent have one number (``id``): each call numbers the latents that it was given from 0."""
    keys = [[sample.get(name) for name in ("latent", "id", "seed")] for sample in samples]
    names = [json.dumps(each) for each in keys if None not in each[:2]]
    return len(set(names)) < len(names)


def _count(value: Any) -> int:
    """What a sample's line has for a number of tokens, 0 where that is none."""
    return value if type(value) is int and value > 0 else 0


def reference_samples(
    tokenizer: Any, length: int, n: int, sources: Sequence[str] = (), text_field: str = "text"
) -> list[Sample]:
    """Pieces of real text of the samples' length, spread evenly over the text in the order of :func:`evenly_spaced`.

    A large corpus is not read to its end: pieces come from its first :data:`ENOUGH` tokens or characters, or from eight
    times as many pieces as are wanted, at most :data:`MANY`, where those need more.

    Args:
        tokenizer: The generator's; None to cut by characters.
        length: Of a piece, in tokens of ``tokenizer`` or, without one, in characters.
        n: Pieces wanted; there are fewer where the text is short.
        sources: Text sources (default: the held-out text that ships with the package).
        text_field: The field of their JSON and parquet rows.

    Raises:
        UserError: A source cannot be read, or is shorter than one piece.
    """
    if not sources and not REFERENCE.is_file():
        raise UserError("the reference text of the package is missing", "give --reference a text file")
    documents = iter_pieces(list(sources), text_field) if sources else iter_pieces([str(REFERENCE)])
    wanted = max(n, min(8 * n, MANY), ENOUGH // length)
    pieces = _character_pieces(documents, length) if tokenizer is None else _token_pieces(documents, tokenizer, length)
    candidates = [piece for piece, _ in zip(pieces, range(wanted), strict=False)]
    if not candidates:
        raise UserError(f"the reference text is shorter than one sample of {length}", "give --reference a longer text")
    return [candidates[i] for i in evenly_spaced(len(candidates), n)]


def evenly_spaced(total: int, n: int) -> list[int]:
    """At most ``n`` numbers below ``total``, evenly spaced; so are the first ``n / 2`` of them.

    Where there are fewer than ``n``, all of them, the first ``n / 2`` evenly spaced as before.
    """
    if total >= n:
        rows = [i * total // n for i in range(n)]
        return rows[::2] + rows[1::2]
    half = min((n + 1) // 2, total)
    first = [i * total // half for i in range(half)]
    return first + sorted(set(range(total)) - set(first))


def _character_pieces(documents: Iterable[Piece], length: int) -> Iterator[Sample]:
    buffer = ""
    for text, last in documents:
        buffer += text + "\n\n" if last else text
        while len(buffer) >= length:
            yield {"text": buffer[:length]}
            buffer = buffer[length:]


def _token_pieces(documents: Iterable[Piece], tokenizer: Any, length: int) -> Iterator[Sample]:
    """Packed as the training data are: documents end in a separator and pieces may cross it."""
    buffer: list[int] = []
    for text, last in documents:
        (ids,) = encode_documents(tokenizer, [text])
        buffer += ids if last else ids[:-1]
        whole = len(buffer) // length * length
        for start in range(0, whole, length):
            piece = buffer[start : start + length]
            yield {"text": decode_text(tokenizer, piece), "token_ids": piece}
        del buffer[:whole]


def blocks_as_samples(tokenizer: Any, blocks: Tensor) -> list[Sample]:
    """Token blocks (n, L), such as a data set's held-out ones, in the form of samples."""
    return [{"text": decode_text(tokenizer, ids), "token_ids": ids} for ids in blocks.to(torch.int64).tolist()]
