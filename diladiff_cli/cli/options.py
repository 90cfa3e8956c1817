"""Configuration dataclasses as command-line options: one field, one option, nothing to add for a new field."""

import difflib
import inspect
import typing
from collections.abc import Mapping
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from diladiff_cli.config import SECTIONS, BenchConfig, SampleConfig, StageConfig
from diladiff_cli.errors import UserError, meant_instead
from diladiff_cli.hub import ON_HUB
from diladiff_cli.notes import say
from diladiff_cli.presets import PRESETS
from diladiff_cli.settings import Settings, check_value, flag
from diladiff_cli.shipped import SHIPPED_NAME

# Fields of all training stages that say how a run goes rather than what it computes.
RUN_FIELDS = {"seed", "max_steps", "max_minutes", "precision", "compile", "log_with"}
PARSED_LATER = (Path, int, float)  # of a command's own parameters, so that all bad values are reported at once
MODELS = {"model", "against", "more", "base", "ae", "prior", "target", "path"}  # what may name a model
MODELS_OR_IDS = {"init", "tokenizer"}  # or else something on the Hub
LONG_SWITCH = 14  # characters of a name; longer ones, spelled in two ways, would cut off others on 80 columns
METAVARS = {bool: "", int: "INTEGER", float: "FLOAT", str: "TEXT"}

STDIN = "-"

Preset = Annotated[
    str | None,
    typer.Option("--preset", metavar="|".join(PRESETS), help="A whole configuration; the file and the options win."),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=f"Settings in TOML or JSON, in a table per stage, of {', '.join(SECTIONS)}; options win.",
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--fresh",
        metavar="",
        help=r"Continue (training: also with other settings of the optimisation), or start over. "
        r"\[default: continue an unfinished run of the same settings]",
        show_default=False,
    ),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", metavar="", help="Check everything and print the plan as JSON, no more.")
]
Out = Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the artifact goes.")]
RecordedData = Annotated[
    Path | None,
    typer.Option("--data", metavar="FOLDER", help=r"Token data set. \[default: the one that latents or parent record]"),
]
EncodedData = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FOLDER",
        help=r"Of an auto-encoder: token data set to encode. \[default: the one that it was trained on]",
    ),
]
Latents = Annotated[
    Path | None,
    typer.Option("--latents", metavar="FOLDER", help=r"Latents of encode --ae. \[default: encode on the fly]"),
]
RecordedLatents = Annotated[
    Path | None,
    typer.Option(
        "--latents",
        metavar="FOLDER",
        help="Latents of encode --ae. "
        r"\[default: those that the prior was trained on; without them, or with --data, encode on the fly]",
    ),
]


def named_or_default(model: Path | None) -> Path:
    """The folder that was named; without one the local student, else the model that ships (said on stderr)."""
    if model is not None:
        return model
    from diladiff_cli.runtime.model_paths import default_model

    path, note = default_model()
    say(note)
    return path


def with_shipped(name: str, value: Any) -> Any:
    """The value of an option or argument, with the folder of the model that ships where a model is called so.

    Raises:
        UserError: The value is almost that name, and nothing is called so.
    """
    if name not in MODELS | MODELS_OR_IDS or value is None:
        return value
    if isinstance(value, list):
        return [with_shipped(name, part) for part in value]
    first = value.partition("/")[0]
    if first != SHIPPED_NAME:
        if name in MODELS and difflib.get_close_matches(first, [SHIPPED_NAME], cutoff=0.8) and not Path(first).exists():
            hint = "did you mean shipped, the model that ships with diladiff?"
            raise UserError(f"there is no folder {value}", meant_instead(Path(value), hint, Path.is_dir))
        return value
    from diladiff_cli.runtime.model_paths import named_model

    return str(named_model(value))


def with_downloaded(name: str, value: Any) -> Any:
    """The value of an option or argument, with the folder in the local cache where a model on the Hub is named.

    Raises:
        UserError: It cannot be had.
    """
    if name not in MODELS or value is None:
        return value
    if isinstance(value, list):
        return [with_downloaded(name, part) for part in value]
    if not value.startswith(ON_HUB):
        return value
    from diladiff_cli.runtime.model_paths import named_model

    return str(named_model(value))


def idle_bounds(config: SampleConfig | BenchConfig | None, given: Mapping[str, Any]) -> list[str]:
    """Refuse bounds of an order of decoding that is not the one asked for."""
    owners = {"threshold": "threshold", "entropy_bound": "entropy"}
    return [
        f"{flag(name)} is for --order {order}, and the order is {config.order}; leave it out"
        for name, order in owners.items()
        if config is not None and name in given and config.order != order
    ]


def parameters(kind: type[Settings], panel: str) -> list[inspect.Parameter]:
    """A keyword parameter for each field of ``kind``, None unless the option was given."""
    kinds = typing.get_type_hints(kind)
    return [
        _parameter(field, kinds[field.name], _panel(kind, field.name, panel, kinds[field.name] is bool))
        for field in fields(kind)
    ]


def _panel(kind: type[Settings], name: str, own: str, switch: bool) -> str:
    """The group in the help: that of all training stages, or the stage's own."""
    if switch and len(name) > LONG_SWITCH:
        return f"{own}: switches"
    shared = {f.name for f in fields(StageConfig)} if issubclass(kind, StageConfig) else set()
    if name not in shared:
        return own
    return "Run" if name in RUN_FIELDS or name.endswith("_every") or name.startswith("eval_") else "Optimisation"


def _parameter(field: "Field[Any]", kind: type, panel: str) -> inspect.Parameter:
    name = flag(field.name)
    info = typer.Option(
        f"{name}/--no-{name.removeprefix('--')}" if kind is bool else name,
        help=f"{field.metadata['help']} [{_default_and_range(field, kind)}]".replace("[", "\\["),  # no markup
        metavar=METAVARS[kind],
        rich_help_panel=panel,
        show_default=False,
    )
    # Numbers arrive as text, so that the configuration reports every bad value at once, those of a wrong type as well.
    annotation = bool | None if kind is bool else str | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[annotation, info]
    )


def _default_and_range(field: "Field[Any]", kind: type) -> str:
    default = f"{field.default:g}" if kind is float else str(field.default) or "empty"
    if kind is bool:
        default = flag(field.name if field.default else f"no_{field.name}")
    low, high, choices = (field.metadata[key] for key in ("low", "high", "choices"))
    limits = f"{'' if low is None else f'{low:.10g} <= '}x{'' if high is None else f' <= {high:.10g}'}"
    if high is None and low is not None:
        limits = f"x >= {low:.10g}"
    extra = f"one of {', '.join(choices)}" if choices else limits
    return f"default: {default}" + ("" if extra == "x" else f"; {extra}")


def given_values(kind: type[Settings], values: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given, as values of their fields' types where the text allows it."""
    kinds = typing.get_type_hints(kind)
    return {name: _typed(kinds[name], value) for name, value in values.items() if value is not None}


def _typed(kind: type, value: Any) -> Any:
    if kind is bool:
        return value
    try:
        return kind(value)
    except ValueError:
        return value  # which the configuration rejects, naming option and type


def _kinds(parameter: inspect.Parameter) -> set[Any]:
    """All types that the type of a command's own parameter is made of; none where nothing says how it is spelled."""
    annotation = parameter.annotation
    return _parts(typing.get_args(annotation)[0]) if hasattr(annotation, "__metadata__") else set()


def _parts(hint: Any) -> set[Any]:
    return {typing.get_origin(hint) or hint}.union(*map(_parts, typing.get_args(hint)))


def as_text(parameter: inspect.Parameter) -> inspect.Parameter:
    """A command's own parameter as the parser sees it: with text for paths and numbers.

    The parser would stop at the first bad number, and make the current folder of an empty path.
    """
    kinds = _kinds(parameter)
    if kinds.isdisjoint(PARSED_LATER):
        return parameter
    text: Any = list[str] if list in kinds else str
    info = parameter.annotation.__metadata__[0]
    default = str(parameter.default) if isinstance(parameter.default, Path) else parameter.default
    return parameter.replace(annotation=Annotated[text | None if type(None) in kinds else text, info], default=default)


def own_problems(parameters: Mapping[str, inspect.Parameter], values: Mapping[str, Any]) -> list[str]:
    """A line for each bad number, and for each empty text (a shell's unset variable) in place of a file or folder."""
    problems: list[str | None] = []
    for name, parameter in parameters.items():
        kinds, value = _kinds(parameter), values.get(name)
        number = next((kind for kind in (int, float) if kind in kinds), None)
        if number is not None and value is not None:
            info = parameter.annotation.__metadata__[0]
            problems.append(check_value(name, _typed(number, value), number, low=info.min, high=info.max))
        elif "" in (value if isinstance(value, list) else [value]) and (
            name in MODELS_OR_IDS or not kinds.isdisjoint({Path, list})
        ):
            info = parameter.annotation.__metadata__[0]
            spelled = info.default if isinstance(info.default, str) else info.metavar
            problems.append(f"{spelled} is empty; name a file or folder, or leave it out")
    return [problem for problem in problems if problem is not None]


def as_value(parameter: inspect.Parameter, value: Any) -> Any:
    """What a body wants of a parameter that was text for the parser."""
    kind = next((kind for kind in PARSED_LATER if kind in _kinds(parameter)), None)
    if kind is None or value is None:
        return value
    return [kind(part) for part in value] if isinstance(value, list) else kind(value)


def stdin_problems(*sources: list[str] | None) -> list[str]:
    """Refuse standard input that is named more than once."""
    named = [name for names in sources for name in names or ()]
    twice = f"{STDIN} is named twice, and standard input can be read only once; name one of them otherwise"
    return [twice] if named.count(STDIN) > 1 else []
