import inspect
import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
import typer

from diladiff_cli.cli.command import Command, command
from diladiff_cli.cli.failures import WRONG_USAGE
from diladiff_cli.cli.main import COMMANDS
from diladiff_cli.cli.options import given_values, parameters
from diladiff_cli.config import SECTIONS
from diladiff_cli.settings import ConfigError, Settings, flag, option

from ..command_line import Cli

CONFIGURED = [c for c in COMMANDS if c.settings is not None]


def paint() -> type[Settings]:
    """A configuration with one field of each kind."""

    @dataclass(frozen=True, kw_only=True)
    class Painting(Settings):
        coats: int = option(2, "How many [layers].", low=1)
        gloss: float = option(0.25, "How shiny.", low=0, high=1)
        colour: str = option("red", "Which colour.", choices=("red", "blue"))
        wash_first: bool = option(True, "Whether to wash.")

    return Painting


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command ``paint``, of a stage of that name, is called with."""
    monkeypatch.setitem(SECTIONS, "paint", paint())
    return []


def painter(seen: list[Any]) -> typer.Typer:
    """An app with one command that notes its configuration."""

    def body(config: Settings) -> None:
        """Paint."""
        seen.append(config)

    app = typer.Typer(add_completion=False)
    app.callback()(lambda: None)
    command("paint", stage="paint", panel="Paint", examples=("paint",))(body).add_to(app)
    return app


def invoke(app: typer.Typer, *arguments: str) -> None:
    group = typer.main.get_command(app)
    with group.make_context("app", list(arguments)) as context:
        group.invoke(context)


@pytest.mark.parametrize("name", [None, *(found.name for found in COMMANDS)])
def test_help_shows_no_types_of_python(cli: Cli, name: str | None) -> None:
    shown = cli(*([name] if name else []), "--help").out
    assert "Show this message and exit" in shown
    assert not re.search(r"<(bool|str|list|path|int|float)", shown)


@pytest.mark.parametrize("found", CONFIGURED, ids=lambda found: found.name)
def test_every_field_of_a_configuration_is_an_option_with_help_and_default(cli: Cli, found: Command) -> None:
    assert found.settings is not None
    text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", cli(found.name, "--help").out).split())
    for field in fields(found.settings):
        assert field.name in found.signature().parameters
        assert re.search(rf"{flag(field.name)}\b", text), field.name
        default = field.default
        shown = flag(field.name if default else f"no_{field.name}") if isinstance(default, bool) else default
        shown = f"{shown:g}" if isinstance(shown, float) else str(shown)
        assert f"[default: {shown or 'empty'}" in text, field.name


def test_every_stage_has_a_command() -> None:
    assert {c.stage for c in COMMANDS if c.stage is not None} == set(SECTIONS)


def test_a_new_field_needs_no_change_of_the_command_line() -> None:
    found = {p.name: p for p in parameters(paint(), "Paint")}
    assert list(found) == ["coats", "gloss", "colour", "wash_first"]
    assert all(p.default is None and p.kind is inspect.Parameter.KEYWORD_ONLY for p in found.values())
    texts = {name: p.annotation.__metadata__[0].help for name, p in found.items()}
    assert texts == {
        "coats": r"How many \[layers]. \[default: 2; x >= 1]",
        "gloss": r"How shiny. \[default: 0.25; 0 <= x <= 1]",
        "colour": r"Which colour. \[default: red; one of red, blue]",
        "wash_first": r"Whether to wash. \[default: --wash-first]",
    }


def test_options_reach_the_configuration_with_their_types(seen: list[Any]) -> None:
    invoke(painter(seen), "paint", "--coats", "3", "--gloss", "1", "--colour", "blue", "--no-wash-first")
    assert seen[0].to_dict() == {"coats": 3, "gloss": 1.0, "colour": "blue", "wash_first": False}


def test_options_that_are_not_given_keep_their_defaults(seen: list[Any]) -> None:
    invoke(painter(seen), "paint")
    assert seen[0].to_dict() == {"coats": 2, "gloss": 0.25, "colour": "red", "wash_first": True}


def test_all_bad_values_are_reported_together(seen: list[Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        invoke(painter(seen), "paint", "--coats", "many", "--gloss", "-2", "--colour", "green")
    assert caught.value.problems == [
        "--coats is 'many'; give a whole number",
        "--gloss is -2.0; give at least 0",
        "--colour is 'green'; choose one of red, blue",
    ]


def test_only_given_options_count() -> None:
    assert given_values(paint(), {"coats": "3", "gloss": None, "wash_first": False}) == {
        "coats": 3,
        "wash_first": False,
    }


def resolved(cli: Cli, *arguments: str | Path) -> dict[str, Any]:
    """The resolved settings of encode, from its plan."""
    Path("text.txt").write_text("some text\n")
    found = cli("encode", "text.txt", "--dry-run", *arguments)
    assert found.status == 0, found.err
    settings: dict[str, Any] = json.loads(found.out)["settings"]
    return settings


def test_options_beat_the_file_which_beats_the_preset_which_beats_the_default(cli: Cli) -> None:
    def lengths(*arguments: str) -> tuple[int, str, float]:
        settings = resolved(cli, *arguments)
        return settings["length"], settings["tokenizer"], settings["valid_share"]

    assert lengths() == (256, "train:8192", 0.02)
    assert lengths("--preset", "demo") == (64, "train:4096", 0.02)
    Path("c.toml").write_text("seed = 3\n[data]\nlength = 32\nvalid_share = 0.1\n[mdlm]\nwidth = 8\n")
    assert lengths("--preset", "demo", "--config", "c.toml") == (32, "train:4096", 0.1)
    assert lengths("--preset", "demo", "--config", "c.toml", "--length", "16") == (16, "train:4096", 0.1)
    assert resolved(cli, "--config", "c.toml")["seed"] == 3


def test_an_option_equal_to_the_default_still_beats_the_preset(cli: Cli) -> None:
    assert resolved(cli, "--preset", "demo", "--length", "256")["length"] == 256


def test_a_json_file_serves_as_well_as_a_toml_file(cli: Cli) -> None:
    Path("c.json").write_text('{"data": {"length": 48}}')
    assert resolved(cli, "--config", "c.json")["length"] == 48


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("width = ", ["error: --config c.toml cannot be read"]),
        ("[mdml]\nwidth = 3", ["error: --config c.toml has the table [mdml]; use data, mdlm"]),
        ("widht = 3", ["error: --config c.toml has 'widht', which no stage knows; did you mean width?"]),
        ("[mdlm]\nwidht = 3", ["error: --config c.toml has 'widht' in [mdlm]; did you mean width?"]),
        (
            "[mdlm]\nwidth = '3'\nlayers = 0",
            ["error: --config c.toml: --width is '3'; give", "error: --config c.toml: --layers is 0; give at least 1"],
        ),
    ],
)
def test_a_bad_configuration_file_is_wrong_usage(cli: Cli, content: str, lines: list[str]) -> None:
    Path("c.toml").write_text(content)
    found = cli("train-mdlm", "--config", "c.toml")
    assert found.status == WRONG_USAGE
    assert len(found.errors) == len(lines)
    assert all(error.startswith(line) for error, line in zip(found.errors, lines, strict=True))
