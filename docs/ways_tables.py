"""Tables of all ways of decoding at one temperature, each beside the base in random order."""

from dataclasses import dataclass

from frontier_tables import ratio, ratio_spread
from layout import NAMES, Report, base_at, means_of, of_stage, stored, table, timed

HALF = 0.5  # of the steps correct
YARDSTICK = 64  # steps of the base in random order


@dataclass(frozen=True)
class Way:
    """A way of decoding.

    Attributes:
        name: In words.
        points: Its reports, in several numbers of steps.
        options: Those of ``sample``.
        shown: The steps that the README shows.
    """

    name: str
    points: list[Report]
    options: str = ""
    shown: tuple[int, ...] = ()


def ways() -> list[Way]:
    """All of them, the base in random order first."""
    reports, smaller, spread = (stored(f"{name}.jsonl") for name in ("frontier", "latent_scale", "spread"))
    taken_over, guided = stored("latent_until.jsonl"), [r for r in stored("ten_steps.jsonl") if r.get("guidance")]
    corrected = [r for r in stored("corrected.jsonl") if r["corrector"] == HALF]
    spread_over = [r for r in spread if r.get("latent_until")]
    latents_alone = [r for r in spread if not r.get("latent_until")]
    over, order, few = "base takes over at 0.5", "--order spread", (4, 8, 16)
    again, until = f"{order} --corrector {HALF}", "--latent-until 0.5"
    return [
        Way("base, random order", of_stage(reports, "mdlm"), "", (4, 16, YARDSTICK)),
        Way("student, 2 latent steps", of_stage(smaller, "student"), "`--steps 2`", (4, 16, 64)),
        Way(f"student, 2 latent steps, {over}", of_stage(taken_over, "student")),
        Way("prior, 5 latent steps", of_stage(smaller, "prior")),
        Way("prior, 10 guided latent steps", of_stage(guided, "prior")),
        Way(f"base, `{order}`", of_stage(spread, "mdlm"), f"`{order}`", few),
        Way(f"student, 2 latent steps, `{order}`", of_stage(latents_alone, "student")),
        Way(
            f"student, 2 latent steps, {over}, `{order}`",
            of_stage(spread_over, "student"),
            f"`--steps 2 {order} {until}`",
            few,
        ),
        Way(f"prior, 5 latent steps, `{order}`", of_stage(latents_alone, "prior")),
        Way(f"base, `{again}`", of_stage(corrected, "mdlm"), f"`{again}`", (16, 64)),
        Way(
            f"student, 2 latent steps, {over}, `{again}`",
            of_stage(corrected, "student"),
            f"`--steps 2 {order} {until} --corrector {HALF}`",
            (8, 16, 64),
        ),
    ]


def headline() -> str:
    """GenPPL over the base's in random order in as many steps at equal entropy, and MAUVE."""
    found = ways()
    bases = stored("frontier.jsonl")
    steps = sorted({r["decode_steps"] for way in found for r in way.points})
    rows = []
    for way in found:
        cells = {r["decode_steps"]: f"{ratio(r, bases)} ({means_of(r)['mauve']:.2f})" for r in way.points}
        rows.append([way.name, *(cells.get(n, "-") for n in steps)])
    return table(["", *(f"{n} steps" for n in steps)], rows)


def recipes() -> str:
    """Some of them: speed, GenPPL over that of :data:`YARDSTICK` random steps of the base, and MAUVE."""
    bases, rows = stored("frontier.jsonl"), []
    for way in ways():
        for r in timed(r for r in way.points if r["decode_steps"] in way.shown):
            multiple = ratio(r, bases, YARDSTICK) + ratio_spread(r, bases, YARDSTICK)
            speed = f"{r['tokens_per_second']['mean']:,.0f}"
            cells = [str(r["decode_steps"]), speed, multiple, f"{means_of(r)['mauve']:.2f}"]
            rows.append([NAMES[r["stage"]], way.options, *cells])
    real = bases[0]["reference"]
    base = base_at(bases, YARDSTICK, real["entropy"])
    rows.append(["held-out text", "", "", "", f"{real['genppl'] / base:.2f}" if base else "-", ""])
    return table(["model", "options", "`--decode-steps`", "tokens/s", "GenPPL, relative", "MAUVE"], rows)
