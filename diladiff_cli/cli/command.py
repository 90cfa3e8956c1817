"""What makes a plain function a command: options from its configuration, data to stdout, errors made plain."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import typer

from diladiff_cli.cli.failures import out_of_memory
from diladiff_cli.cli.options import ConfigFile, Preset, given_values, parameters
from diladiff_cli.cli.output import Result, data_stream, write
from diladiff_cli.config import STAGES, resolve
from diladiff_cli.errors import is_out_of_memory
from diladiff_cli.settings import Settings

INJECTED = ("config", "given", "on_terminal")  # what a body may ask for besides its own options


@dataclass(frozen=True)
class Command:
    """A command of the app.

    Attributes:
        name: How it is called.
        body: The function behind it: options as keyword arguments in, data for stdout out. It may ask for ``config``,
            the resolved configuration, ``given``, the settings that were given as options, and ``on_terminal``,
            whether stdout is one.
        settings: The configuration whose fields are options as well; None for none.
        stage: Its name in presets and configuration files; None where neither has a place for it.
        panel: The group of the configuration's own fields in the help.
        examples: Command lines for the help.
    """

    name: str
    body: Callable[..., Result]
    settings: type[Settings] | None
    stage: str | None
    panel: str
    examples: tuple[str, ...]

    def add_to(self, app: typer.Typer) -> None:
        """Make it a command of ``app``."""
        epilog = "\n\n".join(["Examples:", *(f"  $ {line}" for line in self.examples)])
        app.command(self.name, epilog=epilog, help=inspect.getdoc(self.body))(self.callback())

    def signature(self) -> inspect.Signature:
        """The command's own options, then --preset and --config, then one option per field of the configuration."""
        asked = inspect.signature(self.body, eval_str=True).parameters
        found = [p.replace(kind=p.KEYWORD_ONLY) for name, p in asked.items() if name not in INJECTED]
        if self.stage is not None:
            keyword = inspect.Parameter.KEYWORD_ONLY
            found.append(inspect.Parameter("preset", keyword, default=None, annotation=Preset))
            found.append(inspect.Parameter("config_file", keyword, default=None, annotation=ConfigFile))
        if self.settings is not None:
            found += parameters(self.settings, self.panel)
        return inspect.Signature(found)

    def callback(self) -> Callable[..., None]:
        """The function that Typer calls."""

        def run(**values: Any) -> None:
            config, given = self._configure(values)
            asked = inspect.signature(self.body).parameters
            with data_stream() as stream:
                injected = {"config": config, "given": given, "on_terminal": stream.isatty()}
                try:
                    write(self.body(**values, **{k: v for k, v in injected.items() if k in asked}), stream)
                except Exception as error:
                    if not is_out_of_memory(error):
                        raise
                    batch_size = values.get("batch_size") or getattr(config, "batch_size", None)
                    raise out_of_memory(batch_size, getattr(config, "grad_accum", None)) from error

        vars(run)["__signature__"] = self.signature()
        return run

    def _configure(self, values: dict[str, Any]) -> tuple[Settings | None, dict[str, Any]]:
        """Take the configuration's options out of ``values``; returns the configuration and what was given of it."""
        if self.settings is None:
            return None, {}
        given = given_values(self.settings, {f.name: values.pop(f.name) for f in fields(self.settings)})
        if self.stage is None:
            return self.settings.from_dict(given), given
        return resolve(self.stage, values.pop("preset"), values.pop("config_file"), given), given


def command(
    name: str,
    *,
    stage: str | None = None,
    settings: type[Settings] | None = None,
    panel: str = "Settings",
    examples: tuple[str, ...],
) -> Callable[[Callable[..., Result]], Command]:
    """Decorator: the function becomes the body of a :class:`Command`, its docstring the help."""
    kind = STAGES[stage] if stage is not None else settings
    return lambda body: Command(name, body, kind, stage, panel, examples)
