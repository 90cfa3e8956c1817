"""What ``bench`` shows on the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from diladiff_cli.stages.bench import Report
from diladiff_cli.stages.bench.lines import Way, means, short_names
from diladiff_cli.stages.evaluation.samples import FEW, cell

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

BESIDE = {"genppl": "genppl", "mauve": "mauve", "mauve_pooled": "mauve", "latent_agreement": "agreement"}
CHANCE = "chance_agreement"
ROOMY = 72  # columns of a terminal in which narrow tables have spaces between theirs
WIDEST = 1000  # columns, more than any table has
NO_SPREAD = 1e-12  # of a figure, is rounding


def _common(reports: Sequence[Report], spreads: bool = True) -> str:
    """The settings that hold for all points, or for all that they can hold for, and what ``spreads`` are over."""
    r = reports[0]
    seeds, decodings = len(r["seeds"]), max(r["decodings"] for r in reports)
    parts = [f"{r['n']} texts", f"{seeds} seed{'s' * (seeds > 1)}", f"nucleus {r['top_p']:g}"]
    parts += [f"{decodings} texts from each latent"] if decodings > 1 else []
    parts += [f"order {r['order']}"] if r["order"] != "random" else []
    titles = {
        "threshold": "threshold",
        "entropy_bound": "entropy bound",
        "gamma": "gamma",
        "self_cond": "self-conditioning on the",
        "guidance": "guidance",
        "solver": "solver",
        "latent_until": "latent until",
    }
    for name, title in titles.items():
        used = [r[name] for r in reports if r[name] is not None]
        parts += [f"{title} {used[0] if isinstance(used[0], str) else format(used[0], 'g')}"] if used else []
    shares = _correctors(reports)
    parts += [f"corrector {shares[0]:g}"] if len(shares) == 1 and shares != [0.0] else []
    factors = _factors(reports)
    parts += [f"latents times {factors[0]:g}"] if len(factors) == 1 and factors != [1.0] else []
    parts.append(r["precision"])
    parts += ["times: the factor on drawn latents"] if len(factors) > 1 else []
    pooled = [r["figures"]["mauve_pooled"]["n"] for r in reports if "mauve_pooled" in r["figures"]]
    single = [r.get("definitions", {}).get("mauve", {}).get("n", r["n"]) for r in reports if "mauve" in r["figures"]]
    texts = max([*pooled, *single], default=FEW)
    cautions = "; ± over seeds, that of MAUVE of all seeds' texts over clusterings" if pooled and spreads else ""
    cautions += f"; mauve of {texts} texts says little, it takes {FEW:,} or more" if texts < FEW else ""
    return ", ".join(parts) + cautions


def _factors(reports: Sequence[Report]) -> list[float]:
    """The factors on latents of points that have some, each once."""
    return list(dict.fromkeys(Way.of(r).scale for r in reports if r["stage"] != "mdlm"))


def _correctors(reports: Sequence[Report]) -> list[float]:
    """The shares of steps that draw tokens anew, each once."""
    return list(dict.fromkeys(Way.of(r).corrector for r in reports))


def _with_spread(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "-"
    std = figure["std"]
    if std is not None and std < NO_SPREAD * abs(figure["mean"]):
        std = 0.0
    return cell(figure["mean"]) + ("" if std is None else f" ± {cell(float(f'{std:.2g}'))}")


def _shown(figures: Mapping[str, Any], name: str) -> str:
    """A figure, that of latent agreement with what chance would give."""
    beside = figures.get(CHANCE) if name == "latent_agreement" else None
    return _with_spread(figures.get(name)) + ("" if beside is None else f" ({beside['mean']:.2g})")


class FrontierView:
    """The table of :func:`frontier_table`, or where the terminal is too narrow for it, one for each line of points."""

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = reports

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        whole = frontier_table(self.reports)
        if whole.__rich_measure__(console, options.update_width(WIDEST)).maximum <= options.max_width:
            yield whole
            return
        yield from narrow_tables(self.reports, padding=int(options.max_width >= ROOMY))


def narrow_tables(reports: Sequence[Report], padding: int = 1) -> "Iterator[RenderableType]":
    """What a narrow terminal has room for: no spreads, no seconds, and of a base at equal entropy its GenPPL alone."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table
    from rich.text import Text

    names, others = short_names(reports), _others(reports)
    base = next((name for name, figures in others.items() if "genppl" in figures), None)
    figures = {"genppl": "genppl", "entropy": "entropy", "mauve_pooled": "mauve", "mauve": "mauve"}
    figures = {name: title for name, title in figures.items() if any(name in r["figures"] for r in reports)}
    if "mauve_pooled" in figures:
        figures.pop("mauve", None)
    figures |= {"latent_agreement": "agreement"} if any("latent_agreement" in r["figures"] for r in reports) else {}
    lines: dict[str, list[Report]] = {}
    for r in reports:
        lines.setdefault(names[r["model"]] + Way.of(r).words, []).append(r)
    for name, points in lines.items():
        columns = {"steps": [str(r["decode_steps"]) for r in points], "T": [f"{r['temperature']:g}" for r in points]}
        columns["tokens/s"] = [f"{r['tokens_per_second']['mean']:,.0f}" for r in points]
        columns |= {title: [_brief(means(r).get(figure)) for r in points] for figure, title in figures.items()}
        if base is not None:
            columns["base"] = [_brief(r["at_equal_entropy"].get(base, {}).get("genppl")) for r in points]
        columns = {title: cells for title, cells in columns.items() if set(cells) != {"-"}}
        heads = (Column(title, justify="right", overflow="fold") for title in columns)
        table = Table(
            *heads, title=Text(name), title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, padding)
        )
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        yield table
    reference = reports[0]["reference"] or {}
    values = ", ".join(f"{title} {cell(reference.get(name))}" for name, title in figures.items() if name in reference)
    yield Text(f"reference text: {values}") if values else Text()
    yield Text(_common(reports, spreads=False))
    hint = "a wider terminal shows more"
    if base is not None:
        model = next(r["at_equal_entropy"][base]["model"] for r in reports if base in r["at_equal_entropy"])
        hint = f"base: genppl of {names[model]}{base.removeprefix(model)} at this entropy; {hint}"
    yield Text(hint)


def _brief(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def frontier_table(reports: Sequence[Report]) -> "Table":
    """A row for each point of :func:`diladiff_cli.stages.bench.frontier.bench_frontier`, and the reference."""
    from rich.table import Column, Table

    names = short_names(reports)
    titles = {"genppl": "genppl", "entropy": "entropy", "mauve": "mauve", "latent_agreement": "agreement"}
    if any(CHANCE in r["figures"] for r in reports):
        titles["latent_agreement"] = "agreement (chance)"
    measured = {name: title for name, title in titles.items() if any(name in r["figures"] for r in reports)}
    pooled = [r["figures"]["mauve_pooled"]["n"] for r in reports if "mauve_pooled" in r["figures"]]
    if pooled:
        measured["mauve_pooled"] = f"mauve of {max(pooled)}"
    others = _others(reports)
    settings = _columns_of_settings(reports, names)
    titles_of_others = [_beside(name, figures, reports, names) for name, figures in others.items()]
    # No figure is cut, however narrow the terminal.
    whole = (Column(name, overflow="fold") for name in (*settings, *measured.values(), *titles_of_others))
    table = Table(*whole, title="quality and speed", caption=_common(reports), caption_justify="left")
    for r in reports:
        figures = [_shown(r["figures"], name) for name in measured]
        beside = [_figures_at(r, other, names_of) for other, names_of in others.items()]
        table.add_row(*(shown(r) for shown in settings.values()), *figures, *beside)
    reference = reports[0]["reference"]
    if reference:
        figures = [cell(reference.get(name)) for name in measured]
        dashes = ["-" for _ in settings][1:]
        table.add_row("reference text", *dashes, *figures, *("-" for _ in others))
    return table


def _columns_of_settings(reports: Sequence[Report], names: Mapping[str, str]) -> dict[str, Callable[[Report], str]]:
    """How each column shows how a point was drawn and how fast; factors and shares where points differ in them."""
    columns: dict[str, Callable[[Report], str]] = {"model": lambda r: names[r["model"]]}
    columns["latent"] = lambda r: cell(r["steps"])
    if len(_factors(reports)) > 1:
        columns["times"] = lambda r: "-" if r["stage"] == "mdlm" else f"{Way.of(r).scale:g}"
    if len(_correctors(reports)) > 1:
        columns["corrector"] = lambda r: cell(r.get("corrector"))
    columns["decode"] = lambda r: str(r["decode_steps"])
    columns["T"] = lambda r: f"{r['temperature']:g}"
    columns["seconds"] = lambda r: f"{r['seconds']:.3g}"
    columns["tokens/s"] = lambda r: f"{r['tokens_per_second']['mean']:,.0f}"
    return columns


def _others(reports: Sequence[Report]) -> dict[str, list[str]]:
    """What points are compared with at equal entropy, and in which figures: bases, or where there is none, all."""
    by_name: dict[str, list[str]] = {}
    for name in sorted({name for r in reports for name in r["at_equal_entropy"]}):
        known = [r["at_equal_entropy"][name] for r in reports if name in r["at_equal_entropy"]]
        figures = [f for f in BESIDE if any(k.get(f) is not None for k in known)]
        if figures:
            by_name[name] = [f for f in figures if f != "mauve" or "mauve_pooled" not in figures]
    bases = {r["model"] + Way.of(r).words for r in reports if r["stage"] == "mdlm"}
    return {name: figures for name, figures in by_name.items() if not bases or name in bases}


def _beside(name: str, figures: Sequence[str], reports: Sequence[Report], names: Mapping[str, str]) -> str:
    """The head of a column of :func:`_others`."""
    model = next(r["at_equal_entropy"][name]["model"] for r in reports if name in r["at_equal_entropy"])
    return f"{' and '.join(BESIDE[f] for f in figures)} of {names[model]}{name.removeprefix(model)} at this entropy"


def _figures_at(report: Report, other: str, figures: Sequence[str]) -> str:
    """The figures of another line at a report's entropy, a dash where it has none."""
    known = [report["at_equal_entropy"].get(other, {}).get(name) for name in figures]
    return ", ".join(map(cell, known)) if any(value is not None for value in known) else "-"


def speed_table(reports: Sequence[Report]) -> "Table":
    """A row for each setting of :func:`diladiff_cli.stages.bench.speed.bench_speed`."""
    from rich.table import Table

    columns = [
        "vocabulary",
        "length",
        "batch",
        "steps",
        "nucleus",
        "tokens/s",
        "of the floor",
        "of first vocabulary's",
        "over textbook",
        "with default heap",
        "MB",
        "textbook MB",
    ]
    table = Table(*columns, title=f"drawing texts: {reports[0]['machine']}, {reports[0]['precision']}")
    for r in reports:
        setting = [f"{r[name]:,}" for name in ("vocab_size", "length", "batch_size", "decode_steps")]
        ratios = [r[f"ratio_to_{what}"] for what in ("floor", "first_vocabulary")]
        speed = [f"{r['tokens_per_second']:,.0f}", *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)]
        speed += [_times(r[f"speedup_over_textbook{heap}"]) for heap in ("", "_default_heap")]
        memory = [_rounded(r["peak_megabytes"][name]) for name in ("ours", "textbook")]
        table.add_row(*setting, f"{r['top_p']:g}", *speed, *memory)
    return table


def training_table(reports: Sequence[Report]) -> "Table":
    """A row for each stage and setting of :func:`diladiff_cli.stages.bench.training.bench_training`."""
    from rich.table import Table

    peak = ["MFU"] if any("mfu" in r for r in reports) else []  # of a GPU whose peak is known
    columns = ["stage", "vocabulary", "length", "batch", "tokens/s", "of matmul rate", *peak, "MB"]
    columns += ["over plain", "plain MB"]
    table = Table(*columns, title=f"training: {reports[0]['machine']}, {reports[0]['precision']}")
    for r in reports:
        setting = [f"{r[name]:,}" for name in ("vocab_size", "length", "batch_size")]
        shares = [f"{r['share_of_matmul']:.0%}", *(f"{r['mfu']:.1%}" for _ in peak)]
        speed = [f"{r['tokens_per_second']:,.0f}", *shares, _rounded(r["peak_megabytes"])]
        plain = [_times(r.get("speedup_over_plain")), _rounded(r.get("plain_peak_megabytes"))]
        table.add_row(r["stage"], *setting, *speed, *plain)
    return table


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
