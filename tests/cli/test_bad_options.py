"""Every option of every command with every kind of bad value; a new option without a case fails here.

``pytest tests/cli/test_bad_options.py -rP`` shows how many values were tried.
"""

import json
from dataclasses import fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from diladiff_cli.cli.command import Command
from diladiff_cli.cli.main import COMMANDS
from diladiff_cli.config import FOR_SPEED
from diladiff_cli.settings import LIST, WORDS, flag, shown

from ..chain import Chain
from ..command_line import Cli, Outcome
from .bad_values import FILE, FREE_TEXT, NEEDED, OWN, bad_texts, check_errors, files, own_cases

CONFIGURED = {c.name: c for c in COMMANDS if c.settings is not None}


def table(command: Command) -> dict[str, tuple[str, ...]]:
    """Field of the configuration -> bad values of its option."""
    assert command.settings is not None
    assert command.stage is not None
    kinds = get_type_hints(command.settings)
    return {f.name: bad_texts(command.stage, f, kinds[f.name]) for f in fields(command.settings)}


def rounds(command: Command) -> list[dict[str, str]]:
    """All bad values, so that each is in one round and a round has at most one of a field."""
    found = []
    for alone in (False, True):  # options of bench --speed do not go with the others
        values = {k: v for k, v in table(command).items() if (command.name == "bench" and k in FOR_SPEED) is alone}
        columns = [[(name, value) for value in some] for name, some in values.items()]
        found += [dict(pair for pair in row if pair is not None) for row in zip_longest(*columns)]
    return found


ROUNDS = [(name, i) for name, command in CONFIGURED.items() for i in range(len(rounds(command)))]
CASES = list(own_cases())


def test_every_option_of_every_command_has_a_bad_value() -> None:
    names = {name: set(command.signature().parameters) for name, command in CONFIGURED.items()}
    covered = {name: set(table(command)) | set(OWN[name]) for name, command in CONFIGURED.items()}
    assert covered == names
    others = {c.name: set(c.signature().parameters) for c in COMMANDS if c.name not in CONFIGURED}
    assert {name: set(OWN[name]) for name in others} == others
    assert all(cases for options in OWN.values() for cases in options.values())
    known = {f"{c.stage}.{f.name}" for c in CONFIGURED.values() for f in fields(c.settings)}  # type: ignore[arg-type]
    assert set(FREE_TEXT) <= known
    tables = [values for command in CONFIGURED.values() for values in table(command).values()]
    switches = sum(not values for values in tables)
    options = sum(map(len, names.values())) + sum(map(len, others.values()))
    print(f"{options} options of {len(COMMANDS)} commands,", end=" ")
    print(f"{sum(map(len, tables)) + switches + len(CASES)} bad values of a single option")


def write_files() -> None:
    Path(FILE).touch()
    Path("empty.txt").write_text(" \n\n")
    Path("folder").mkdir()
    Path("folder", "notes.md").write_text("no text for us")
    Path("bytes.toml").write_bytes(b"\xff\xfe\x00bad")
    Path("deep.json").write_text("[" * 100_000)
    Path("samples.jsonl").write_text('{"text": "the old dog sat by the sea"}\n' * 3)


@pytest.mark.parametrize(("name", "number"), ROUNDS, ids=[f"{name}-{i}" for name, i in ROUNDS])
def test_bad_values_of_many_options_are_all_told_in_one_line_each(cli: Cli, name: str, number: int) -> None:
    values = rounds(CONFIGURED[name])[number]
    speed = ["--speed"] if FOR_SPEED & values.keys() else []
    more = {"encode": ["a.txt"], "eval": ["eval.jsonl"], "bench": speed}.get(name, [])
    lines = check_errors(cli(name, *more, *(f"{flag(k)}={v}" for k, v in values.items())), 2, {})
    for option, value in values.items():
        (line,) = [line for line in lines if line.startswith(f"{flag(option)} ")]
        what, _, remedy = line.partition("; ")
        assert remedy.startswith(("give ", "choose ", "use "))
        if option == "cross_layers" and value.strip():  # names the part of the list
            assert what in {f"--cross-layers has {shown(part)}" for part in value.split(",")}
        else:
            numbers = [kind(value) for kind in (int, float) if is_number(kind, value)]
            what = what.removeprefix(f"{flag(option)} ").removesuffix(" has no usable size").removeprefix("is ")
            assert what in {shown(value), shown(value)[1:-1], *map(shown, numbers)}
    assert len(lines) == len(values)


def is_number(kind: type, value: str) -> bool:
    try:
        kind(value)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", CONFIGURED)
def test_bad_values_of_a_file_are_told_like_those_of_options_with_its_name(cli: Cli, name: str) -> None:
    command = CONFIGURED[name]
    kinds = get_type_hints(command.settings)
    wrong: dict[type, Any] = {bool: "yes", int: "3", float: "0.5", str: True}
    for values in ({n: wrong[kinds[n]] for n in table(command)}, {n: [[1]] for n in table(command)}):
        Path("c.json").write_text(json.dumps({command.stage: values}))
        target = ["eval.jsonl"] if name == "eval" else []
        lines = check_errors(cli(name, *target, "--config", "c.json"), 2, files())
        listed = {f.name for f in fields(command.settings) if f.metadata["listed"]}
        wanted = {n: LIST if n in listed else WORDS[kinds[n]] for n in values}
        assert lines == [f"--config c.json: {flag(n)} is {v!r}; give {wanted[n]}" for n, v in values.items()]


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_switch_takes_no_value(cli: Cli, name: str) -> None:
    for option in (n for n, values in table(CONFIGURED[name]).items() if not values):
        (line,) = check_errors(cli(name, f"{flag(option)}=yes"), 2, {})
        assert line.startswith(f"option '{flag(option)}' does not take a value; see diladiff ")


def arguments(chain: Chain, command: str, name: str, value: str) -> list[str]:
    """A call whose only fault is the value of one option."""
    needed = NEEDED.get(f"{command}.{name}", NEEDED.get(command, "")).format(chain=chain.root).split()
    option = "--config" if name == "config_file" else flag(name)
    if name in ("text", "target", "path", "more"):
        return [command, *needed, value]
    needed = [part for part in needed if part.partition("=")[0] != option]
    if value.startswith("="):
        return [command, *needed, option + value]
    # An empty text must reach the command as a value of its own.
    return [command, *needed, option, value]


@pytest.mark.parametrize(
    ("command", "name", "value", "status", "line"),
    CASES,
    ids=[f"{command}-{name}-{value[:12] or 'empty'}" for command, name, value, *_ in CASES],
)
def test_a_bad_value_of_an_own_option_is_one_line(
    cli: Cli, tiny_chain: Chain, command: str, name: str, value: str, status: int, line: str
) -> None:
    write_files()
    before = files()
    found = cli(*arguments(tiny_chain, command, name, value))
    notes = [text for text in found.errors if not text.startswith("error: ")]
    (problem,) = check_errors(
        Outcome(found.status, found.out, "\n".join(e for e in found.errors if e not in notes)), status, before
    )
    assert line.format(option="--config" if name == "config_file" else flag(name)) in problem
    assert len(notes) <= 1
