"""Measures generated text, with the same figures for a reference text beside them."""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diladiff_cli.errors import UserError
from diladiff_cli.metrics import diversity, genppl
from diladiff_cli.metrics import mauve as mauve_metric
from diladiff_cli.metrics.scorers import Scorer, Scores

if TYPE_CHECKING:
    from rich.table import Table

Sample = dict[str, Any]
REFERENCE = Path(__file__).parent.parent / "assets" / "text" / "valid.jsonl.zst"
# What tells one way of sampling from another; the rest of a line differs from sample to sample.
SETTINGS = ("model", "steps", "decode_steps", "temperature", "top_p", "gamma", "order")
MAUVE_SEEDS = (25, 26, 27)
DIVERSITY = {
    "entropy": "Shannon entropy in nats of the token ids within one sample, averaged over samples",
    "distinct_1": "different tokens / tokens, over all samples",
    "distinct_2": "different 2-grams / 2-grams, over all samples",
    "distinct_3": "different 3-grams / 3-grams, over all samples",
    "repetition_4": "share of a sample's 4-grams that occurred earlier in it, averaged over samples",
}


def read_samples(source: str) -> list[Sample]:
    """The JSON lines of ``sample``, from a file or from standard input (``-``).

    Raises:
        UserError: No such file, no lines, or a line that is no sample; names the line.
    """
    name = "standard input" if source == "-" else source
    try:
        lines = sys.stdin.buffer.readlines() if source == "-" else Path(source).read_bytes().splitlines()
    except OSError as error:
        raise UserError(f"cannot read {name} ({error.strerror})", "give a file that `diladiff sample` wrote") from error
    samples = [_parse(line, f"{name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not samples:
        raise UserError(f"{name} holds no samples", "write some with: diladiff sample --n 64")
    return samples


def _parse(line: bytes, place: str) -> Sample:
    remedy = 'every line must be a JSON object like {"text": "...", "token_ids": [...]}'
    try:
        sample = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is not JSON", remedy) from error
    if not isinstance(sample, dict) or not isinstance(sample.get("text"), str):
        raise UserError(f"{place} has no text", remedy)
    ids = sample.get("token_ids")
    if ids is not None and not (isinstance(ids, list) and all(type(i) is int for i in ids)):
        raise UserError(f"{place} has token_ids that are no list of integers", remedy)
    return sample


def reference_samples(tokenizer: Any, length: int, n: int, sources: Sequence[str] = ()) -> list[Sample]:
    """Pieces of real text of the samples' length, spread evenly over the text.

    Args:
        tokenizer: The generator's; None to cut by characters.
        length: Of a piece, in tokens of ``tokenizer`` or, without one, in characters.
        n: Pieces wanted; there are fewer where the text is short.
        sources: Text sources (default: the held-out text that ships with the package).

    Raises:
        UserError: A source cannot be read, or is shorter than one piece.
    """
    from diladiff_cli.data.text import iter_documents

    if not sources and not REFERENCE.is_file():
        raise UserError("the reference text of the package is missing", "give --reference a text file")
    documents = iter_documents(list(sources) or [str(REFERENCE)])
    # Enough to choose from; a large corpus is not read to its end.
    wanted = 8 * n
    pieces = _character_pieces(documents, length) if tokenizer is None else _token_pieces(documents, tokenizer, length)
    found = [piece for piece, _ in zip(pieces, range(wanted), strict=False)]
    if not found:
        raise UserError(f"the reference text is shorter than one sample of {length}", "give --reference a longer text")
    count = min(n, len(found))
    return [found[i * len(found) // count] for i in range(count)]


def _character_pieces(documents: Iterable[str], length: int) -> Iterator[Sample]:
    buffer = ""
    for document in documents:
        buffer += document + "\n\n"
        while len(buffer) >= length:
            yield {"text": buffer[:length]}
            buffer = buffer[length:]


def _token_pieces(documents: Iterable[str], tokenizer: Any, length: int) -> Iterator[Sample]:
    """Packed as the training data are: documents end in a separator and pieces may cross it."""
    from diladiff_cli.data.tokenizer import decode_text

    separators = [i for i in (tokenizer.sep_token_id, tokenizer.eos_token_id) if i is not None][:1]
    buffer: list[int] = []
    for document in documents:
        buffer += [*tokenizer(document, add_special_tokens=False)["input_ids"], *separators]
        while len(buffer) >= length:
            yield {"text": decode_text(tokenizer, buffer[:length]), "token_ids": buffer[:length]}
            del buffer[:length]


def group_samples(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples that were drawn in the same way together, in order of first appearance."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(json.dumps([sample.get(key) for key in SETTINGS]), []).append(sample)
    return list(groups.values())


def evaluate_groups(
    samples: list[Sample],
    reference: list[Sample] | None,
    scorer: Scorer | None,
    *,
    scorer_note: str = "",
    context: int | None = None,
    batch_size: int = 8,
) -> list[dict[str, Any]]:
    """One report, as of :func:`evaluate_samples`, for each way of sampling found among ``samples``."""
    scored = _score(reference, scorer, context, batch_size)
    return [
        _report(group, reference, scorer, _score(group, scorer, context, batch_size), scored, scorer_note, context)
        for group in group_samples(samples)
    ]


def evaluate_samples(
    samples: list[Sample],
    reference: list[Sample] | None,
    scorer: Scorer | None,
    *,
    scorer_note: str = "",
    context: int | None = None,
    batch_size: int = 8,
) -> dict[str, Any]:
    """GenPPL, MAUVE, entropy, distinct-n and repetition of samples and of the reference.

    MAUVE needs references to compare with: the samples meet the first part of the reference, as many texts as there
    are samples. Where the reference has twice as many, its own figure is that of its second part against the first,
    the best that samples could reach at this number.

    Args:
        samples: With ``text`` and preferably ``token_ids``, all drawn in one way.
        reference: Of the same form and length, or None.
        scorer: Or None; then GenPPL and MAUVE are left out.
        scorer_note: Why this scorer, or why none; goes into the report.
        context: The most scorer tokens of a text that count.
        batch_size: Texts per call of the scorer.

    Returns:
        ``settings``, ``samples`` and ``reference`` (the figures), ``definitions`` (of each figure), ``left_out``
        (figure to reason) and ``scorer``; plain JSON values.
    """
    scores = _score(samples, scorer, context, batch_size)
    scored = _score(reference, scorer, context, batch_size)
    return _report(samples, reference, scorer, scores, scored, scorer_note, context)


def _score(texts: list[Sample] | None, scorer: Scorer | None, context: int | None, batch_size: int) -> Scores | None:
    return scorer.score([s["text"] for s in texts], context, batch_size) if scorer and texts else None


def _report(
    samples: list[Sample],
    reference: list[Sample] | None,
    scorer: Scorer | None,
    scores: Scores | None,
    reference_scores: Scores | None,
    note: str,
    context: int | None,
) -> dict[str, Any]:
    definitions: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    n = len(samples)
    sides: dict[str, dict[str, Any]] = {"samples": {"n": n}}
    if reference:
        sides["reference"] = {"n": min(n, len(reference))}
    else:
        left_out["reference"] = "no reference text was given"

    for side, found in (("samples", scores), ("reference", reference_scores)):
        if found is not None:
            figures = genppl.perplexity(found.nlls[:n])
            sides[side] |= {"genppl": figures["value"], "genppl_stderr": figures["stderr"]}
            sides[side] |= {"scored_tokens": figures["tokens"], "skipped": figures["skipped"]}
    if scorer is None:
        left_out |= dict.fromkeys(("genppl", "mauve"), note or "no scorer")
    else:
        definitions["genppl"] = genppl.definition(scorer, context)
        if reference:
            definitions["mauve"] = _add_mauve(sides, left_out, scorer, scores, reference_scores, n)
        else:
            left_out["mauve"] = "needs a reference text"

    tokenisation, ids = _token_ids(samples, reference, scores, reference_scores)
    for side, rows in ids.items():
        sides[side] |= _diversity(rows[:n])
    if ids:
        definitions |= {name: {"definition": text, "tokenisation": tokenisation} for name, text in DIVERSITY.items()}
    else:
        left_out |= dict.fromkeys(DIVERSITY, "the samples have no token_ids, and there is no scorer to tokenise them")
    if reference and "reference" not in ids:
        left_out["reference entropy"] = "the reference has no token_ids, and there is no scorer to tokenise it"
    return {
        "settings": {key: samples[0][key] for key in SETTINGS if key in samples[0]},
        **sides,
        "definitions": definitions,
        "left_out": left_out,
        "scorer": {"name": scorer.name if scorer else None, "note": note},
    }


def _add_mauve(
    sides: dict[str, dict[str, Any]],
    left_out: dict[str, str],
    scorer: Scorer,
    scores: Scores | None,
    reference_scores: Scores | None,
    n: int,
) -> dict[str, Any]:
    """Enter MAUVE on both sides; returns its definition."""
    features = [s.features if s else None for s in (scores, reference_scores)]
    target = None if features[1] is None else features[1][:n]
    rest: Tensor | None = None if features[1] is None else features[1][n : 2 * n]
    result = mauve_metric.mauve_score(features[0], target, MAUVE_SEEDS)
    if result["value"] is None:
        left_out["mauve"] = result["reason"]
    else:
        sides["samples"] |= {"mauve": result["value"], "mauve_by_seed": result["values"]}
        if rest is not None and len(rest) == n:
            sides["reference"]["mauve"] = mauve_metric.mauve_score(rest, target, MAUVE_SEEDS)["value"]
        else:
            left_out["reference mauve"] = "needs twice as many reference texts as samples"
    settings: dict[str, Any] = {key: result[key] for key in ("n", "buckets", "scale", "seeds") if key in result}
    return {"definition": mauve_metric.DEFINITION, "scorer": scorer.name, **settings}


def _token_ids(
    samples: list[Sample], reference: list[Sample] | None, scores: Scores | None, reference_scores: Scores | None
) -> tuple[str, dict[str, list[list[int]]]]:
    """Token ids of both sides under one tokenizer: the generator's where the samples have them, else the scorer's."""
    sides = {"samples": samples, "reference": reference or []}
    complete = {side: [s["token_ids"] for s in rows] for side, rows in sides.items() if rows and _has_ids(rows)}
    if "samples" in complete and (not reference or "reference" in complete or reference_scores is None):
        return "the generator's token_ids", complete
    scored = {"samples": scores, "reference": reference_scores}
    found = {side: s.ids for side, s in scored.items() if s is not None}
    return "text re-tokenised by the scorer", found


def _has_ids(rows: list[Sample]) -> bool:
    return all(row.get("token_ids") is not None for row in rows)


def _diversity(rows: list[list[int]]) -> dict[str, Any]:
    return {
        "tokens": sum(map(len, rows)),
        "mean_length": sum(map(len, rows)) / len(rows),
        "entropy": diversity.token_entropy(rows),
        **{f"distinct_{k}": diversity.distinct_n(rows, k) for k in (1, 2, 3)},
        "repetition_4": diversity.repetition(rows, 4),
    }


def report_table(report: dict[str, Any]) -> "Table":
    """The figures of one report side by side, for the terminal."""
    from rich.table import Table

    settings = ", ".join(f"{key} {value}" for key, value in report["settings"].items() if value is not None)
    left_out = [f"{name} left out: {reason}" for name, reason in report["left_out"].items()]
    scorer = f"scorer: {report['scorer']['note'] or report['scorer']['name']}"
    table = Table(title=settings or "samples", caption="\n".join([scorer, *left_out]), min_width=72)
    table.add_column("figure")
    sides = [side for side in ("samples", "reference") if side in report]
    for side in sides:
        table.add_column(side, justify="right")
    for name in ("genppl", "mauve", *DIVERSITY, "mean_length", "n"):
        values = [report[side].get(name) for side in sides]
        if any(value is not None for value in values):
            table.add_row(name, *("-" if v is None else f"{v:.4g}" for v in values))
    return table


def blocks_as_samples(tokenizer: Any, blocks: Tensor) -> list[Sample]:
    """Token blocks (n, L), such as a data set's held-out ones, in the form of samples."""
    from diladiff_cli.data.tokenizer import decode_text

    return [{"text": decode_text(tokenizer, ids), "token_ids": ids} for ids in blocks.to(torch.int64).tolist()]
