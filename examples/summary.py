"""One table of what `diladiff eval` found for several ways of sampling.

    python examples/summary.py figures.jsonl [seconds.tsv]

    --at-entropy  compare models at the entropy of the reference text, each interpolated along its temperatures
    --markdown    print a table for a document

seconds.tsv has a line `model<TAB>decode steps<TAB>seconds` for each way of sampling.
"""

import json
import math
import sys
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

FIGURES = {"genppl": ".1f", "entropy": ".3f", "mauve": ".3f", "latent_agreement": ".3f", "repetition_4": ".3f"}
LOGARITHMIC = {"genppl"}
Report = dict[str, Any]


def cell(value: Any, form: str = "") -> str:
    """A value as text; a dash for what was not measured."""
    return "-" if value is None else format(value, form)


def key(report: Report) -> tuple[str, str, int]:
    """Model, latent steps and decoding steps."""
    settings = report["settings"]
    return Path(str(settings.get("model"))).name, cell(settings.get("steps")), int(settings.get("decode_steps") or 0)


def figures(side: dict[str, Any]) -> list[str]:
    """The figures of one side of a report."""
    return [cell(side.get(name), form) for name, form in FIGURES.items()]


def as_found(reports: list[Report], seconds: dict[tuple[str, str], str]) -> list[list[str]]:
    """A header, a row for each report, and one for the reference text."""
    table = [["model", "latent steps", "decode steps", "temperature", "n", *FIGURES, "seconds"]]
    for report in sorted(reports, key=lambda r: (key(r), -r["settings"].get("temperature", 1.0))):
        settings, (name, steps, decode_steps) = report["settings"], key(report)
        time = seconds.get((str(settings.get("model")), str(decode_steps)), "-")
        temperature, n = cell(settings.get("temperature")), str(report["samples"]["n"])
        table.append([name, steps, str(decode_steps), temperature, n, *figures(report["samples"]), time])
    reference = reports[0].get("reference")
    if reference:
        table.append(["reference text", "-", "-", "-", str(reference["n"]), *figures(reference), "-"])
    return table


def interpolated(points: list[dict[str, Any]], name: str, entropy: float) -> float | None:
    """A figure at an entropy, linear between neighbouring temperatures (in the logarithm for GenPPL); None outside."""
    line = sorted((p["entropy"], p[name]) for p in points if p.get(name) is not None)
    for (low, first), (high, second) in pairwise(line):
        if low <= entropy <= high and high > low:
            share = (entropy - low) / (high - low)
            if name in LOGARITHMIC:
                return math.exp((1 - share) * math.log(first) + share * math.log(second))
            return float((1 - share) * first + share * second)
    return None


def at_entropy(reports: list[Report]) -> list[list[str]]:
    """A header and a row for each model and number of steps, at the entropy of the reference text."""
    lines: dict[tuple[str, str, int], list[dict[str, Any]]] = defaultdict(list)
    for report in reports:
        lines[key(report)].append(report["samples"])
    entropy = reports[0]["reference"]["entropy"]
    names = [name for name in FIGURES if name != "entropy"]
    table = [["model", "latent steps", "decode steps", *(f"{n} at entropy {entropy:.3f}" for n in names)]]
    for (name, steps, decode_steps), points in sorted(lines.items()):
        found = [cell(interpolated(points, n, entropy), FIGURES[n]) for n in names]
        table.append([name, steps, str(decode_steps), *found])
    return table


def main(arguments: list[str]) -> None:
    """Read the files named and print the table."""
    files = [Path(a) for a in arguments if not a.startswith("--")]
    reports = [json.loads(line) for line in files[0].read_text().splitlines()]
    lines = [line.split("\t") for line in files[1].read_text().splitlines()] if len(files) > 1 else []
    seconds = {(model, steps): time for model, steps, time in lines}
    table = at_entropy(reports) if "--at-entropy" in arguments else as_found(reports, seconds)
    if "--markdown" in arguments:
        for row in [table[0], ["---"] * len(table[0]), *table[1:]]:
            print("| " + " | ".join(row) + " |")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*table[0])
    for row in table[1:]:
        shown.add_row(*row)
    Console(width=max(120, Console().width)).print(shown)


if __name__ == "__main__":
    main(sys.argv[1:])
