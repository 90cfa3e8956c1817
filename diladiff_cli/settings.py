"""Validated settings: the base of every configuration dataclass.

A field's ``help`` is also the help text of the command-line option of the same name.
"""

import math
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self


class ConfigError(ValueError):
    """One or more bad settings.

    Args:
        problems: One line per problem, each naming option, value and remedy.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with help text, an inclusive range, and choices."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


def flag(name: str) -> str:
    """The command-line spelling of a field name."""
    return "--" + name.replace("_", "-")


def _check_field(name: str, value: Any, kind: type, metadata: Mapping[str, Any]) -> str | None:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        return f"{flag(name)} is {value!r}; give a value of type {kind.__name__}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{flag(name)} is {value}; give a finite number"
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if low is not None and value < low:
        return f"{flag(name)} is {value}; give at least {low}"
    if high is not None and value > high:
        return f"{flag(name)} is {value}; give at most {high}"
    if choices and value not in choices:
        return f"{flag(name)} is {value!r}; choose one of {', '.join(choices)}"
    return None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Values with a range each, checked together when they are made."""

    def __post_init__(self) -> None:
        kinds = typing.get_type_hints(type(self))
        found = [_check_field(f.name, getattr(self, f.name), kinds[f.name], f.metadata) for f in fields(self)]
        problems = [p for p in found if p is not None]
        if not problems:
            problems = self._problems()
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> list[str]:
        """Combinations of settings that make no sense, one line each."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values, inverse of :meth:`from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            ConfigError: With every unknown name, wrong type and value out of range.
        """
        kinds = typing.get_type_hints(cls)
        names = {f.name for f in fields(cls)}
        unknown = [f"unknown setting {name!r}; see --help for the names" for name in sorted(set(values) - names)]
        plain = {
            k: float(v) if kinds[k] is float and isinstance(v, int) and not isinstance(v, bool) else v
            for k, v in values.items()
            if k in names
        }
        try:
            made = cls(**plain)
        except ConfigError as error:
            raise ConfigError(unknown + error.problems) from None
        if unknown:
            raise ConfigError(unknown)
        return made
