"""The points of ``bench``: what is sampled, in which way, and under which name it is kept."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from diladiff_cli import __version__
from diladiff_cli.config import BenchConfig, SampleConfig, choice_in_use
from diladiff_cli.core.unmask import ADAPTIVE_ORDERS
from diladiff_cli.errors import UserError
from diladiff_cli.integrity import json_hash
from diladiff_cli.notes import say
from diladiff_cli.runtime.precision import resolved_precision
from diladiff_cli.settings import ConfigError, flag
from diladiff_cli.stages.sampling.sampler import Sampler, content_of, load_sampler, sampling_device
from diladiff_cli.stages.sampling.settings import complete, notes_on

SHARED = ("n", "top_p", "order", "threshold", "entropy_bound", "batch_size", "precision", "compile")  # by all points
FORMAT_VERSION = 3  # of the kept points; raised when samples or figures of the same settings change beyond rounding


@dataclass(frozen=True)
class Point:
    """One model, sampled in one way with several seeds.

    Attributes:
        model: Name of its :class:`Sampler`.
        stage: Of the model.
        content: Hashes of all that its samples depend on, that of the model first.
        settings: How texts are drawn; its seed is that of the first set.
    """

    model: str
    stage: str
    content: tuple[str, ...]
    settings: SampleConfig

    @property
    def title(self) -> str:
        """In words."""
        steps = self.settings.steps
        latent = f", {steps} latent step{'s' * (steps > 1)}" if steps else ""
        latent += ", estimates of jumps" if choice_in_use(self.settings, "self_cond") else ""
        latent += f", guidance {self.settings.guidance:g}" if self.settings.guidance else ""
        latent += f", solver {self.settings.solver}" if choice_in_use(self.settings, "solver") else ""
        scale = self.settings.latent_scale
        latent += f", latents times {scale:g}" if scale != 1 else ""
        latent += f", corrector {self.settings.corrector:g}" if self.settings.corrector else ""
        return f"{self.model}{latent}, {self.settings.decode_steps} decoding steps, T {self.settings.temperature:g}"

    def key(self, seed: int, *more: Any) -> str:
        """Name of what is kept of one seed: a hash of all that it depends on."""
        settings = replace(self.settings, seed=seed, batch_size=1).to_dict()
        unset = SampleConfig().to_dict()
        settings |= {name: unset[name] for name, value in self.settings.bounds_in_use().items() if value is None}
        content = [FORMAT_VERSION, __version__, *self.content, settings, *more]
        return json_hash(content)[:20]


@dataclass(frozen=True)
class Plan:
    """All points of a call, with the settings that they share and their models' networks by name."""

    config: BenchConfig
    samplers: dict[str, Sampler]
    points: list[Point]


def plan_points(config: BenchConfig, models: Sequence[Path], data: Path | None) -> Plan:
    """Load the models and lay out their points; settings that do nothing are reported on stderr.

    Raises:
        UserError: An unusable model or folder.
        ConfigError: Settings that do not fit a model.
    """
    config = replace(config, precision=resolved_precision(config.precision, sampling_device()))
    samplers = {s.name: s for s in (load_sampler(model, data=data) for model in models)}
    if problems := _idle(config, samplers.values()):
        raise ConfigError(problems)
    asked = [(sampler, settings) for sampler in samplers.values() for settings in _asked(sampler, config)]
    contents = {name: content_of(sampler) for name, sampler in samplers.items()}
    points = [Point(s.name, s.stage, contents[s.name], complete(s, settings)) for s, settings in asked]
    for note in dict.fromkeys(note for each in asked for note in notes_on(*each)):
        say(note)
    temperatures = len(config.fractions("temperatures"))
    if len(samplers) > 1 and temperatures < 3:
        says = {1: "with one temperature nothing is compared at equal entropy"}
        flattered = "with two temperatures comparisons at equal entropy follow a straight line, which flatters"
        say(f"{says.get(temperatures, flattered)}; take three or more, as --temperatures 1.0,0.85,0.7")
    return Plan(config, samplers, list(dict.fromkeys(points)))


def _idle(config: BenchConfig, samplers: Collection[Sampler]) -> list[str]:
    """Settings that are of no use to any of the models."""
    asked_for = {
        "latent_until": config.latent_until > 0,
        "latent_scale": not set(config.fractions("latent_scale")) <= {0, 1},
    }
    idle = []
    if all(sampler.autoencoder is None for sampler in samplers):
        idle += [(name, "has latents") for name, asks in asked_for.items() if asks]
    if config.guidance and all(sampler.stage != "prior" for sampler in samplers):
        idle.append(("guidance", "is a prior"))
    if choice_in_use(config, "solver") and all(sampler.stage != "prior" for sampler in samplers):
        idle.append(("solver", "is a prior"))
    if choice_in_use(config, "self_cond") and all(sampler.stage != "student" for sampler in samplers):
        idle.append(("self_cond", "is a student"))
    return [
        f"{flag(name)} is {getattr(config, name)}, but none of the models {what}; leave it out" for name, what in idle
    ]


def check_texts(texts: Mapping[str, str], remedy: str = "name one data set with --data") -> None:
    """Refuse models that would be measured beside several texts.

    Args:
        texts: By what tells them apart, as the error names them.
        remedy: What to do instead.

    Raises:
        UserError: Several, named.
    """
    if len(texts) > 1:
        raise UserError(
            f"the models have several reference texts ({'; '.join(sorted(texts.values()))})",
            remedy,
        )


def _asked(sampler: Sampler, config: BenchConfig) -> Iterator[SampleConfig]:
    """The settings of a model's points, as they were asked for."""
    steps = {"student": config.integers("steps"), "prior": config.integers("prior_steps")}.get(sampler.stage, (0,))
    length = sampler.decoder.length
    powers = tuple(2**k for k in range(2, length.bit_length()))
    shared: dict[str, Any] = {name: getattr(config, name) for name in SHARED}
    if sampler.stage == "student":
        shared |= {"gamma": config.gamma, "self_cond": config.self_cond}
    if sampler.stage == "prior":
        shared |= {"guidance": config.guidance, "solver": config.solver}
    scales: tuple[float, ...] = (0.0,)
    if sampler.autoencoder is not None:
        shared |= {"decodings": config.decodings, "latent_until": config.latent_until}
        scales = config.fractions("latent_scale")
    usual = () if config.order in ADAPTIVE_ORDERS else powers
    decode_steps = config.integers("decode_steps") or usual or (length,)
    fractions = [config.fractions(name) for name in ("corrector", "temperatures")]
    for n_cont, scale, corrector, temperature, n_disc in product(steps, scales, *fractions, decode_steps):
        way = {"latent_scale": scale, "corrector": corrector, "temperature": temperature}
        yield SampleConfig(steps=n_cont, decode_steps=n_disc, **way, **shared)
