"""The tables of the docs, in Markdown, from the figures in docs/evidence."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ablation_tables import ablation, measured_groups
from layout import (
    BESIDE,
    DIGITS,
    HEADS,
    NAMES,
    Report,
    base_at,
    figures_of,
    in_order,
    means_of,
    number,
    percent,
    reference_row,
    settings_of,
    stored,
    table,
    with_spread,
)
from speed_tables import sampling_speed, training_speed

from diladiff_cli.metrics.frontier import interpolated

SPECIAL = re.compile(r"[*_`<>#|\\]")  # in Markdown


def chain() -> str:
    rows = []
    for info in stored("chain.json"):
        training, progress = info["training"], info["progress"]
        examples = progress["step"] * training["batch_size"]
        rows.append(
            [
                NAMES[info["stage"]].removesuffix(" (oracle)"),
                f"{info['parameters']['total'] / 1e6:.1f} M",
                f"{progress['step']:,}",
                f"{examples * info['length'] / 1e6:.0f} M",
                f"{progress['seconds'] / 60:.0f}",
            ]
        )
    return table(["stage", "parameters", "steps", "tokens", "minutes"], rows)


def recovery() -> str:
    curves = stored("ae.json")["figures"]["curves"]
    names = ("base", "autoencoder", "noise_latent")
    rows = [
        [f"{points[0]['ratio']:g}", *(percent(p["recovery"]) for p in points), *(f"{p['nll']:.2f}" for p in points)]
        for points in zip(*(curves[name] for name in names), strict=True)
    ]
    models = ("base", "auto-encoder", "noise for a latent")
    return table(["masking ratio", *(f"recovery, {m}" for m in models), *(f"NLL, {m}" for m in models)], rows)


def bounds() -> str:
    found, rows = stored("ae.json")["figures"]["masked_text"], []
    for name, title in (("base", "base"), ("autoencoder", "auto-encoder, given the latent")):
        part = found[name]
        bound = f"{part['nats_per_token']:.3f} ± {part['stderr']:.3f}"
        rows.append([title, bound, number(part["perplexity"]), percent(part["recovery"])])
    return table(["model", "bound, nats per token", "perplexity bound", "recovery"], rows)


def prior_loss() -> str:
    found = stored("prior.json")["figures"]["prior_loss"]["by_noise"]
    rows = [
        [name, *(f"{level[key]:.3f}" for level in found)]
        for name, key in (("prior", "loss"), ("white latent", "white"))
    ]
    return table(["sigma", *(f"{level['sigma']:g}" for level in found)], rows)


def teacher_distance() -> str:
    found = stored("student.json")["figures"]["teacher_distance"]
    names = [name for name in found if name.endswith("_steps") and name[:7] in ("student", "teacher")]
    kept = [name for name in names if name != "teacher_steps"]
    titles = [f"{name.split('_')[0]}, {name.split('_')[1]} steps".replace(" 1 steps", " 1 step") for name in kept]
    rows = [[title, number(found[name])] for title, name in zip(titles, kept, strict=True)]
    return table(["sampler", "mean squared distance"], rows)


def frontier() -> str:
    """All points of it, the last column between the base's temperatures."""
    reports = stored("frontier.jsonl")
    rows = []
    for r in in_order(reports):
        speed = f"{r['tokens_per_second']['mean']:,.0f}"
        rows.append([*settings_of(r), speed, *_beside_the_base(r, reports)])
    rows.append([*reference_row(reports[0], ["-"] * 4), "-"])
    return table(["model", "latent steps", "decode steps", "T", "tokens/s", *HEADS, BESIDE], rows)


def latent_steps() -> str:
    """Priors and students in few and many latent steps, with more or less noise."""
    bases, rows = stored("frontier.jsonl"), []
    for r in stored("latent_steps.jsonl"):
        gamma = f"{r['gamma']:g}" if r["stage"] == "student" else "-"
        rows.append([NAMES[r["stage"]], str(r["steps"]), gamma, *_beside_the_base(r, bases)])
    return table(["model", "latent steps", "gamma", *HEADS, BESIDE], rows)


def oracle() -> str:
    """The decoder with latents of held-out texts, beside the base at its entropy."""
    bases, reports = stored("frontier.jsonl"), stored("oracle.jsonl")
    rows = [[str(r["decode_steps"]), *_beside_the_base(r, bases)] for r in reports]
    return table(["decode steps", *HEADS, BESIDE], rows)


def latent_until() -> str:
    """The student whose last half of the steps is the base's, and without."""
    reports = stored("frontier.jsonl")
    students = in_order(r for r in [*stored("latent_until.jsonl"), *reports] if r["stage"] == "student")
    rows = [[f"{r['latent_until'] or 0:g}", *settings_of(r)[2:], *_beside_the_base(r, reports)] for r in students]
    return table(["latent until", "decode steps", "T", *HEADS, BESIDE], rows)


def orders() -> str:
    """Base and student revealing the surest tokens first."""
    reports, bases = stored("orders.jsonl"), stored("frontier.jsonl")
    rows = []
    for r in in_order(reports):
        means = means_of(r)
        base = base_at(bases, r["decode_steps"], means["entropy"])
        rows.append([settings_of(r)[0], *settings_of(r)[2:], *figures_of(r), number(base)])
    return table(["model", "decode steps", "T", *HEADS, "GenPPL of the base in random order at this entropy"], rows)


def _beside_the_base(report: Report, others: Sequence[Report]) -> list[str]:
    """Figures, and the GenPPL of the base among other reports at the same entropy."""
    if report["stage"] == "mdlm":
        return [*figures_of(report), "-"]
    return [*figures_of(report), number(base_at(others, report["decode_steps"], means_of(report)["entropy"]))]


def equal_entropy() -> str:
    """The student at temperature 0.85, alone and with the base taking over, beside the base at its entropies."""
    reports = stored("frontier.jsonl")
    rows = []
    for alone, mixed in zip(*map(_students_at_085, (reports, stored("latent_until.jsonl"))), strict=True):
        row = [str(alone["decode_steps"])]
        for name in ("genppl", "mauve"):
            for r in (alone, mixed):
                base = base_at(reports, r["decode_steps"], means_of(r)["entropy"], name)
                row.append(
                    f"{with_spread(r['figures'][name], DIGITS.get(name, 3))} ({number(base, DIGITS.get(name, 3))})"
                )
        rows.append(row)
    models = ("student", "base takes over at 0.5")
    return table(["decoding steps", *(f"{name}, {model}" for name in ("GenPPL", "MAUVE") for model in models)], rows)


def _students_at_085(reports: Iterable[Report]) -> list[Report]:
    return in_order(r for r in reports if r["stage"] == "student" and r["temperature"] == 0.85)


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
    for r in in_order(r for r in [*reports, *stored("latent_until.jsonl")] if r["stage"] == "student"):
        means, until = means_of(r), f"{r['latent_until'] or 0:g}"
        needed = steps_needed(reports, means["genppl"], means["entropy"])
        shown = [number(means["genppl"]), number(means["entropy"], DIGITS["entropy"])]
        rows.append([*settings_of(r)[2:], until, *shown, needed])
    return table(["decode steps", "T", "latent until", "GenPPL", "entropy", "steps of the base"], rows)


def many_texts() -> str:
    """Points of more texts, for MAUVE, beside the base of as many."""
    reports, rows = stored("many.jsonl"), []
    for r in in_order(reports):
        base = None if r["stage"] == "mdlm" else base_at(reports, r["decode_steps"], means_of(r)["entropy"], "mauve")
        until = "-" if r["stage"] == "mdlm" else f"{r['latent_until'] or 0:g}"
        rows.append(
            [*settings_of(r)[::3], until, *_beside_the_base(r, reports), number(base, DIGITS["mauve"])],
        )
    return table(["model", "T", "latent until", *HEADS, BESIDE, "MAUVE of the base at this entropy"], rows)


def quickstart() -> str:
    """What examples/quickstart.sh ends with."""
    reports, rows = stored("quickstart.jsonl"), []
    for r in reports:
        speed = [f"{r['seconds']:.1f}", f"{r['tokens_per_second']['mean']:,.0f}"]
        rows.append([*settings_of(r)[:3], *speed, *figures_of(r)])
    rows.append(reference_row(reports[0], ["-"] * 4))
    return table(["model", "latent steps", "decode steps", "seconds", "tokens/s", *HEADS], rows)


def semantics_noise() -> str:
    found = stored("semantics.json")["noise"]
    rows = [[name, *(f"{row[name]:.2f}" for row in found)] for name in ("similarity", "agreement")]
    return table(["noise on the latent, sigma", *(f"{row['sigma']:g}" for row in found)], rows)


def semantics_decodings() -> str:
    found = stored("semantics.json")["decodings"]
    return table(
        ["decodings of", "similarity"],
        [["one latent", f"{found['within']:.2f}"], ["two latents", f"{found['between']:.2f}"]],
    )


def semantics_interpolation() -> str:
    found = stored("semantics.json")["interpolation"]["steps"]
    rows = [
        [f"similarity to the {name}", *(f"{row[f'similarity_to_{name}']:.2f}" for row in found)]
        for name in ("first", "second")
    ]
    return table(["share of the second", *(f"{row['share']:g}" for row in found)], rows)


def samples(stage: str) -> Callable[[], str]:
    """Texts as they came, a line each."""

    def made() -> str:
        found = [s for s in stored("samples.jsonl") if Path(s["model"]).name == stage]
        texts = [" / ".join(s["text"].splitlines()) for s in found]
        return "".join(f"{i}. {re.sub(SPECIAL, _escaped, text)}\n" for i, text in enumerate(texts, 1))

    return made


def _escaped(found: "re.Match[str]") -> str:
    return "\\" + found.group()


TABLES: dict[str, Callable[[], str]] = {
    "chain": chain,
    "recovery": recovery,
    "bounds": bounds,
    "prior-loss": prior_loss,
    "teacher-distance": teacher_distance,
    "frontier": frontier,
    "equal-entropy": equal_entropy,
    "latent-until": latent_until,
    "latent-steps": latent_steps,
    "oracle": oracle,
    "speedup": speedup,
    "quickstart": quickstart,
    "semantics-noise": semantics_noise,
    "semantics-decodings": semantics_decodings,
    "semantics-interpolation": semantics_interpolation,
    "orders": orders,
    "many-texts": many_texts,
    **{f"ablation-{group}": ablation(group) for group in measured_groups()},
    "speed-bf16": sampling_speed("speed_bf16.jsonl"),
    "speed-fp32": sampling_speed("speed_fp32.jsonl"),
    "training-bf16": training_speed("speed_bf16.jsonl"),
    "training-fp32": training_speed("speed_fp32.jsonl"),
    **{f"samples-{stage}": samples(stage) for stage in NAMES if stage != "ae"},
}
