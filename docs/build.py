"""Writes the tables of the docs, the page of samples and the frontier's picture from the figures in docs/evidence.

    python docs/build.py            # after new files of examples/evidence.sh were put into docs/evidence
    python docs/build.py --check    # only says whether the pages are what the figures give

A page marks where a table belongs: everything between `<!-- table: NAME -->` and `<!-- end -->` is replaced.
"""

import argparse
import re
import sys
from pathlib import Path

from layout import NAMES, Report, base_at, means_of, stored
from tables import TABLES

from diladiff_cli.stages.bench_lines import Way, compared
from diladiff_cli.stages.bench_picture import frontier_picture

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PAGES = (
    DOCS / "results.md",
    DOCS / "ablations.md",
    DOCS / "samples.md",
    DOCS / "benchmarks.md",
    ROOT / "README.md",
    ROOT / "diladiff_cli/assets/model/README.md",
)
DRAWN = 0.85  # the temperature in the picture, in which several would hide one another
MARK = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rebuilt(page: str) -> str:
    """A page with its tables made anew."""
    return MARK.sub(lambda found: found[1] + TABLES[found[2]]() + found[3], page)


def by_stage_name(reports: list[Report]) -> list[Report]:
    """Points with what a model is in place of its folder, of which there were several."""
    return [r | {"model": NAMES[r["stage"]]} for r in reports]


def beside_random_order(frontier: list[Report]) -> list[Report]:
    """The points in spread order, compared with the base in random order."""
    found = []
    for r in by_stage_name(stored("spread.jsonl")):
        genppl = base_at(frontier, r["decode_steps"], means_of(r)["entropy"])
        found.append(r | {"at_equal_entropy": {NAMES["mdlm"]: {"genppl": genppl}}})
    return found


def is_shown(report: Report) -> bool:
    """Whether the picture has a point: those with latents only where these are made smaller."""
    return report["temperature"] == DRAWN and (report["stage"] == "mdlm" or Way.of(report).scale != 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a page is out of date")
    check = parser.parse_args().check
    stale, frontier = [], stored("frontier.jsonl")
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if rebuilt(page) != page:
            stale.append(path.name)
            if not check:
                path.write_text(rebuilt(page), encoding="utf-8")
    if not check:
        points = [*compared(by_stage_name([*frontier, *stored("latent_scale.jsonl")])), *beside_random_order(frontier)]
        frontier_picture([r for r in points if is_shown(r)], DOCS)
    print(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
