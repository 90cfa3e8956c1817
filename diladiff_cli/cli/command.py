"""What makes a plain function a command: options from its configuration, data to stdout, errors made plain."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from diladiff_cli.cli.failures import out_of_memory
from diladiff_cli.cli.options import (
    ConfigFile,
    Preset,
    as_text,
    as_value,
    given_values,
    own_problems,
    parameters,
    with_downloaded,
    with_shipped,
)
from diladiff_cli.cli.output import Result, data_stream, write
from diladiff_cli.config import SECTIONS, resolve
from diladiff_cli.errors import UserError, is_out_of_memory
from diladiff_cli.presets import PRESETS
from diladiff_cli.settings import ConfigError, Settings

INJECTED = ("config", "given", "on_terminal")  # what a body may ask for besides its own options
Check = Callable[..., list[str]]


class PlainHelp:
    """Of a command or a group: its help names values, without Python's types, which some versions of Typer show."""

    def get_params(self, ctx: Any) -> Any:
        """The parameters, told to show no types."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for parameter in params:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None
            elif parameter.name == "help":
                parameter.metavar = ""
        return params


class PlainCommand(PlainHelp, TyperCommand):
    """A command with :class:`PlainHelp`."""


class PlainGroup(PlainHelp, TyperGroup):
    """A group of commands with :class:`PlainHelp`."""


@dataclass(frozen=True)
class Command:
    """A command of the app.

    Attributes:
        name: How it is called.
        body: The function behind it: options as keyword arguments in, data for stdout out. It may ask for ``config``,
            the resolved configuration, ``given``, the settings that were given as options, and ``on_terminal``,
            whether stdout is one.
        stage: The section of presets and configuration files whose fields are options as well; None for none.
        panel: The group of the configuration's own fields in the help.
        examples: Command lines for the help.
        check: What is wrong with the command's own options, one line each, told together with what is wrong with the
            configuration. It gets ``config`` (None where that is wrong), ``given`` and the options as keywords.
        reads: Options that name folders, and the stage of each, None for artifacts of any; they are looked for before
            the body imports what takes seconds.
    """

    name: str
    body: Callable[..., Result]
    stage: str | None
    panel: str
    examples: tuple[str, ...]
    check: Check | None = None
    reads: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def settings(self) -> type[Settings] | None:
        """The configuration; None for none."""
        return None if self.stage is None else SECTIONS[self.stage]

    def add_to(self, app: typer.Typer) -> None:
        """Make it a command of ``app``."""
        epilog = "\n\n".join(["Examples:", *(f"  $ {line}" for line in self.examples)])
        app.command(self.name, cls=PlainCommand, epilog=epilog, help=inspect.getdoc(self.body))(self.callback())

    def own(self) -> dict[str, inspect.Parameter]:
        """The options that are not fields of the configuration: the body's, then --preset and --config."""
        asked = inspect.signature(self.body, eval_str=True).parameters
        keyword = inspect.Parameter.KEYWORD_ONLY
        options = {name: p.replace(kind=keyword) for name, p in asked.items() if name not in INJECTED}
        if any(self.stage in preset for preset in PRESETS.values()):
            options["preset"] = inspect.Parameter("preset", keyword, default=None, annotation=Preset)
        if self.stage is not None:
            options["config_file"] = inspect.Parameter("config_file", keyword, default=None, annotation=ConfigFile)
        return options

    def signature(self) -> inspect.Signature:
        """The command's own options, then one option per field of the configuration; all but switches as text."""
        fields_of = parameters(self.settings, self.panel) if self.settings is not None else []
        return inspect.Signature([*map(as_text, self.own().values()), *fields_of])

    def callback(self) -> Callable[..., None]:
        """The function that Typer calls."""

        def run(**values: Any) -> None:
            values = {name: with_shipped(name, value) for name, value in values.items()}
            config, given = self._configure(values)
            values = {name: with_downloaded(name, value) for name, value in values.items()}
            asked = inspect.signature(self.body).parameters
            own = {name: as_value(p, values[name]) for name, p in self.own().items() if name in asked}
            self._look_for_all(own)
            with data_stream() as stream:
                injected = {"config": config, "given": given, "on_terminal": stream.isatty()}
                try:
                    write(self.body(**own, **{k: v for k, v in injected.items() if k in asked}), stream)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    batch_size = own.get("batch_size") or getattr(config, "batch_size", None)
                    raise out_of_memory(batch_size, getattr(config, "grad_accum", None)) from error

        vars(run)["__signature__"] = self.signature()
        return run

    def _look_for_all(self, own: Mapping[str, Any]) -> None:
        """Refuse, together, all folders that were named and cannot be read."""
        faults = []
        for name, stage in self.reads.items():
            for folder in own[name] if isinstance(own[name], list) else [own[name]]:
                try:
                    _look_for(stage, folder)
                except UserError as error:
                    faults.append(error)
        if faults:
            raise faults[0] if len(faults) == 1 else ExceptionGroup("several folders cannot be read", faults)

    def _configure(self, values: dict[str, Any]) -> tuple[Settings | None, dict[str, Any]]:
        """The configuration, and what of it was given as options.

        Raises:
            ConfigError: With all problems, of the configuration and of the command's own options.
        """
        own = {name: values[name] for name in self.own()}
        problems, given, config = own_problems(self.own(), own), dict[str, Any](), None
        if self.settings is not None and self.stage is not None:
            given = given_values(self.settings, {f.name: values[f.name] for f in fields(self.settings)})
            file = Path(own["config_file"]) if own.get("config_file") else None
            try:
                config = resolve(self.stage, own.get("preset"), file, given)
            except ConfigError as error:
                problems += error.problems
        if self.check is not None:
            problems += self.check(config=config, given=given, **own)
        if problems:
            raise ConfigError(problems)
        return config, given


def command(
    name: str,
    *,
    stage: str | None = None,
    panel: str = "Settings",
    examples: tuple[str, ...],
    check: Check | None = None,
    reads: Mapping[str, str | None] | None = None,
) -> Callable[[Callable[..., Result]], Command]:
    """Decorator: the function becomes the body of a :class:`Command`, its docstring the help."""
    return lambda body: Command(name, body, stage, panel, examples, check, reads or {})


def _look_for(stage: str | None, folder: Path | None) -> None:
    """Refuse a folder that was named and is missing, damaged or of another stage."""
    from diladiff_cli.data.latents import open_latents
    from diladiff_cli.data.tokens import open_tokens
    from diladiff_cli.runtime.artifacts import load_artifact
    from diladiff_cli.runtime.folders import restore

    if folder is None:
        return
    restore(folder)
    if stage == "data":
        open_tokens(folder)
    elif stage == "latents":
        open_latents(folder)
    else:
        load_artifact(folder, stage)
