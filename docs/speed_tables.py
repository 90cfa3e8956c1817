"""Tables of what ``bench --speed`` measured."""

from collections.abc import Callable

from layout import COST, Report, number, percent, stored, table

SAMPLING = ("vocabulary", "length", "batch", "steps", "nucleus", "tokens/s", "time over floor", "speed over textbook")
DEFAULT_HEAP = "that with the default heap"
MEMORY = ("memory (MB)", "textbook's (MB)")
TRAINING = (
    *("stage", "vocabulary", "length", "batch", "tokens/s", "share of the matmul rate", "memory (MB)"),
    *("speed over plain", "plain's memory (MB)"),
)

VOCABULARIES = (
    "width",
    "layers",
    "steps",
    "nucleus",
    "step at {:,} (ms)",
    "step at {:,} (ms)",
    "ratio",
)
COMPILED = ("compiled", "times as fast")

WHOLE = ("model", "latent steps", "decode steps", "tokens/s", COST)


def whole_samples(name: str) -> Callable[[], str]:
    """Texts per second of a model with its latents, of a file of the evidence."""
    return lambda: table(WHOLE, [_whole_row(r) for r in stored(name)])


def sampling_speed(name: str) -> Callable[[], str]:
    """Draws beside the bare body and the textbook sampler, of a file of the evidence."""

    def draw() -> str:
        found = [r for r in stored(name) if r["kind"] == "sampling"]
        found.sort(key=lambda r: [r[part] for part in ("vocab_size", "length", "batch_size", "decode_steps")])
        heaps = [DEFAULT_HEAP] * any(r.get("speedup_over_textbook_default_heap") for r in found)
        return table([*SAMPLING, *heaps, *MEMORY], [_sampling_row(r, bool(heaps)) for r in found])

    return draw


def vocabularies(name: str) -> Callable[[], str]:
    """What a step costs at the larger of two vocabularies beside the smaller, of a file of the evidence."""

    def draw() -> str:
        reports = [r for r in stored(name) if r["kind"] == "sampling"]
        sizes = sorted({r["vocab_size"] for r in reports})
        parts = ("width", "layers", "decode_steps", "top_p")
        first = {tuple(r[part] for part in parts): r for r in reports if r["vocab_size"] == sizes[0]}
        rows = []
        for r in (r for r in reports if r["vocab_size"] == sizes[1]):
            pair = first[tuple(r[part] for part in parts)], r
            steps = [f"{1000 * each['seconds']['ours']:.1f}" for each in pair]
            ratio = f"{r['ratio_to_first_vocabulary']:.2f}"
            rows.append([str(r["width"]), str(r["layers"]), f"{r['decode_steps']:,}", _nucleus(r), *steps, ratio])
        return table([head.format(*sizes[i == 5 :]) for i, head in enumerate(VOCABULARIES)], rows)

    return draw


def training_speed(name: str) -> Callable[[], str]:
    """Steps of every stage beside their matrix products and a plain loop, of a file of the evidence."""
    return lambda: table(TRAINING, [_training_row(r) for r in stored(name) if r["kind"] == "training"])


def compiled_speed(name: str, kind: str) -> Callable[[], str]:
    """Draws ("sampling") or steps ("training") with compiled blocks beside those without, of a file of the evidence."""
    setting = ("stage", "vocab_size", "batch_size", "decode_steps", "top_p")

    def draw() -> str:
        found = [r for r in stored(name) if r["kind"] == kind]
        plain = {tuple(r.get(part) for part in setting): r for r in found if not r["compiled"]}
        pairs = [(plain[tuple(r.get(part) for part in setting)], r) for r in found if r["compiled"]]
        return table(*(_compiled_draws(pairs) if kind == "sampling" else _compiled_steps(pairs)))

    return draw


def savings() -> str:
    """Time with each saving over that without, by batch size and decoding steps."""
    found = {(r["saving"], r["batch_size"], r["decode_steps"]): r for r in stored("savings.jsonl")}
    settings = list(dict.fromkeys(key[1:] for key in found))
    head = ["saving", *(f"batch size {batch}, {steps} steps" for batch, steps in settings)]
    rows = [
        [name, *(f"{found[name, *setting]['ratio']:.2f}" for setting in settings)]
        for name in dict.fromkeys(key[0] for key in found)
    ]
    return table(head, rows)


def _sizes(report: Report) -> list[str]:
    return [f"{report[name]:,}" for name in ("vocab_size", "length", "batch_size")]


def _sampling_row(report: Report, with_default_heap: bool) -> list[str]:
    memory = report["peak_megabytes"]
    return [
        *_sizes(report),
        f"{report['decode_steps']:,}",
        _nucleus(report),
        number(report["tokens_per_second"]),
        f"{report['ratio_to_floor']:.2f}",
        _times(report["speedup_over_textbook"]),
        *[_times(report.get("speedup_over_textbook_default_heap"))] * with_default_heap,
        *(number(None if memory is None else memory[who]) for who in ("ours", "textbook")),
    ]


def _nucleus(report: Report) -> str:
    return "-" if report["top_p"] == 1.0 else f"{report['top_p']:g}"


def _rates(plain: Report, compiled: Report) -> list[str]:
    rates = [r["tokens_per_second"] for r in (plain, compiled)]
    return [*map(number, rates), f"{rates[1] / rates[0]:.2f}"]


def _compiled_draws(pairs: list[tuple[Report, Report]]) -> tuple[list[str], list[list[str]]]:
    head = [*SAMPLING[:1], *SAMPLING[2:6], *COMPILED, *SAMPLING[6:], DEFAULT_HEAP]
    rows = []
    for plain, compiled in pairs:
        row = _sampling_row(compiled, with_default_heap=True)
        rows.append([row[0], *row[2:5], *_rates(plain, compiled), *row[6:9]])
    return head, rows


def _compiled_steps(pairs: list[tuple[Report, Report]]) -> tuple[list[str], list[list[str]]]:
    head = [*TRAINING[:2], *TRAINING[4:5], *COMPILED, TRAINING[5], TRAINING[7]]
    rows = []
    for plain, compiled in pairs:
        row = _training_row(compiled)
        rows.append([*row[:2], *_rates(plain, compiled), row[5], row[7]])
    return head, rows


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _training_row(report: Report) -> list[str]:
    return [
        report["stage"],
        *_sizes(report),
        number(report["tokens_per_second"]),
        percent(report["share_of_matmul"]),
        number(report["peak_megabytes"]),
        number(report.get("speedup_over_plain"), 2),
        number(report.get("plain_peak_megabytes")),
    ]


def _whole_row(report: Report) -> list[str]:
    share = report["latent_share"]
    latents = "-" if report["steps"] is None else f"{report['decodings'] * share / (1 - share):.2f}"
    model = "base" if report["stage"] == "mdlm" else report["stage"]
    steps = "-" if report["steps"] is None else f"{report['steps']}{', jump' * (report.get('self_cond') == 'jump')}"
    return [model, steps, str(report["decode_steps"]), number(report["tokens_per_second"]["mean"]), latents]
