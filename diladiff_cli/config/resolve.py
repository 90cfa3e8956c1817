"""From defaults, presets, files and options to one configuration."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from diladiff_cli.config.training import AeConfig, DistillConfig, MdlmConfig, PriorConfig
from diladiff_cli.config.use import BenchConfig, EncodeConfig, EvalConfig, SampleConfig
from diladiff_cli.errors import KINDS, kind_of
from diladiff_cli.presets import PRESETS
from diladiff_cli.settings import ConfigError, Settings, shown, similar_name

SECTIONS: dict[str, type[Settings]] = {
    "data": EncodeConfig,
    "mdlm": MdlmConfig,
    "ae": AeConfig,
    "prior": PriorConfig,
    "student": DistillConfig,
    "sample": SampleConfig,
    "eval": EvalConfig,
    "bench": BenchConfig,
}


def read_config_file(path: Path | str, stage: str) -> tuple[dict[str, Any], list[str]]:
    """Settings of one stage from a TOML or JSON file that may serve a whole pipeline.

    A table named after the stage holds its own settings; keys outside of tables hold for every stage that knows them.
    Of an artifact's config.json the settings count that it was trained with.
    Names may be written as on the command line, ``max-steps`` for ``max_steps``.

    Returns:
        The settings that the stage knows, and a line for each name in the file that is wrong.

    Raises:
        ConfigError: The file cannot be read.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        inside = path / "config.json"
        remedy = f"give {inside}" if inside.is_file() else "give a TOML or JSON file"
        raise ConfigError([f"--config {path} cannot be read ({error.strerror}); {remedy}"]) from error
    try:
        if path.suffix == ".json":
            values = json.loads(raw, object_pairs_hook=_each_once)
        else:
            values = tomllib.loads(raw.decode("utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__} instead of names and values")
        twice, values = _set_twice(values), _underscored(values)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"--config {path} cannot be read ({error}); mend it, or give another file"]) from error
    if {"stage", "format_version"} <= values.keys():  # the config.json of an artifact, or of data
        if values["stage"] != stage or not isinstance(values.get("training"), dict):
            what = f"--config {path} is of {kind_of(str(values['stage']))}, and has no settings for this"
            raise ConfigError([f"{what}; give that of another artifact, or a TOML or JSON file"])
        values = {stage: values["training"]}
    names = {key: {f.name for f in fields(kind)} for key, kind in SECTIONS.items()}
    tables = {k: v for k, v in values.items() if isinstance(v, dict)}
    common = {k: v for k, v in values.items() if k not in tables}
    problems = [f"--config {path} sets {name}; leave one out" for name in twice]
    problems += [f"--config {path} has the table [{k}]; {_meant_table(k)}" for k in tables if k not in SECTIONS]
    problems += [
        f"--config {path} has {k!r} in [{stage}]; {similar_name(k, names[stage])}"
        for k in tables.get(stage, {})
        if k not in names[stage]
    ]
    problems += [
        f"--config {path} has {k!r}, which no stage knows; {similar_name(k, set().union(*names.values()))}"
        for k in common
        if not any(k in known for known in names.values())
    ]
    given = common | tables.get(stage, {})
    return {k: v for k, v in given.items() if k in names[stage]}, problems


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused where a name is there twice, as TOML refuses it: of two values one would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise ValueError(f"{shown(twice)} is there twice")
    return values


def _meant_table(name: str) -> str:
    """What to do about an unknown table, which may be called as a command."""
    commands = {
        command.split()[0].replace("-", "_"): stage for stage, (_, command) in KINDS.items() if stage in SECTIONS
    }
    return f"did you mean [{commands[name]}]?" if name in commands else f"use {', '.join(SECTIONS)}"


def _underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k.replace("-", "_"): _underscored(v) if isinstance(v, dict) else v for k, v in values.items()}


def _set_twice(values: Mapping[str, Any], place: str = "") -> list[str]:
    """Names that a file has in both spellings, in words, with the table where they stand."""
    both = [name for name in values if "-" in name and name.replace("-", "_") in values]
    twice = [f"{name.replace('-', '_')} and {name}{place}" for name in both]
    tables = ((name, table) for name, table in values.items() if isinstance(table, dict))
    return twice + [pair for name, table in tables for pair in _set_twice(table, f" in [{name}]")]


def resolve(
    stage: str, preset: str | None = None, file: Path | str | None = None, options: Mapping[str, Any] | None = None
) -> Any:
    """The configuration of a stage, of class ``SECTIONS[stage]``, from preset, file and options; later ones win.

    Raises:
        ConfigError: With all problems found.
    """
    if stage not in SECTIONS:
        raise ConfigError([f"the stage is {stage!r}; choose one of {', '.join(SECTIONS)}"])
    problems: list[str] = []
    values, of_file = dict[str, Any](), dict[str, Any]()
    if preset in PRESETS:
        values |= PRESETS[preset].get(stage, {})
    elif preset is not None:
        problems.append(f"--preset is {preset!r}; choose one of {', '.join(PRESETS)}")
    try:
        if file:
            of_file, wrong_names = read_config_file(file, stage)
            problems += wrong_names
    except ConfigError as error:
        problems += error.problems
    try:
        config = SECTIONS[stage].from_dict(values | of_file | dict(options or {}))
    except ConfigError as error:
        from_file = set(_problems(stage, values | of_file)) - set(_problems(stage, values))
        problems += [f"--config {file}: {problem}" if problem in from_file else problem for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    return config


def _problems(stage: str, values: dict[str, Any]) -> list[str]:
    """What is wrong with values of a stage."""
    try:
        SECTIONS[stage].from_dict(values)
    except ConfigError as error:
        return error.problems
    return []
