"""Imports go downward only, nothing heavy is imported at start-up, and the oldest versions are those allowed."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import diladiff_cli

PACKAGE = Path(diladiff_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MAPS = sorted({*PACKAGE.glob("*/**/__init__.py")} - {PACKAGE / "cli/__init__.py", PACKAGE / "config/__init__.py"})
TESTS = Path(__file__).parent
LONGEST_FILE = 300
HEAVY = {
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "safetensors",
    "tokenizers",
    "scipy",
    "numpy",
    "mauve",
    "matplotlib",
}

# What each layer may import besides itself.
LEAVES = {"errors", "hub", "settings", "presets", "config", "integrity", "tokenizer_files", "notes", "shipped"}
BELOW_STAGES = {"runtime", "data", "networks", "metrics"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "integrity": {"errors"},
    "tokenizer_files": {"errors", "integrity"},
    "hub": set(),
    "notes": set(),
    "shipped": set(),
    "settings": set(),
    "presets": set(),
    "config": {"settings", "presets", "errors"},
    "core": set(),
    "downloads": {"errors"},
    **{layer: {"core", "downloads", *LEAVES} - {"presets"} for layer in BELOW_STAGES},
    "stages": {"core", "downloads", *BELOW_STAGES, *LEAVES},
    "model": {"stages", "core", *BELOW_STAGES, *LEAVES},
    "cli": {"model", "stages", "core", *BELOW_STAGES, *LEAVES},
    "__main__": {"cli", "notes"},
    "__init__": {"model"},
}
LAZY_NAMES = {"Model": "model", "load": "model"}  # attributes of the package that live in a module


def layer_of(path: Path) -> str:
    """The first folder inside the package, or the name of a module at its top."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(source: str, package: str) -> Iterator[str]:
    """Full names of all that ``source`` imports, wherever in the file, relative to ``package``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def layers_imported(source: str, package: str) -> set[str]:
    """The layers that ``source`` imports; the package's own version is free for all."""
    names = [name.split(".") for name in imported(source, package)]
    found = {name[1] if len(name) > 1 else "__init__" for name in names if name[0] == "diladiff_cli"}
    return {LAZY_NAMES.get(layer, layer) for layer in found} - {"__version__"}


def package_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).parent.parts)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downward_only(path: Path) -> None:
    layer = layer_of(path)
    found = layers_imported(path.read_text(), package_of(path))
    assert found <= MAY_IMPORT[layer] | {layer}, f"{layer} may not import {found - MAY_IMPORT[layer] - {layer}}"


@pytest.mark.parametrize(
    ("source", "package", "layers"),
    [
        ("def f():\n    from diladiff_cli.stages.distill import distill", "diladiff_cli.core", {"stages"}),
        ("if TYPE_CHECKING:\n    import diladiff_cli.networks.latent as latent", "diladiff_cli.core", {"networks"}),
        ("from diladiff_cli import config, __version__", "diladiff_cli.cli", {"config"}),
        ("from diladiff_cli import load", "diladiff_cli.runtime", {"model"}),
        ("import diladiff_cli", "diladiff_cli.runtime", {"__init__"}),
        ("from ..stages import common", "diladiff_cli.data", {"stages"}),
        ("from .. import stages", "diladiff_cli.data", {"stages"}),
        ("from . import shards", "diladiff_cli.data", {"data"}),
        ("import torch\nfrom pathlib import Path", "diladiff_cli.core", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, package: str, layers: set[str]) -> None:
    assert layers_imported(source, package) == layers


def test_every_module_belongs_to_a_layer() -> None:
    assert {layer_of(path) for path in FILES} <= set(MAY_IMPORT)
    assert {"core", "stages", "cli", *BELOW_STAGES, *LEAVES} <= {layer_of(path) for path in FILES}


def test_core_needs_only_torch_and_the_standard_library() -> None:
    allowed = {"torch", "diladiff_cli", *sys.stdlib_module_names}
    for path in (PACKAGE / "core").glob("*.py"):
        roots = {name.split(".")[0] for name in imported(path.read_text(), package_of(path))}
        assert roots <= allowed, f"{path.name} imports {roots - allowed}"


LEAF_FILES = [path for path in FILES if layer_of(path) in LEAVES]


@pytest.mark.parametrize("path", LEAF_FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_settings_need_only_the_standard_library(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path.read_text(), package_of(path))}
    assert roots <= {"diladiff_cli", *sys.stdlib_module_names}


@pytest.mark.parametrize("module", ["diladiff_cli", "diladiff_cli.config", "diladiff_cli.cli.main"])
def test_nothing_heavy_is_imported_at_start_up(module: str) -> None:
    command = [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert module in loaded.stdout.split()
    assert not HEAVY & {name.split(".")[0] for name in loaded.stdout.split()}


def test_training_starts_without_integrators() -> None:
    command = [sys.executable, "-c", "import sys, diladiff_cli.stages.train_prior; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent).stdout.split()
    assert "torch" in loaded
    assert "scipy.integrate" not in loaded


@pytest.mark.parametrize("path", MAPS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_map_of_a_package_names_all_that_is_in_it(path: Path) -> None:
    told = set(re.findall(r"``(\w+)``", ast.get_docstring(ast.parse(path.read_text())) or ""))
    modules = {inside.stem for inside in path.parent.glob("*.py")} - {"__init__"}
    packages = {inside.parent.name for inside in path.parent.glob("*/__init__.py")}
    assert (modules | packages) - told == set()
    assert told - modules - packages <= {"eval", "bench", "encode"}  # commands


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in [*FILES, *TESTS.rglob("*.py")]}
    assert {str(path): n for path, n in lengths.items() if n > LONGEST_FILE} == {}


def test_the_oldest_versions_to_test_with_are_those_that_are_allowed() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    lines = (TESTS.parent / "constraints-oldest.txt").read_text().splitlines()
    assert lines[1:] == [need.replace(">=", "==") for need in project["dependencies"]]
