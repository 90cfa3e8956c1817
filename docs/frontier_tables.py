"""The frontier's tables: base, prior, student and oracle at several numbers of steps and temperatures."""

from collections.abc import Iterable, Sequence
from typing import Any

from layout import (
    BESIDE,
    COST,
    DIGITS,
    HEADS,
    NAMES,
    Report,
    base_at,
    figures_by_name,
    figures_of,
    in_order,
    means_of,
    name_of,
    number,
    of_seed,
    of_stage,
    percent,
    reference_row,
    settings_of,
    stored,
    table,
    timed,
    way_of,
    with_spread,
)

from diladiff_cli.metrics.frontier import interpolated, mean_and_std

BETWEEN = 0.92  # a temperature of the base alone, where its curve bends


def frontier() -> str:
    """All points of it but those that only bridge a gap, the last column between the base's temperatures."""
    reports = timed(stored("frontier.jsonl"))
    rows = []
    for r in in_order(r for r in reports if r["temperature"] != BETWEEN):
        speed = f"{r['tokens_per_second']['mean']:,.0f}"
        rows.append([*settings_of(r), speed, *_beside_the_base(r, reports)])
    rows.append([*reference_row(reports[0], ["-"] * 4), "-"])
    return table(["model", "latent steps", "decode steps", "T", "tokens/s", *HEADS, BESIDE], rows)


def _beside_the_base(report: Report, others: Sequence[Report]) -> list[str]:
    """Figures, and the GenPPL of the base among other reports at the same entropy."""
    figures = figures_of(report, others)
    if report["stage"] == "mdlm":
        return [*figures, "-"]
    return [*figures, number(base_at(others, report["decode_steps"], means_of(report)["entropy"]))]


def ratios() -> str:
    """GenPPL of all models over that of the base at the same entropy and decoding steps."""
    reports = stored("frontier.jsonl")
    rows: dict[tuple[str, str], dict[int, str]] = {}
    found = [*reports, *stored("latent_scale.jsonl"), *stored("latent_until.jsonl"), *stored("oracle.jsonl")]
    for r in in_order(r for r in found if r["stage"] != "mdlm"):
        shown = ratio(r, reports) + ratio_spread(r, reports)
        rows.setdefault((name_of(r), f"{r['temperature']:g}"), {})[r["decode_steps"]] = shown
    steps = sorted({r["decode_steps"] for r in found})
    body = [[*line, *(made.get(n, "-") for n in steps)] for line, made in sorted(rows.items(), key=_by_model)]
    return table(["model", "T", *(f"{n} steps" for n in steps)], body)


def ratio(report: Report, bases: Iterable[Report], steps: int | None = None) -> str:
    """GenPPL over that of the base at the same entropy, in as many decoding steps or in ``steps``."""
    means = means_of(report)
    genppl, base = means.get("genppl"), base_at(bases, steps or report["decode_steps"], means["entropy"])
    return f"{genppl / base:.2f}" if genppl and base else "-"


def ratio_spread(report: Report, bases: Iterable[Report], steps: int | None = None) -> str:
    """The deviation over seeds of :func:`ratio`, each beside the base's texts of its own seed; nothing of one seed."""
    found = []
    for seed in report["seeds"]:
        own, bases_own = of_seed(report, seed), [of_seed(r, seed) for r in bases if seed in r["seeds"]]
        means = means_of(own)
        base = base_at(bases_own, steps or report["decode_steps"], means["entropy"])
        if means["genppl"] and base:
            found.append(means["genppl"] / base)
    deviation = mean_and_std(found)[1] if len(found) > 1 else None
    return "" if deviation is None else f" ± {deviation:.2f}"


def _by_model(row: tuple[tuple[str, str], Any]) -> tuple[str, float]:
    (name, temperature), _ = row
    return name, -float(temperature)


def _cost(report: Report) -> str:
    """The time for a latent over that for decoding one text from it."""
    share = report["latent_share"]
    return percent(report["decodings"] * share / (1 - share), 0)


def latent_steps() -> str:
    """Priors and students in few and many latent steps, with more or less noise."""
    bases, rows = stored("frontier.jsonl"), []
    for r in stored("latent_steps.jsonl"):
        gamma = f"{r['gamma']:g}" if r["stage"] == "student" else "-"
        name = NAMES[r["stage"]] + (", Euler" if r.get("solver") == "euler" else "")
        name += "" if r["latent_scale"] is None else f", times {r['latent_scale']:g}"
        rows.append([name, str(r["steps"]), gamma, *_beside_the_base(r, bases), _cost(r)])
    return table(["model", "latent steps", "gamma", *HEADS, BESIDE, COST], rows)


def self_cond() -> str:
    """Students whose latent steps look at estimates asked for, and at those of the step before."""
    rows = []
    for r in sorted(stored("self_cond.jsonl"), key=lambda r: (r["decode_steps"], r["steps"])):
        jump, steps = r["self_cond"] == "jump", r["steps"]
        evaluations = str(steps if jump else 2 * steps - 1)
        way = [str(r["decode_steps"]), str(steps), "jump" if jump else "network", evaluations]
        rows.append([*way, *figures_of(r), _cost(r)])
    heads = ["decode steps", "latent steps", "`--self-cond`", "evaluations"]
    return table([*heads, *HEADS, COST], rows)


def oracle() -> str:
    """The decoder with latents of held-out texts, beside the base at its entropy."""
    bases, reports = stored("frontier.jsonl"), stored("oracle.jsonl")
    rows = [[str(r["decode_steps"]), *_beside_the_base(r, bases)] for r in reports]
    return table(["decode steps", *HEADS, BESIDE], rows)


def latent_scale() -> str:
    """The student with its latents as they are drawn, smaller, and with the base taking over as well."""
    trusted, reports = [*stored("latent_scale.jsonl"), *stored("latent_until.jsonl")], stored("frontier.jsonl")
    rows = []
    for r in in_order(r for r in [*reports, *trusted] if r["stage"] == "student"):
        rows.append([way_of(r) or "latents as drawn", *settings_of(r)[2:], *_beside_the_base(r, reports)])
    return table(["decoder", "decode steps", "T", *HEADS, BESIDE], rows)


def latent_scales() -> str:
    """GenPPL of prior and student over that of the base at equal entropy, by the factor on latents; a single seed."""
    reports, found = stored("frontier.jsonl"), stored("scales.jsonl")
    steps = sorted({r["decode_steps"] for r in found})
    rows: dict[tuple[str, float], dict[int, str]] = {}
    for r in found:
        shown = f"{ratio(r, reports)} ({number(means_of(r).get('latent_agreement'), 2)})"
        scale = 1.0 if r["latent_scale"] is None else r["latent_scale"]
        rows.setdefault((NAMES[r["stage"]], scale), {})[r["decode_steps"]] = shown
    body = [
        [name, f"{c:g}", *(row.get(n, "-") for n in steps)] for (name, c), row in sorted(rows.items(), key=_by_factor)
    ]
    return table(["model", "factor on latents", *(f"{n} steps" for n in steps)], body)


def _by_factor(row: tuple[tuple[str, float], Any]) -> tuple[str, float]:
    (name, scale), _ = row
    return name, -scale


def ten_steps() -> str:
    """The prior with smaller latents, in five steps, and in ten with guidance."""
    reports = stored("frontier.jsonl")
    fives = [r for r in stored("latent_scale.jsonl") if r["stage"] == "prior" and r["temperature"] == 0.85]
    found = [*fives, *stored("ten_steps.jsonl")]
    rows: dict[tuple[int, float], dict[int, str]] = {}
    for r in found:
        shown = f"{ratio(r, reports)} ({number(means_of(r).get('mauve'), 2)})"
        rows.setdefault((r["steps"], r.get("guidance") or 0.0), {})[r["decode_steps"]] = shown
    steps = sorted({r["decode_steps"] for r in found})
    body = [[str(m), f"{w:g}", *(row.get(n, "-") for n in steps)] for (m, w), row in sorted(rows.items())]
    return table(["latent steps", "guidance w", *(f"{n} steps" for n in steps)], body)


def orders() -> str:
    """Base and student revealing the surest tokens first."""
    reports, bases = stored("orders.jsonl"), stored("frontier.jsonl")
    rows = []
    for r in in_order(reports):
        means = means_of(r)
        base = base_at(bases, r["decode_steps"], means["entropy"])
        rows.append([settings_of(r)[0], *settings_of(r)[2:], *figures_of(r), number(base)])
    return table(["model", "decode steps", "T", *HEADS, "GenPPL of the base in random order at this entropy"], rows)


def spread_order(name: str = "spread.jsonl") -> str:
    """Base, prior and student revealing distant positions together, beside the base in random order and in this."""
    spread, bases = stored("spread.jsonl"), stored("frontier.jsonl")
    rows = []
    reports = in_order(stored(name))
    for r in reports:
        means = means_of(r)
        beside = [number(base_at(others, r["decode_steps"], means["entropy"])) for others in (bases, spread)]
        is_base = r["stage"] == "mdlm" and not r.get("corrector")
        shown = [*figures_of(r, reports), beside[0], "-" if is_base else beside[1]]
        needed = steps_needed(bases, means["genppl"], means["entropy"])
        rows.append([name_of(r), *settings_of(r)[2:], *shown, needed])
    orders = [f"GenPPL of the base in {name} order at this entropy" for name in ("random", "this")]
    return table(["model", "decode steps", "T", *HEADS, *orders, "random steps of the base"], rows)


def spread_base() -> str:
    """The base in spread order beside itself in random order."""
    bases, rows = stored("frontier.jsonl"), []
    for r in in_order(r for r in stored("spread.jsonl") if r["stage"] == "mdlm"):
        means, row = means_of(r), settings_of(r)[2:]
        for name in ("genppl", "mauve"):
            random, digits = base_at(bases, r["decode_steps"], means["entropy"], name), DIGITS.get(name, 3)
            row.append(f"{with_spread(figures_by_name(r)[name], digits)} ({number(random, digits)})")
        rows.append([*row, steps_needed(bases, means["genppl"], means["entropy"])])
    return table(["decoding steps", "T", "GenPPL", "MAUVE", "steps in random order"], rows)


def equal_entropy() -> str:
    """The student at temperature 0.85, prior and student with smaller latents too, beside the base at equal entropy."""
    reports, smaller = stored("frontier.jsonl"), stored("latent_scale.jsonl")
    shown = (of_stage(reports, "student"), of_stage(smaller, "prior"), of_stage(smaller, "student"))
    models = {name_of(found[0]): found for found in shown}
    rows = []
    for points in zip(*models.values(), strict=True):
        row = [str(points[0]["decode_steps"])]
        for name in ("genppl", "mauve"):
            for r in points:
                base, digits = base_at(reports, r["decode_steps"], means_of(r)["entropy"], name), DIGITS.get(name, 3)
                row.append(f"{with_spread(figures_by_name(r)[name], digits)} ({number(base, digits)})")
        rows.append(row)
    return table(["decoding steps", *(f"{name}, {model}" for name in ("GenPPL", "MAUVE") for model in models)], rows)


def steps_needed(reports: Sequence[Report], genppl: float, entropy: float) -> str:
    """Decoding steps in which the base reaches a GenPPL at an entropy, between the measured ones in the logarithm."""
    line: list[Report] = []
    measured = sorted({r["decode_steps"] for r in reports if r["stage"] == "mdlm"})
    for steps in measured:
        found = base_at(reports, steps, entropy)
        if found is not None:
            line.append({"entropy": -found, "genppl": float(steps)})  # GenPPL falls as the steps grow
    if not line:
        return "-"
    if genppl >= -line[0]["entropy"]:
        return f"{line[0]['genppl']:.0f} or fewer"
    if genppl < -line[-1]["entropy"]:  # where more steps do not reach the entropy, nothing is known
        return f"more than {measured[-1]}" if line[-1]["genppl"] == measured[-1] else "-"
    needed = interpolated(line, "genppl", -genppl)
    return "-" if needed is None else f"{needed:.1f}"


def speedup() -> str:
    """For each of the student's points, in how many steps the base is as good."""
    reports, rows = stored("frontier.jsonl"), []
    found = [*reports, *stored("latent_scale.jsonl"), *stored("latent_until.jsonl")]
    for r in in_order(r for r in found if r["stage"] == "student"):
        means, way = means_of(r), way_of(r) or "latents as drawn"
        needed = steps_needed(reports, means["genppl"], means["entropy"])
        shown = [number(means["genppl"]), number(means["entropy"], DIGITS["entropy"])]
        rows.append([*settings_of(r)[2:], way, *shown, needed])
    return table(["decode steps", "T", "decoder", "GenPPL", "entropy", "steps of the base"], rows)
