"""The configuration of the commands beside training: text in, samples and figures out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from diladiff_cli.settings import LARGEST, Good, Settings, flag, option, precision_option, shown

SMALLEST_VOCABULARY = 258  # all bytes, the separator and the mask token
LARGEST_VOCABULARY = 1 << 24
COLDEST = 1e-4  # logits divided by less overflow
MIN_LATENT_SCALE, MAX_LATENT_SCALE = 0.01, 10.0  # factors on latents
MAX_CORRECTOR = 0.99  # a share of the steps must be left to reveal what is then corrected
ADAPTIVE_ORDERS = ("threshold", "entropy")  # that end when the predictions allow, not at a time
TOO_SMALL = f"give 0 for the model's own, or at least {MIN_LATENT_SCALE}"


def choice_in_use(config: "SampleConfig | BenchConfig", name: str) -> str | None:
    """A choice among words; None for the usual one, which samples and reports leave unsaid."""
    return unusual(config, (name,)).get(name)


def untimed_problem(order: str, latent_until: float) -> list[str]:
    """Refuse a time at which a base takes over where the order of decoding has no times."""
    if not latent_until or order not in ADAPTIVE_ORDERS:
        return []
    what = f"--order {order} ends when the predictions allow, so that no steps are known to be the last"
    return [f"--latent-until is {latent_until}, and {what}; leave out --latent-until"]


def unusual(config: Settings, names: Iterable[str]) -> dict[str, Any]:
    """The settings among ``names`` that are not at their defaults."""
    plain = type(config)()
    return {name: given for name in names if (given := getattr(config, name)) != getattr(plain, name)}


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(Settings):
    """Text into packed blocks of tokens."""

    tokenizer: str = option("train:8192", "A Hub id, a folder, or train:SIZE to train a byte-level BPE on the text.")
    length: int = option(256, "Tokens of a block.", low=2, high=1 << 20)
    valid_share: float = option(0.02, "Share of documents held out for validation.", low=0, high=1)
    text_field: str = option("text", "Field of a JSON or parquet row that holds the text.")
    seed: int = option(0, "Seed of the split into training and validation.", low=0)

    def _problems(self, good: Good) -> list[str]:
        if not good("tokenizer") or not self.tokenizer.startswith("train:"):
            return []
        size = self.tokenizer.removeprefix("train:")
        start = f"--tokenizer {shown(self.tokenizer)[1:-1]} has no usable size; give at "
        if not size.isdecimal() or int(size[:10]) < SMALLEST_VOCABULARY:
            return [f"{start}least train:{SMALLEST_VOCABULARY}"]
        return [f"{start}most train:{LARGEST_VOCABULARY}"] if int(size[:10]) > LARGEST_VOCABULARY else []


ENDS = ("prompt", "suffix")  # what texts begin and end with, there before the first decoding step


@dataclass(frozen=True, kw_only=True)
class SampleConfig(Settings):
    """How texts are drawn (method sections 4 to 6)."""

    n: int = option(64, "Samples to draw.", low=1)
    steps: int = option(0, "Latent steps N_cont (0: 5 for a student, 50 for a prior, 200 with euler).", low=0)
    decode_steps: int = option(
        0,
        "Token steps N_disc (0: a quarter of the length); with --order threshold or entropy the most (0: the length).",
        low=0,
    )
    temperature: float = option(1.0, "Divides the logits; 0: the likeliest token, else 1e-4 or more.", low=0, high=1e6)
    top_p: float = option(0.9, "Nucleus: draw among the likeliest tokens that together reach this.", low=1e-6, high=1)
    gamma: float = option(0.8, "Noise of a student's steps: 0 deterministic, 1 consistency-style.", low=0, high=1)
    self_cond: str = option(
        "network",
        "Of a student: what a step looks at: network, an estimate asked for anew, as published, or jump, what the step "
        "before implies, for half as many evaluations.",
        choices=("network", "jump"),
    )
    guidance: float = option(
        0.0, "Of a prior: how far estimates are pushed away from those without self-conditioning.", low=0, high=100
    )
    solver: str = option(
        "ddim",
        "Of a prior: ddim, which needs few steps, or euler, as published (there with 200).",
        choices=("ddim", "euler"),
    )
    latent_until: float = option(
        0.0,
        "Share of the decoding steps, the last ones, that are the base's, which looks at no latents (0: none).",
        low=0,
        high=1,
    )
    latent_scale: float = option(
        0.0,
        "Factor on latents; below 1 they lose the prior's law and are trusted less (0: the model's own, else 1).",
        low=0,
        high=MAX_LATENT_SCALE,
    )
    decodings: int = option(1, "Texts decoded from each latent; two or more give the latent agreement.", low=1)
    corrector: float = option(
        0.0,
        "Share of the decoding steps, the last ones, that each draw an eighth of the tokens anew (0: none).",
        low=0,
        high=MAX_CORRECTOR,
    )
    prompt: str = option("", "What every text begins with; latents are drawn without it.")
    suffix: str = option("", "What every text ends with, a space first; with --prompt the middle is drawn.")
    order: str = option(
        "random",
        "Positions to reveal: random, exact; spread, distant ones together, exact with one token a step; the others, "
        "surest first, not exact.",
        choices=("random", "spread", "confidence", "threshold", "entropy"),
    )
    threshold: float = option(0.9, "Probability above which --order threshold reveals a token.", low=0, high=1)
    entropy_bound: float = option(
        0.5, "Nats that the tokens of a step of --order entropy may total, the last not counted.", low=0
    )
    seed: int = option(0, "Seed; sample i depends on the seed and i alone.", low=0)
    batch_size: int = option(32, "Samples drawn at once; the samples do not depend on it.", low=1)
    compile: bool = option(False, "Compile decoder and prior, half a minute or more each; for long runs in bf16.")
    precision: str = precision_option("fp32", ", whose rounding gives other texts")

    def _problems(self, good: Good) -> list[str]:
        problems = []
        if good("temperature") and 0 < self.temperature < COLDEST:
            problems.append(
                f"--temperature is {self.temperature}; give 0 for the likeliest token, or at least {COLDEST}"
            )
        if good("latent_scale") and 0 < self.latent_scale < MIN_LATENT_SCALE:
            problems.append(f"--latent-scale is {self.latent_scale}; {TOO_SMALL}")
        for name in ENDS:
            text = getattr(self, name)
            if good(name) and any("\ud800" <= character <= "\udfff" for character in text):
                problems.append(f"{flag(name)} is {shown(text)}; give text in UTF-8")
        return problems + (untimed_problem(self.order, self.latent_until) if good("order", "latent_until") else [])

    def use_of_latents(self) -> dict[str, float | None]:
        """What the decoder makes of latents, None where that is nothing, or left to the model."""
        return {
            "latent_until": self.latent_until or None,
            "latent_scale": None if self.latent_scale in (0, 1) else self.latent_scale,
        }

    def bounds_in_use(self) -> dict[str, float | None]:
        """What bounds the steps of the orders ``threshold`` and ``entropy``, None where it does nothing."""
        return {
            "threshold": self.threshold if self.order == "threshold" else None,
            "entropy_bound": self.entropy_bound if self.order == "entropy" else None,
        }


@dataclass(frozen=True, kw_only=True)
class EvalConfig(Settings):
    """How samples and artifacts are measured (method section 7)."""

    scorer: str = option("auto", "auto (gpt2-large or smollm2 or none), none, smollm2, a GGUF file, Hub id or folder.")
    context: int = option(0, "Of samples: most scorer tokens of a text that count (0: all the scorer takes).", low=0)
    text_field: str = option("text", "Of samples: field of the reference's JSON or parquet rows that holds the text.")
    batch_size: int = option(8, "Texts at once.", low=1)
    precision: str = precision_option("fp32")
    draws: int = option(16, "Of artifacts: masks for each text; the published figures have 128.", low=1)
    batches: int = option(8, "Of artifacts: amount of work, 16 held-out blocks and 4 latents each.", low=1)
    likelihood: int = option(4, "Of a prior: blocks for the figure of the whole model (0: none); it takes long.", low=0)
    seed: int = option(0, "Of artifacts: seed of masks, noise and samples.", low=0)


def as_sampled(name: str) -> Any:
    """The field of that name of :class:`SampleConfig`, for another configuration."""
    same = SampleConfig.__dataclass_fields__[name]
    return field(default=same.default, metadata=same.metadata)


# In lists whose numbers need not be whole.
MAX_OF_FRACTIONS = {"temperatures": 1e6, "latent_scale": MAX_LATENT_SCALE, "corrector": MAX_CORRECTOR}


def numbers(text: str) -> tuple[float, ...]:
    """The numbers of a list with commas; none of an empty text.

    Raises:
        ValueError: Something else than numbers.
    """
    return tuple(float(part) for part in text.split(",")) if text.strip() else ()


FOR_SPEED = frozenset({"vocab_sizes", "lengths", "batch_sizes", "width", "layers", "seconds"})  # for --speed alone


@dataclass(frozen=True, kw_only=True)
class BenchConfig(Settings):
    """What the frontier of quality and speed is drawn from, and what speed alone is measured on."""

    decode_steps: str = option(
        "",
        "Token steps, with --order threshold or entropy the most, a list (empty: 4, 8, 16 to the length, with those "
        "orders the length; with --speed 16, 64, length).",
        listed=True,
    )
    steps: str = option("1,2,5", "Latent steps N_cont of students, a list.", listed=True)
    prior_steps: str = option("0", "Latent steps N_cont of priors, a list (0: 50, 200 with euler).", listed=True)
    temperatures: str = option(
        "1.0", "Temperatures, a list; three or more allow comparisons at equal entropy.", listed=True
    )
    seeds: str = option("0,1,2", "Seeds, a list; the spread of the figures is that over seeds.", listed=True)
    n: int = option(256, "Samples of a point and seed.", low=2)
    decodings: int = option(2, "Texts decoded from each latent; two or more give the latent agreement.", low=1)
    top_p: float = as_sampled("top_p")
    gamma: float = as_sampled("gamma")
    self_cond: str = as_sampled("self_cond")
    guidance: float = as_sampled("guidance")
    solver: str = as_sampled("solver")
    latent_until: float = as_sampled("latent_until")
    corrector: str = option(
        "0", "Shares of the decoding steps, the last ones, that draw tokens anew, a list.", listed=True
    )
    latent_scale: str = option(
        "0", "Factors on latents before decoding, a list (0: the model's own, else 1).", listed=True
    )
    order: str = as_sampled("order")
    threshold: float = as_sampled("threshold")
    entropy_bound: float = as_sampled("entropy_bound")
    batch_size: int = option(32, "Samples drawn at once, and texts scored at once.", low=1)
    precision: str = precision_option("auto")
    compile: bool = option(False, "Compile decoders and priors; with --speed also what each stage trains.")
    scorer: str = option("auto", "auto (gpt2-large or smollm2 or none), none, smollm2, a GGUF file, Hub id or folder.")
    vocab_sizes: str = option("4096,30522", "With --speed: vocabularies, a list.", listed=True)
    lengths: str = option("128,1024", "With --speed: lengths of texts, a list.", listed=True)
    batch_sizes: str = option("1,32", "With --speed: batch sizes, a list.", listed=True)
    width: int = option(256, "With --speed: width of the network.", low=8, high=1 << 16)
    layers: int = option(6, "With --speed: layers of the network.", low=1, high=1024)
    seconds: float = option(
        10.0, "With --speed: about how long each measurement may take, beside warming up.", low=0.01
    )

    def _problems(self, good: Good) -> list[str]:
        lows = {"decode_steps": 1, "steps": 1, "prior_steps": 0, "seeds": 0, "temperatures": 0}
        lows |= {"latent_scale": 0, "corrector": 0, "vocab_sizes": 2, "lengths": 2, "batch_sizes": 1}
        problems = [p for name, low in lows.items() if good(name) and (p := self._list_problem(name, low))]
        if good("n", "decodings") and self.n % self.decodings:
            problems.append(f"--n {self.n} is not a multiple of --decodings {self.decodings}; change one")
        if good("order", "latent_until"):
            problems += untimed_problem(self.order, self.latent_until)
        if good("width") and self.width % 8:
            problems.append(f"--width {self.width} is not a multiple of 8, twice the heads; change it")
        return problems

    def _list_problem(self, name: str, low: int) -> str | None:
        text, high = getattr(self, name), MAX_OF_FRACTIONS.get(name, float(LARGEST[int]))
        whole = name not in MAX_OF_FRACTIONS
        try:
            values = numbers(text)
        except ValueError:
            values = (low - 1.0,)
        start, kind = f"{flag(name)} is {shown(text)}; ", "whole numbers" if whole else "numbers"
        # In this order, since NaN compares with nothing, and infinity is not a whole number.
        if not all(x >= low for x in values) or any(whole and not x.is_integer() for x in values if x <= LARGEST[int]):
            return f"{start}give {kind} of at least {low}, separated by commas"
        if any(x > high for x in values):
            return f"{start}give {kind} of at most {high:.10g}, separated by commas"
        if name == "temperatures" and any(0 < x < COLDEST for x in values):
            return f"{start}give 0 for the likeliest tokens, or at least {COLDEST}"
        if name == "latent_scale" and any(0 < x < MIN_LATENT_SCALE for x in values):
            return f"{start}{TOO_SMALL}"
        return None

    def integers(self, name: str) -> tuple[int, ...]:
        """One of the lists, without repetitions, in the order given."""
        return tuple(dict.fromkeys(int(x) for x in numbers(getattr(self, name))))

    def fractions(self, name: str) -> tuple[float, ...]:
        """Temperatures or factors on latents, without repetitions, in the order given."""
        return tuple(dict.fromkeys(numbers(getattr(self, name))))
