"""The tables of the docs, in Markdown, from the figures in docs/evidence."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ablation_tables import ablation, measured_groups
from frontier_tables import (
    equal_entropy,
    frontier,
    latent_scale,
    latent_scales,
    latent_steps,
    oracle,
    orders,
    ratios,
    self_cond,
    speedup,
    spread_base,
    spread_order,
    ten_steps,
)
from layout import (
    HEADS,
    NAMES,
    figures_of,
    number,
    percent,
    reference_row,
    settings_of,
    stored,
    table,
    with_error,
)
from speed_tables import compiled_speed, sampling_speed, savings, training_speed, vocabularies, whole_samples
from ways_tables import headline, recipes

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
    titles = {
        "base": "base",
        "autoencoder": "auto-encoder, given the latent",
        "noise_latent": "auto-encoder, given noise for a latent",
    }
    for name, title in titles.items():
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


def quickstart() -> str:
    """What examples/quickstart.sh ends with."""
    reports, rows = stored("quickstart.jsonl"), []
    for r in reports:
        speed = [f"{r['seconds']:.1f}", f"{r['tokens_per_second']['mean']:,.0f}"]
        rows.append([*settings_of(r)[:3], *speed, *figures_of(r)])
    rows.append(reference_row(reports[0], ["-"] * 4))
    return table(["model", "latent steps", "decode steps", "seconds", "tokens/s", *HEADS], rows)


def sizes() -> str:
    """Bases that differ in one choice each."""
    rows = [
        [
            *(f"{r[name]:,}" for name in ("tokens", "length", "width", "layers")),
            r["positions"],
            f"{r['parameters'] / 1e6:.1f} M",
            f"{r['characters_per_token']:.2f}",
            f"{r['nats_per_token']:.3f}",
            f"{r['bits_per_character']:.3f} ± {r['stderr']:.3f}",
        ]
        for r in stored("sizes.json")
    ]
    head = [
        "tokenizer",
        "length",
        "width",
        "layers",
        "positions",
        "parameters",
        "characters per token",
        "nats per token",
    ]
    return table([*head, "bits per character"], rows)


def robustness() -> str:
    found = stored("ae.json")["figures"]["robustness"]
    levels = [row["std"] for row in found if row["ratio"] == 1.0]
    rows = []
    for ratio in (0.5, 1.0):
        at = [row for row in found if row["ratio"] == ratio]
        rows.append([f"recovery, {percent(ratio, 0)} of the tokens masked", *(percent(row["recovery"]) for row in at)])
        rows.append([f"NLL, {percent(ratio, 0)} masked", *(f"{row['nll']:.2f}" for row in at)])
    return table(["noise on the latent, sigma", *(f"{std:g}" for std in levels)], rows)


def semantics_texts() -> str:
    """The texts on the way between two latents, and the two texts themselves."""
    found = stored("semantics.json")["interpolation"]
    rows = [["first text", found["first"]], *([f"{row['share']:g}", row["text"]] for row in found["steps"])]
    rows.append(["second text", found["second"]])
    return table(["share of the second", "text"], [[name, " / ".join(text.split("\n\n"))] for name, text in rows])


def semantics_noise() -> str:
    found = stored("semantics.json")["noise"]
    rows = [[name, *(with_error(row, name) for row in found)] for name in ("similarity", "agreement")]
    return table(["noise on the latent, sigma", *(f"{row['sigma']:g}" for row in found)], rows)


def semantics_decodings() -> str:
    found = stored("semantics.json")["decodings"]
    return table(
        ["decodings of", "similarity"],
        [["one latent", with_error(found, "within")], ["two latents", with_error(found, "between")]],
    )


def semantics_interpolation() -> str:
    found = stored("semantics.json")["interpolation"]["steps"]
    rows = [
        [f"similarity to the {name}", *(with_error(row, f"similarity_to_{name}") for row in found)]
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
    "headline": headline,
    "recipes": recipes,
    "ratios": ratios,
    "equal-entropy": equal_entropy,
    "latent-scale": latent_scale,
    "latent-scales": latent_scales,
    "ten-steps": ten_steps,
    "latent-steps": latent_steps,
    "self-cond": self_cond,
    "oracle": oracle,
    "speedup": speedup,
    "quickstart": quickstart,
    "semantics-noise": semantics_noise,
    "semantics-decodings": semantics_decodings,
    "semantics-interpolation": semantics_interpolation,
    "semantics-texts": semantics_texts,
    "robustness": robustness,
    "sizes": sizes,
    "orders": orders,
    "spread-base": spread_base,
    "spread-order": spread_order,
    "corrected": partial(spread_order, "corrected.jsonl"),
    **{f"ablation-{group}": ablation(group) for group in measured_groups()},
    "savings": savings,
    "speed-vocabularies": vocabularies("speed_vocabularies.jsonl"),
    "speed-bf16": sampling_speed("speed_bf16.jsonl"),
    "speed-compiled": compiled_speed("speed_compiled.jsonl", "sampling"),
    "training-compiled": compiled_speed("speed_compiled.jsonl", "training"),
    "speed-gpu": sampling_speed("speed_gpu.jsonl"),
    "training-gpu": training_speed("speed_gpu.jsonl"),
    "samples-gpu": whole_samples("frontier_gpu.jsonl"),
    "latent-share": whole_samples("latent_share.jsonl"),
    "speed-1024": sampling_speed("speed_1024.jsonl"),
    "speed-1024-fp32": sampling_speed("speed_1024_fp32.jsonl"),
    "training-1024": training_speed("speed_1024.jsonl"),
    "speed-fp32": sampling_speed("speed_fp32.jsonl"),
    "training-bf16": training_speed("speed_bf16.jsonl"),
    "training-fp32": training_speed("speed_fp32.jsonl"),
    **{f"samples-{stage}": samples(stage) for stage in NAMES if stage != "ae"},
}
