"""Validated settings: the base of every configuration dataclass.

A field's ``help`` is also the help text of the command-line option of the same name.
"""

import difflib
import math
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import Field, asdict, dataclass, field, fields
from typing import Any, Self

# Limits of numbers whose field names none: where nothing overflows yet, and nobody means more.
LARGEST: dict[type, float] = {int: 2**32 - 1, float: 1e9}
SHOWN = 60  # characters of a bad value in a message

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
LIST = "a text of parts with commas, or in a file a list of them"
PRECISIONS = ("auto", "bf16", "fp32")

Good = Callable[..., bool]  # whether all fields of those names are right by themselves


class ConfigError(ValueError):
    """One or more bad settings.

    As text it names them as Python does (``batch_size``), in ``problems`` as the command line does (``--batch-size``).

    Args:
        problems: One line per problem, each naming option, value and remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(map(_in_python, problems)))
        self.problems = problems

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return ConfigError, (self.problems,)


def _in_python(problem: str) -> str:
    return re.sub(r"(?<![\w-])--(?!help\b)([a-z][a-z0-9-]*)\b", lambda name: name[1].replace("-", "_"), problem)


def similar_name(name: str, known: Iterable[str]) -> str:
    """What to do about an unknown name: the known one that was meant, if it is clear, else where all are listed."""
    names = sorted(known)
    begun = [other for other in names if other.startswith(name)]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.75) or (begun if len(begun) == 1 else [])
    return f"did you mean {close[0]}?" if close else "see --help for the names"


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    listed: bool = False,
) -> Any:
    """A dataclass field with help text, an inclusive range, and choices; ``listed``: a text of parts with commas."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "listed": listed}
    return field(default=default, metadata=metadata)


def precision_option(default: str, effect: str = "") -> Any:
    """The field of the precision of matrix products, with what else bf16 does."""
    meaning = f"bf16: autocast of matrix products{effect}; auto: where the device is fast at it."
    return option(default, meaning, choices=PRECISIONS)


def flag(name: str) -> str:
    """The command-line spelling of a field name."""
    return "--" + name.replace("_", "-")


def shown(value: Any) -> str:
    """A value as messages show it: on one line, and not too long for one."""
    try:
        text = str(value) if isinstance(value, int | float) else repr(value)
    except ValueError:  # Python writes out no number of more than some thousand digits
        return "too long a number"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def check_value(
    name: str,
    value: Any,
    kind: type,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    empty: bool = False,
) -> str | None:
    """What is wrong with the value of an option, naming it and the remedy; None where it is right.

    Args:
        name: Of the field.
        value: Anything.
        kind: bool, int, float or str.
        low: The least number that is right.
        high: The largest one; None for that of :data:`LARGEST`.
        choices: The texts that are right; none for any.
        empty: Whether an empty text is right.
    """
    start = f"{flag(name)} is {shown(value)}; "
    if not _is_of(kind, value):
        return f"{start}give {WORDS[kind]}"
    if kind is str and choices:
        return None if value in choices else f"{start}choose one of {', '.join(choices)}"
    if kind is str:
        return None if empty or value.strip() else f"{start}give one that is not empty"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{start}give a finite number"
    high = LARGEST.get(kind) if high is None else high
    if low is not None and value < low:
        return f"{start}give at least {low}"
    if high is not None and value > high:
        return f"{start}give at most {high}"
    return None


def _is_of(kind: type, value: Any) -> bool:
    """Whether a value is of a field's type; a whole number is a float as well, True and False are not numbers."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _plain(value: Any, kind: type) -> Any:
    """The value as the field's type has it, where a program may have it in another way."""
    if getattr(value, "shape", None) == ():  # a number of numpy or torch
        value = value.item()
    whole = kind is float and type(value) is int and abs(value) <= LARGEST[float]
    return float(value) if whole else value


def _joined(field: "Field[Any]", value: Any) -> Any:
    """The parts of a list, or a single one, as the text that the option has; other values as they are."""
    parts = value if isinstance(value, list) else [value]
    if field.metadata["listed"] and all(type(part) in (int, float, str) for part in parts):
        with suppress(ValueError):  # Python writes out no number of more than some thousand digits
            return ",".join(map(str, parts))
    return value


def _check_field(field: "Field[Any]", value: Any, kind: type) -> str | None:
    if field.metadata["listed"] and not isinstance(value, str):
        return f"{flag(field.name)} is {shown(value)}; give {LIST}"
    limits = {key: field.metadata[key] for key in ("low", "high", "choices")}
    return check_value(field.name, value, kind, **limits, empty=field.default == "")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values with a range each, checked together when they are made."""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        for f in fields(self):
            object.__setattr__(self, f.name, _plain(getattr(self, f.name), kinds[f.name]))
        by_field = {f.name: _check_field(f, getattr(self, f.name), kinds[f.name]) for f in fields(self)}
        bad = {name: problem for name, problem in by_field.items() if problem is not None}
        problems = [*bad.values(), *self._problems(lambda *names: bad.keys().isdisjoint(names))]
        if problems:
            raise ConfigError(problems)

    def _problems(self, good: Good) -> list[str]:
        """Combinations of settings that make no sense, one line each; ``good`` says which may be looked at."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values; a text of parts with commas may also be a list, or one number.

        Raises:
            ConfigError: With every unknown name, wrong type and value out of range.
        """
        known = {f.name: f for f in fields(cls)}
        unknown = [
            f"unknown setting {name!r}; {similar_name(name, known)}" for name in sorted(set(values) - set(known))
        ]
        try:
            made = cls(**{name: _joined(known[name], value) for name, value in values.items() if name in known})
        except ConfigError as error:
            raise ConfigError(unknown + error.problems) from None
        if unknown:
            raise ConfigError(unknown)
        return made
