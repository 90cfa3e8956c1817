"""Measures generated text, with the same figures for a reference text beside them."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from diladiff_cli.config import ENDS
from diladiff_cli.metrics import agreement, diversity, genppl
from diladiff_cli.metrics import mauve as mauve_metric
from diladiff_cli.metrics.scorers import Scorer
from diladiff_cli.settings import shown
from diladiff_cli.stages.evaluation.scoring import Scored, Scoring
from diladiff_cli.stages.evaluation.sets import (
    SETTINGS,
    Sample,
    are_of_several_calls,
    decodings_by_latent,
)

if TYPE_CHECKING:
    from rich.table import Table

Sides = dict[str, dict[str, Any]]  # figures of "samples" and of "reference"

FEW = 1000  # texts; MAUVE says little of fewer
TOO_SHORT = "all samples are empty or too short"
TOO_FEW = "needs twice as many reference texts as samples"
NEEDS_DECODINGS = "needs samples drawn with --decodings 2"
SEVERAL_CALLS = "several texts of a latent have one id, as texts of several calls have"
NO_LATENTS = "a base has no latents"
NOT_OURS = "needs samples of diladiff, drawn with --decodings 2"
AGREEMENT = {"latent_agreement": agreement.DEFINITION, "chance_agreement": agreement.CHANCE_DEFINITION}
DIVERSITY = {
    "entropy": "Shannon entropy in nats of the token ids within one sample, averaged over samples",
    "distinct_1": "different tokens / tokens, over all samples",
    "distinct_2": "different 2-grams / 2-grams, over all samples",
    "distinct_3": "different 3-grams / 3-grams, over all samples",
    "repetition_4": "share of a sample's 4-grams that occurred earlier in it, averaged over samples",
}


def evaluate_samples(
    samples: list[Sample],
    reference: Scored | None,
    scoring: Scoring,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """GenPPL, MAUVE, entropy, distinct-n, repetition and latent agreement of samples, the same of the reference.

    MAUVE needs references to compare with: the samples meet the first part of the reference, as many texts as there are
    samples. Where the reference has twice as many, its own figure is that of its second part against the first, about
    the most that samples can reach at this number. Latent agreement has no counterpart in real text.

    Args:
        samples: All drawn in one way, with ``text`` and preferably ``token_ids``.
        reference: Of the same form and length, scored in the same way, or None.
        scoring: How to score the samples; without a scorer GenPPL and MAUVE are left out.
        progress: Called with numbers of samples as they have been scored.

    Returns:
        ``settings``, ``samples`` and ``reference`` (the figures), ``definitions`` (of each figure),
        ``left_out`` (figure to reason) and ``scorer``; plain JSON values.
    """
    scorer, n = scoring.scorer, len(samples)
    definitions: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    scored = {"samples": scoring.of(samples, progress)}
    sides: Sides = {"samples": {"n": n}}
    if reference is None or not reference.texts:
        left_out["reference"] = "no reference text was given"
    else:
        scored["reference"] = reference
        sides["reference"] = {"n": min(n, len(reference.texts)), "source": reference.source}

    if scorer is None:
        left_out |= dict.fromkeys(("genppl", "mauve"), scoring.note or "no scorer")
    else:
        definitions["genppl"] = _add_genppl(sides, scored, scorer, scoring.context)
        limit = int(definitions["genppl"]["context"])
        if sides["samples"]["genppl"] is None:
            del definitions["genppl"]
            left_out["genppl"] = TOO_SHORT
        if "reference" not in scored:
            left_out["mauve"] = "needs a reference text"
        else:
            definitions["mauve"] = _add_mauve(sides, left_out, scored, scorer, limit)
    definitions |= _add_diversity(sides, left_out, _token_ids(scored))
    definitions |= _add_agreement(sides, left_out, samples)
    return {
        "settings": {key: samples[0][key] for key in SETTINGS if key in samples[0]},
        **sides,
        "definitions": definitions,
        "left_out": left_out,
        "scorer": scoring.title,
    }


def _add_genppl(sides: Sides, scored: Mapping[str, Scored], scorer: Scorer, context: int | None) -> dict[str, Any]:
    """Enter GenPPL on both sides; returns its definition."""
    n = sides["samples"]["n"]
    counted: dict[str, dict[str, float]] = {}
    for side, of_side in scored.items():
        if of_side.scores is not None:
            figures = genppl.perplexity(of_side.scores.nlls[:n])
            sides[side] |= {"genppl": figures["value"], "genppl_stderr": figures["stderr"]}
            sides[side] |= {"scored_tokens": figures["tokens"], "skipped": figures["skipped"]}
            counted[side] = {"n": figures["n"], "mean_length": figures["tokens"] / max(1, figures["n"])}
    return genppl.definition(scorer, context) | {"scored": counted}


def _add_mauve(
    sides: Sides, left_out: dict[str, str], scored: Mapping[str, Scored], scorer: Scorer, context: int
) -> dict[str, Any]:
    """Enter MAUVE on both sides; returns its definition."""
    n = sides["samples"]["n"]
    real = scored["reference"].features
    target = None if real is None else real[:n]
    rest = None if real is None else real[n : 2 * n]
    result = mauve_metric.mauve_score(scored["samples"].features, target)
    if result["value"] is None:
        left_out["mauve"] = result["reason"]
    else:
        sides["samples"] |= {"mauve": result["value"], "mauve_by_seed": result["values"]}
        if rest is not None and len(rest) == n:
            sides["reference"]["mauve"] = mauve_metric.mauve_score(rest, target)["value"]
        else:
            left_out["reference mauve"] = TOO_FEW
    settings: dict[str, Any] = {key: result[key] for key in ("n", "buckets", "scale", "seeds") if key in result}
    shared = {"scorer": scorer.name, "context": context, "tokenisation": f"text re-tokenised by {scorer.name}"}
    value = f"{mauve_metric.DEFINITION}; mauve is of the first seed of its clustering, mauve_by_seed of each"
    return {"definition": value, **shared, **settings}


def _token_ids(scored: Mapping[str, Scored]) -> tuple[str, dict[str, list[list[int]]]]:
    """Token ids of both sides under one tokenizer: the generator's where the samples have them, else the scorer's."""
    complete = {
        side: [s["token_ids"] for s in of_side.texts] for side, of_side in scored.items() if _has_ids(of_side.texts)
    }
    real = scored.get("reference")
    if "samples" in complete and (real is None or "reference" in complete or real.scores is None):
        return "the generator's token_ids", complete
    by_scorer = {side: of_side.scores.ids for side, of_side in scored.items() if of_side.scores is not None}
    return "text re-tokenised by the scorer", by_scorer


def _has_ids(rows: list[Sample]) -> bool:
    return all(row.get("token_ids") is not None for row in rows)


def _add_diversity(
    sides: Sides, left_out: dict[str, str], tokens: tuple[str, dict[str, list[list[int]]]]
) -> dict[str, Any]:
    """Enter the figures of token ids on the sides that have some; returns their definitions."""
    tokenisation, ids = tokens
    if "reference" in sides and "reference" not in ids:
        left_out["reference entropy"] = "the reference has no token_ids, and there is no scorer to tokenise it"
    if "samples" not in ids:
        return _leave_out(left_out, DIVERSITY, "the samples have no token_ids, and there is no scorer to tokenise them")
    for side, rows in ids.items():
        sides[side] |= _diversity(rows[: sides["samples"]["n"]])
    counted = {side: {"n": sides[side]["n"], "mean_length": sides[side]["mean_length"]} for side in ids}
    shared = {"tokenisation": tokenisation, "counted": counted}
    left_out |= {name: TOO_SHORT for name in DIVERSITY if sides["samples"][name] is None}
    return {name: {"definition": text, **shared} for name, text in DIVERSITY.items() if name not in left_out}


def _leave_out(left_out: dict[str, str], names: Iterable[str], reason: str) -> dict[str, Any]:
    left_out |= dict.fromkeys(names, reason)
    return {}


def _diversity(rows: list[list[int]]) -> dict[str, Any]:
    return {
        "tokens": sum(map(len, rows)),
        "mean_length": sum(map(len, rows)) / len(rows),
        "entropy": diversity.token_entropy(rows),
        **{f"distinct_{k}": diversity.distinct_n(rows, k) for k in (1, 2, 3)},
        "repetition_4": diversity.repetition(rows, 4),
    }


def _add_agreement(sides: Sides, left_out: dict[str, str], samples: list[Sample]) -> dict[str, Any]:
    """Enter the agreement of texts decoded from one latent; returns its definition and that of chance."""
    if are_of_several_calls(samples):
        return _leave_out(left_out, ["latent_agreement"], SEVERAL_CALLS)
    decodings = decodings_by_latent(samples)
    if decodings is None:
        stages = [sample.get("stage") for sample in samples]
        reasons = {"mdlm": NO_LATENTS, None: NOT_OURS}
        reason = next((why for stage, why in reasons.items() if all(s == stage for s in stages)), NEEDS_DECODINGS)
        return _leave_out(left_out, ["latent_agreement"], reason)
    figures = agreement.agreement_figures(decodings)
    if figures["chance_agreement"] is None:
        left_out["chance_agreement"] = "needs samples of several latents"
    sides["samples"] |= {name: figures[name] for name in AGREEMENT if figures[name] is not None}
    shared = {"tokenisation": "the generator's token_ids", "latents": figures["latents"]}
    shared |= {"decodings": figures["decodings"], "length": decodings.shape[2]}
    return {name: {"definition": text, **shared} for name, text in AGREEMENT.items() if name in sides["samples"]}


def report_table(report: dict[str, Any]) -> "Table":
    """The figures of one report side by side, for the terminal."""
    from rich.table import Table
    from rich.text import Text

    settings = ", ".join(f"{key} {value}" for key, value in brief_settings(report).items() if value is not None)
    source = report.get("reference", {}).get("source")
    lines = [f"reference: {'standard input' if source == '-' else source}"] if source else []
    if given := [name for name in ENDS if report["settings"].get(name) is not None]:
        what = f"the {' and the '.join(given)} {'counts' if len(given) == 1 else 'count'}"
        lines.append(f"{what} in all figures but latent agreement")
    lines.append(f"scorer: {report['scorer']['note'] or report['scorer']['name']}")
    target, compared = report.get("target"), report["definitions"].get("mauve", {}).get("n", report["samples"]["n"])
    few = compared < FEW
    if "mauve" in report["samples"] and few:
        lines.append(f"mauve of {compared} texts says little; it takes {FEW:,} or more")
    for reason in dict.fromkeys(report["left_out"].values()):
        names = ", ".join(name for name, other in report["left_out"].items() if other == reason)
        is_above = reason == report["scorer"]["note"]  # in the line above
        lines.append(f"{names} left out" if is_above else f"{names} left out: {reason}")
    # As text: a name like diladiff[scorer] is not markup.
    named = ["standard input" if target == "-" else target] if target else []
    title = Text(": ".join([*named, settings or "samples"]))
    table = Table(title=title, caption=Text("\n".join(lines)), caption_justify="left", min_width=72)
    table.add_column("figure")
    sides = [side for side in ("samples", "reference") if side in report]
    for side in sides:
        table.add_column(side, justify="right")
    for name in ("genppl", "mauve", *DIVERSITY, *AGREEMENT, "mean_length", "n"):
        values = [report[side].get(name) for side in sides]
        if any(value is not None for value in values):
            table.add_row("mauve (few texts)" if name == "mauve" and few else name, *map(cell, values))
    return table


def brief_settings(report: dict[str, Any]) -> dict[str, Any]:
    """The settings of a report's samples as tables show them: what texts begin and end with is cut."""
    return {k: shown(v) if k in ENDS and v is not None else v for k, v in report["settings"].items()}


def cell(value: Any) -> str:
    """A value in a table, a dash for None."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
