"""Writes the tables of the docs, the page of samples and the frontier's picture from the figures in docs/evidence.

    python docs/build.py            # after new files of examples/evidence.sh were put into docs/evidence
    python docs/build.py --check    # only says whether the pages are what the figures give

A page marks where a table belongs: everything between `<!-- table: NAME -->` and `<!-- end -->` is replaced.
"""

import argparse
import re
import sys
from pathlib import Path

from layout import DRAWN, NAMES, Report, stored, timed
from tables import TABLES

from diladiff_cli.stages.bench.lines import Way
from diladiff_cli.stages.bench.picture import frontier_picture

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = (
    DOCS / "results.md",
    DOCS / "tables.md",
    DOCS / "ablations.md",
    DOCS / "samples.md",
    DOCS / "benchmarks.md",
    ROOT / "README.md",
    ROOT / "diladiff_cli/assets/model/README.md",
)
DRAWN_FROM = ("frontier.jsonl", "latent_scale.jsonl", "spread.jsonl", "corrected.jsonl")
# Stage, order, share that is the base's, share that corrects: the lines of the README's picture.
HEADLINES = {
    ("mdlm", "random", 0.0, 0.0),
    ("student", "random", 0.0, 0.0),
    ("mdlm", "spread", 0.0, 0.0),
    ("student", "spread", 0.5, 0.0),
    ("mdlm", "spread", 0.0, 0.5),
    ("student", "spread", 0.5, 0.5),
}
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rebuilt(page: str) -> str:
    """A page with its tables made anew."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def by_stage_name(reports: list[Report]) -> list[Report]:
    """Points with what a model is in place of its folder, of which there were several."""
    return [r | {"model": NAMES[r["stage"]]} for r in reports]


def is_shown(report: Report) -> bool:
    """Whether the pictures have a point: those with latents only where these are made smaller, and of several seeds."""
    way = Way.of(report)
    return report["temperature"] == DRAWN and (report["stage"] == "mdlm" or way.scale != 1) and len(report["seeds"]) > 1


def is_headline(report: Report) -> bool:
    """Whether the README's picture has a point that is shown."""
    way = Way.of(report)
    return (report["stage"], way.order, way.until, way.corrector) in HEADLINES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page is out of date")
    check = parser.parse_args().check
    stale = []
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if rebuilt(page) != page:
            stale.append(path.name)
            if not check:
                path.write_text(rebuilt(page), encoding="utf-8")
    if not check:
        points = by_stage_name(timed(r for name in DRAWN_FROM for r in stored(name)))
        shown = [r for r in points if is_shown(r)]
        frontier_picture(shown, DOCS, "frontier_all", ["svg"], among=points)
        headlines = [r for r in shown if is_headline(r)]
        frontier_picture(headlines, DOCS, formats=["png"], among=points, panels=("mauve_pooled", "multiple"))
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
