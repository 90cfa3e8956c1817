"""The command ``bench`` as a user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from ..chain import Chain
from ..command_line import Cli

POINTS = ("--decode-steps", "2,4", "--steps", "1", "--seeds", "0", "--n", "4", "--scorer", "none")


def reports(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.parametrize(
    "form",
    [
        ["--model", "{student}", "--against", "{mdlm}", "{prior}"],
        ["--model", "{student}", "--against", "{mdlm}", "--against", "{prior}"],
        ["{student}", "{mdlm}", "{prior}"],
        ["--model", "{student}", "{mdlm}", "--against", "{prior}"],
    ],
)
def test_bench_writes_lines_a_table_and_pictures(cli: Cli, tiny_chain: Chain, tmp_path: Path, form: list[str]) -> None:
    paths = {"student": tiny_chain.student, "mdlm": tiny_chain.mdlm, "prior": tiny_chain.prior}
    found = cli("bench", *(part.format(**paths) for part in form), *POINTS, "--prior-steps", "2")
    assert found.status == 0, found.err
    lines = reports(found.out)
    models = [str(p) for p in (tiny_chain.student, tiny_chain.mdlm, tiny_chain.prior)]
    order = [r["model"] for r in lines[::2]]
    assert (order[0], sorted(order)) == (models[0], sorted(models))
    assert [(r["model"], r["decode_steps"]) for r in lines] == [(m, n) for m in order for n in (2, 4)]
    assert "quality and speed" in found.err
    assert (tmp_path / "bench" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    picture = (tmp_path / "bench" / "frontier.svg").read_text()
    assert "tokens per second" in picture
    assert tiny_chain.mdlm.name in picture


@pytest.mark.slow
def test_bench_takes_up_what_a_killed_one_left(warm_shell: Cli, tiny_chain: Chain, tmp_path: Path) -> None:
    arguments = ("bench", "--model", str(tiny_chain.student), *POINTS)
    first = warm_shell(*arguments)
    points = sorted((tmp_path / "bench" / "points").iterdir())
    for path in points[1:]:
        path.unlink()
    second = warm_shell(*arguments)
    assert (first.status, second.status) == (0, 0), first.err + second.err
    assert sorted((tmp_path / "bench" / "points").iterdir()) == points
    figures = [[r["figures"] for r in reports(run.out)] for run in (first, second)]
    assert figures[0]
    assert figures[0] == figures[1]


def test_speed_is_told_for_each_setting(cli: Cli) -> None:
    small = ("--vocab-sizes", "40", "--lengths", "8", "--batch-sizes", "2", "--width", "8", "--layers", "1")
    found = cli("bench", "--speed", *small, "--seconds", "0.05", "--decode-steps", "4", "--precision", "fp32")
    assert found.status == 0, found.err
    lines = reports(found.out)
    assert [(r["decode_steps"], r["top_p"]) for r in lines if r["kind"] == "sampling"] == [(4, 1.0), (4, 0.9)]
    trained = [r["stage"] for r in lines if r["kind"] == "training"]
    assert trained == ["train-mdlm", "train-ae", "train-prior", "distill"]
    assert "over textbook" in found.err
