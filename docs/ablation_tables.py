"""Tables of the short trainings of examples/ablations.py."""

from collections.abc import Callable

from layout import DIGITS, Report, base_at, figures_by_name, means_of, number, percent, stored, table, with_spread

VARIANTS = {
    "augmentation": ("strong-2x", "mild-2x", "soft-2x", "dropout-50-2x"),
    "compression": ("strong-1x", "strong-2x", "strong-4x", "strong-8x"),
    "channels": ("16-channels", "strong-2x"),
    "schedule": ("d-2", "d-5", "d-10", "d-15"),
    "positions": ("positions-learned", "positions-rotary", "positions-local"),
    "features": ("features-self", "features-encoder"),
}
FIGURES = {"genppl": "GenPPL", "entropy": "entropy", "mauve": "MAUVE", "latent_agreement": "agreement"}
BASES = {"features": "ablations_features_base.jsonl"}  # of the groups that have a base of their own
BASE = "ablations_base.jsonl"  # of the others
SOURCES = {"ae": "oracle", "prior": "generated"}


def measured_groups() -> list[str]:
    """The groups of which the evidence has variants."""
    found = {result["group"] for result in stored("ablations.json")}
    return [group for group in VARIANTS if group in found]


def ablation(group: str) -> Callable[[], str]:
    """What the variants of a group reach, with latents of held-out texts (oracle) and of the prior (generated)."""

    def made() -> str:
        results = {result["variant"]: result for result in stored("ablations.json")}
        head = ["variant", "recovery", "PPL bound", "prior, share of white"]
        head += [f"{title}, {source}" for title in FIGURES.values() for source in SOURCES.values()]
        head += [f"GenPPL over the base's, {source}" for source in SOURCES.values()]
        return table(head, [_row(results[name]) for name in VARIANTS[group] if name in results])

    return made


def _row(result: Report) -> list[str]:
    trained = result["validation"]
    figures = [
        with_spread(figures_by_name(result["points"][stage])[name], DIGITS.get(name, 3))
        for name in FIGURES
        for stage in SOURCES
    ]
    return [
        result["variant"],
        percent(trained["ae"]["recovery"]),
        number(trained["ae"]["perplexity_bound"]),
        number(trained["prior"]["share_of_white"]),
        *figures,
        *(_over_the_base(result["points"][stage], result["group"]) for stage in SOURCES),
    ]


def _over_the_base(report: Report, group: str) -> str:
    """GenPPL in shares of that of the base that all were trained on, at equal entropy and decoding steps."""
    found = means_of(report)
    base = base_at(stored(BASES.get(group, BASE)), report["decode_steps"], found["entropy"])
    return "-" if base is None or found["genppl"] is None else f"{found['genppl'] / base:.2f}"
