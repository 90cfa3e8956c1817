"""Stored figures as rows of tables in Markdown."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from diladiff_cli.metrics.frontier import interpolated

EVIDENCE = Path(__file__).with_name("evidence")
NAMES = {"mdlm": "base", "ae": "auto-encoder (oracle)", "prior": "prior", "student": "student"}
FIGURES = ("genppl", "entropy", "mauve", "latent_agreement")
DIGITS = {"entropy": 4, "mauve": 2, "latent_agreement": 2}  # significant, where not 3
HEADS = ("GenPPL", "entropy", "MAUVE", "latent agreement")
BESIDE = "GenPPL of the base at this entropy"
COST = "time for a latent over that for a text"

DRAWN = 0.85  # the temperature of the pictures, and of tables of one temperature

Report = dict[str, Any]


def stored(name: str) -> Any:
    """What a JSON file of the evidence holds; of JSON lines a list."""
    text = (EVIDENCE / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line] if name.endswith("l") else json.loads(text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def number(value: float | None, digits: int = 3) -> str:
    """To so many significant digits, with thousands apart; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.{digits}g}"


def percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"


def with_spread(figure: Report | None, digits: int = 3) -> str:
    """Mean and deviation, over seeds or clusterings."""
    if figure is None:
        return "-"
    return number(figure["mean"], digits) + (f" ± {number(figure['std'], 2)}" if figure["std"] is not None else "")


def with_error(row: Report, name: str) -> str:
    """A mean and its standard error."""
    return f"{row[name]:.2f} ± {row[f'{name}_stderr']:.2f}"


def settings_of(report: Report) -> list[str]:
    return [NAMES[report["stage"]], number(report["steps"]), str(report["decode_steps"]), f"{report['temperature']:g}"]


def way_of(report: Report) -> str:
    """What the decoder makes of latents, where it does not take them as they are drawn, and how much is corrected."""
    scale, until, corrector = (report.get(name) for name in ("latent_scale", "latent_until", "corrector"))
    parts = [f"latents times {scale:g}"] if scale is not None else []
    parts += [f"base takes over at {until:g}"] if until else []
    return ", ".join([*parts, *([f"corrector {corrector:g}"] if corrector else [])])


def name_of(report: Report) -> str:
    """The model, and what its decoder makes of latents."""
    return ", ".join(part for part in (NAMES[report["stage"]], way_of(report)) if part)


def figures_by_name(report: Report) -> dict[str, Report]:
    """The figures of a point; its MAUVE is that of all seeds' texts together, where there are several."""
    figures: dict[str, Report] = report["figures"]
    return figures | ({"mauve": figures["mauve_pooled"]} if "mauve_pooled" in figures else {})


def figures_of(report: Report, beside: Iterable[Report] = ()) -> list[str]:
    """The figures as cells; no MAUVE where that of the other reports is of the texts of several seeds."""
    figures = figures_by_name(report)
    if "mauve_pooled" not in figures and any("mauve_pooled" in other["figures"] for other in beside):
        figures = {name: figure for name, figure in figures.items() if name != "mauve"}
    return [with_spread(figures.get(name), DIGITS.get(name, 3)) for name in FIGURES]


def means_of(report: Report) -> dict[str, float | None]:
    return {name: figure["mean"] for name, figure in figures_by_name(report).items()}


def timed(reports: Iterable[Report]) -> list[Report]:
    """Points with the tokens per second of throughput.jsonl, which has all ways to draw at one temperature."""
    found = {_way_key(r): r for r in stored("throughput.jsonl")}
    kept = ("tokens_per_second", "seconds", "latent_share", "machine")
    return [r | {name: found[_way_key(r)][name] for name in kept if _way_key(r) in found} for r in reports]


def _way_key(report: Report) -> tuple[Any, ...]:
    """What the time for a point depends on: not on temperature or the scale of latents."""
    names = ("stage", "steps", "decode_steps", "order", "latent_until", "corrector", "guidance")
    return tuple(report.get(name) for name in names)


def of_seed(report: Report, seed: int) -> Report:
    """A point's report as if it had been measured with one of its seeds alone."""
    place = report["seeds"].index(seed)
    by_seed = {n: f["by_seed"][place] for n, f in report["figures"].items() if f.get("by_seed")}
    return report | {"figures": {name: {"mean": value} for name, value in by_seed.items()}}


def base_at(reports: Iterable[Report], decode_steps: int, entropy: float | None, name: str = "genppl") -> float | None:
    """A figure of the base at an entropy, between its temperatures."""
    bases = [r for r in reports if r["stage"] == "mdlm" and not r.get("corrector")]
    if name == "mauve":  # figures of different numbers of texts do not compare
        bases = [r for r in bases if "mauve_pooled" in r["figures"]] or bases
    same = [means_of(r) for r in bases if r["decode_steps"] == decode_steps]
    return None if entropy is None else interpolated(same, name, entropy)


def of_stage(reports: Iterable[Report], stage: str) -> list[Report]:
    """The points of a stage at the temperature :data:`DRAWN`, by decoding steps."""
    return in_order(r for r in reports if r["stage"] == stage and r["temperature"] == DRAWN)


def in_order(reports: Iterable[Report]) -> list[Report]:
    """By stage, temperature and decoding steps."""
    return sorted(reports, key=lambda r: (list(NAMES).index(r["stage"]), -r["temperature"], r["decode_steps"]))


def reference_row(report: Report, blank: Sequence[str]) -> list[str]:
    """The held-out text's figures, below those of the models; its MAUVE only where theirs is of as many texts."""
    names = ("genppl", "entropy") if "mauve_pooled" in report["figures"] else FIGURES[:3]
    shown = [number(report["reference"].get(name), DIGITS.get(name, 3)) for name in names]
    return ["held-out text", *blank, *shown, *["-"] * (len(FIGURES) - len(shown))]
