"""One table of what `diladiff eval` found for several ways of sampling: python examples/summary.py figures.jsonl [seconds.tsv]

seconds.tsv has a line `model<TAB>decode steps<TAB>seconds` for each of them. `--markdown` prints a table for a document.
"""

import json
import sys
from pathlib import Path
from typing import Any

FIGURES = {"genppl": ".1f", "entropy": ".3f", "mauve": ".3f", "latent_agreement": ".3f", "repetition_4": ".3f"}
HEADER = ["model", "latent steps", "decode steps", "n", *FIGURES, "seconds"]


def cell(value: Any, form: str = "") -> str:
    """A value as text; a dash for what was not measured."""
    return "-" if value is None else format(value, form)


def rows(reports: list[dict[str, Any]], seconds: dict[tuple[str, str], str]) -> list[list[str]]:
    """A row for each report and one for the reference text of the first."""
    found = []
    for report in reports:
        settings, side = report["settings"], report["samples"]
        key = (str(settings.get("model")), str(settings.get("decode_steps")))
        figures = [cell(side.get(name), form) for name, form in FIGURES.items()]
        name = Path(key[0]).name
        found.append([name, cell(settings.get("steps")), key[1], str(side["n"]), *figures, seconds.get(key, "-")])
    reference = reports[0].get("reference")
    if reference:
        figures = [cell(reference.get(name), form) for name, form in FIGURES.items()]
        found.append(["reference text", "-", "-", str(reference["n"]), *figures, "-"])
    return found


def main(arguments: list[str]) -> None:
    """Read the files named and print the table."""
    markdown = "--markdown" in arguments
    files = [Path(a) for a in arguments if not a.startswith("--")]
    reports = [json.loads(line) for line in files[0].read_text().splitlines()]
    lines = [line.split("\t") for line in files[1].read_text().splitlines()] if len(files) > 1 else []
    table = rows(reports, {(model, steps): f"{float(time):.1f}" for model, steps, time in lines})
    if markdown:
        for row in [HEADER, ["---"] * len(HEADER), *table]:
            print("| " + " | ".join(row) + " |")
        return
    from rich.console import Console
    from rich.table import Table

    shown = Table(*HEADER)
    for row in table:
        shown.add_row(*row)
    Console(width=max(120, Console().width)).print(shown)


if __name__ == "__main__":
    main(sys.argv[1:])
