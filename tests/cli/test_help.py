import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diladiff_cli
from diladiff_cli.cli.command import Command
from diladiff_cli.cli.main import COMMANDS
from diladiff_cli.settings import flag

from ..chain import Chain
from ..command_line import ROOT, Cli, environment

PIPELINE = [
    "encode",
    "train-mdlm",
    "train-ae",
    "train-prior",
    "distill",
    "sample",
    "eval",
    "bench",
    "plot",
    "info",
    "export",
]
NEEDED = {"base", "ae", "prior"}  # of the folders that commands read
HEAVY = ("torch", "transformers", "datasets", "accelerate", "numpy", "safetensors", "huggingface_hub")


def test_help_lists_the_commands_in_the_order_of_the_pipeline(cli: Cli) -> None:
    found = cli("--help")
    assert found.status == 0
    assert found.err == ""
    assert re.findall(r"^│ ([a-z][a-z-]+)  ", found.out, re.MULTILINE) == PIPELINE


def test_version_is_that_of_the_package(cli: Cli) -> None:
    found = cli("--version")
    assert (found.status, found.out, found.err) == (0, f"diladiff {diladiff_cli.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_describes_it_and_shows_examples(cli: Cli, command: Command) -> None:
    found = cli(command.name, "--help")
    assert found.status == 0
    assert found.err == ""
    assert (command.body.__doc__ or "").splitlines()[0] in found.out
    assert all(f"$ {example}" in found.out for example in command.examples)


def test_help_and_version_import_nothing_heavy() -> None:
    code = f"""
import sys
from diladiff_cli.cli.main import run
for arguments in (["--help"], ["--version"], *([name, "--help"] for name in {PIPELINE})):
    assert run(arguments) == 0
print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True, timeout=600
    )
    assert done.stdout.splitlines()[-1] == "loaded: []"


def test_a_missing_folder_is_told_before_torch_is_loaded(tiny_chain: Chain, tmp_path: Path) -> None:
    commands = []
    for command in COMMANDS:
        for name in command.reads:
            folders = {o: getattr(tiny_chain, str(s)) for o, s in command.reads.items() if o in NEEDED} | {name: "gone"}
            line = [part for option, folder in folders.items() for part in (flag(option), str(folder))]
            commands.append([command.name, *(part for part in line if part != "--more")])
    code = f"""
import sys
from diladiff_cli.cli.main import run
print([run(arguments) for arguments in {commands}])
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), cwd=tmp_path, timeout=600
    )
    assert len(commands) >= 17
    assert done.stderr.count("error: there is no folder gone; give ") == len(commands), done.stderr
    assert done.stdout.splitlines() == [str([1] * len(commands)), "False"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_examples_name_existing_commands_and_options(command: Command) -> None:
    known = {"preset", "config"} | set(command.signature().parameters)
    own = [part for example in command.examples for part in example.split(" | ") if f"diladiff {command.name}" in part]
    own += [part for example in command.examples for part in example.split(" | ") if f"cli {command.name}" in part]
    assert own
    for part in own:
        assert {option for option in re.findall(r"--[a-z-]+", part) if option not in map(flag, known)} == set()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_a_narrow_terminal_shows_whole_options_and_examples(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli(command.name, "--help").out
    assert re.findall(r"--\S*…", shown) == []
    assert all(f"$ {example} " in shown for example in command.examples)


def test_console_script_is_the_main_function(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr("diladiff_cli.cli.main.main", lambda: called.append("main"))
    script = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["diladiff"]
    module, _, name = script.partition(":")
    getattr(importlib.import_module(module), name)()
    assert called == ["main"]


@pytest.mark.parametrize("asked", [["--help"], ["sample", "--help"], ["--version"]])
def test_help_and_version_end_quietly_where_their_reader_has_had_enough(asked: list[str]) -> None:
    command = [sys.executable, "-m", "diladiff_cli", *asked]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 0)
