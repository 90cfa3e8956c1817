"""The tables of the docs are what the stored figures give."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .chain import Chain
from .command_line import ROOT, environment

DOCS = ROOT / "docs"


def build(docs: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(docs / "build.py"), *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)


def test_the_pages_are_what_the_evidence_gives() -> None:
    done = build(DOCS, "--check")
    assert (done.returncode, done.stdout) == (0, "out of date: nothing\n"), done.stderr


def test_a_page_that_differs_from_the_evidence_is_named_and_mended(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    shutil.copytree(DOCS, docs)
    for name in ("README.md", "diladiff_cli/assets/model/README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    page = docs / "samples.md"
    was = page.read_text()
    page.write_text(was.replace("\n1. ", "\n1. Changed: "))
    done = build(docs, "--check")
    assert (done.returncode, done.stdout) == (1, "out of date: samples.md\n"), done.stderr
    assert page.read_text() != was
    assert build(docs).returncode == 0
    assert page.read_text() == was


def test_every_table_is_on_a_page() -> None:
    found = subprocess.run(
        [sys.executable, "-c", "from tables import TABLES; print(*TABLES)"],
        env=environment(),
        cwd=DOCS,
        capture_output=True,
        text=True,
        check=True,
    )
    pages = "".join(path.read_text() for path in (ROOT / "README.md", *DOCS.glob("*.md")))
    assert [name for name in found.stdout.split() if f"<!-- table: {name} -->" not in pages] == []


def anchors(page: Path) -> set[str]:
    """Of the headings of a page, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_lead_to_files_and_headings_that_are_there() -> None:
    pages = [ROOT / "README.md", *DOCS.glob("*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    own = [(page, *link.partition("#")[::2]) for page, link in links if "://" not in link]
    assert len(own) > 20
    targets = [(page, page.parent / path if path else page, anchor) for page, path, anchor in own]
    assert [(page.name, str(target)) for page, target, _ in targets if not target.exists()] == []
    assert [(page.name, anchor) for page, target, anchor in targets if anchor and anchor not in anchors(target)] == []


def test_the_picture_has_latents_only_where_they_are_made_smaller() -> None:
    code = """
from build import is_shown
point = {"steps": 2, "latent_until": None, "order": "random", "temperature": 0.85, "stage": "student", "seeds": [0, 1]}
cases = [{"latent_scale": 0.6}, {"latent_scale": None}, {"latent_scale": 0.6, "temperature": 0.7}, {"stage": "mdlm"}]
print([is_shown(point | case) for case in [*cases, {"stage": "mdlm", "seeds": [0]}]])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), cwd=DOCS, capture_output=True, text=True, check=True)
    assert done.stdout == "[True, False, False, True, False]\n"


@pytest.mark.slow
def test_the_page_on_python_runs_as_it_stands(tiny_chain: Chain, tmp_path: Path) -> None:
    parts = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    assert len(parts) == 3
    code = "".join(parts).replace('"max_steps": 300', '"max_steps": 2, "eval_batches": 1, "batch_size": 4')
    assert code.count('"max_steps": 2,') == 1
    code = code.replace('"valid_share": 0.2', '"valid_share": 0.2, "length": 16')
    assert code.count('"length": 16') == 1
    (tmp_path / "my_texts").mkdir()
    for number in range(20):  # enough that some documents are held out
        shutil.copy(tiny_chain.text, tmp_path / "my_texts" / f"{number}.txt")
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 ")
