"""The points of ``bench``, and the names under which they are kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import BenchConfig, EncodeConfig, SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.kept import Bench, bench_plan
from diladiff_cli.stages.bench.points import Point, plan_points
from diladiff_cli.stages.encode import encode_text
from diladiff_cli.stages.sampling.sampler import content_of, load_sampler

from ...chain import LENGTH, Chain, write_text
from ...scorer import give_scorer

SETTINGS: dict[str, Any] = {"decode_steps": "2,4", "steps": "1", "seeds": "0,5", "n": 4, "scorer": "none"}


def test_a_plan_tells_what_is_left_to_do_and_does_nothing(tiny_chain: Chain, tmp_path: Path) -> None:
    models, out = [tiny_chain.student, tiny_chain.mdlm], tmp_path / "bench"
    config = BenchConfig(**SETTINGS)

    def left() -> list[tuple[str, int | None, int, list[int], list[int]]]:
        points = bench_plan(config, models, out)["points"]
        return [(p["stage"], p["steps"], p["decode_steps"], p["to_draw"], p["to_score"]) for p in points]

    everything = [0, 5]
    wanted = [
        (stage, steps, n, everything, everything) for stage, steps in (("student", 1), ("mdlm", None)) for n in (2, 4)
    ]
    assert left() == wanted
    assert not out.exists()
    first = BenchConfig(**SETTINGS | {"seeds": "5", "decode_steps": "4"})
    list(bench_frontier(first, models[:1], out))
    wanted[1] = ("student", 1, 4, [0], everything)  # figures without a scorer are not kept
    assert left() == wanted


def test_a_scorer_that_is_gone_is_told_before_the_work_where_figures_are_missing(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scorer, out = tmp_path / "scorer", tmp_path / "bench"
    give_scorer(monkeypatch)
    scorer.mkdir()
    kept = BenchConfig(**SETTINGS | {"scorer": str(scorer), "decode_steps": "2"})
    list(bench_frontier(kept, [tiny_chain.mdlm], out))
    scorer.rmdir()
    (point,) = bench_plan(kept, [tiny_chain.mdlm], out)["points"]
    assert (point["to_draw"], point["to_score"], point["to_pool"]) == ([], [], False)
    capsys.readouterr()
    for settings in (replace(kept, decode_steps="2,4"), replace(kept, seeds="5,0")):  # of which no MAUVE is kept
        for call in (bench_plan, lambda *given: list(bench_frontier(*given))):
            with pytest.raises(UserError, match=f"there is no scorer {scorer}"):
                call(settings, [tiny_chain.mdlm], out)
    assert "point" not in capsys.readouterr().err


def test_a_scorer_that_cannot_be_loaded_is_told_before_anything_is_drawn(tiny_chain: Chain, tmp_path: Path) -> None:
    (tmp_path / "scorer").mkdir()
    settings = BenchConfig(**SETTINGS | {"scorer": str(tmp_path / "scorer")})
    with pytest.raises(UserError, match="the scorer scorer cannot be loaded"):
        list(bench_frontier(settings, [tiny_chain.mdlm], tmp_path / "bench"))
    assert list((tmp_path / "bench" / "points").iterdir()) == []


@pytest.mark.parametrize(("order", "steps"), [("confidence", [4, 8, 16]), ("threshold", [16]), ("entropy", [16])])
def test_orders_that_end_by_themselves_have_one_number_of_steps(
    tiny_chain: Chain, tmp_path: Path, order: str, steps: list[int]
) -> None:
    points = bench_plan(BenchConfig(order=order), [tiny_chain.mdlm], tmp_path)["points"]
    assert [p["decode_steps"] for p in points] == steps


def test_the_default_steps_are_powers_of_two_up_to_the_length(tiny_chain: Chain, tmp_path: Path) -> None:
    points = bench_plan(BenchConfig(), [tiny_chain.mdlm], tmp_path)["points"]
    assert [p["decode_steps"] for p in points] == [4, 8, 16]


def test_a_plan_tells_factors_on_latents_apart(tiny_chain: Chain, tmp_path: Path) -> None:
    config = BenchConfig(**SETTINGS | {"decode_steps": "4", "latent_scale": "1,0.5"})
    points = bench_plan(config, [str(tiny_chain.student)], str(tmp_path))["points"]
    assert [p["latent_scale"] for p in points] == [None, 0.5]
    titles = [p.title for p in plan_points(config, [tiny_chain.student], None).points]
    assert [", latents times 0.5, 4 decoding steps" in title for title in titles] == [False, True]


def test_one_temperature_is_told_where_it_allows_no_comparison(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = "with one temperature nothing is compared at equal entropy"
    straight = "with two temperatures comparisons at equal entropy follow a straight line"
    both = ["student", "mdlm"]
    cases = [(both, "1.0", none), (both, "1.0,0.5", straight), (both, "1.0,0.8,0.5", None), (["mdlm"], "1.0", None)]
    cases.append((["student", "prior"], "1.0", none))
    for stages, temperatures, told in cases:
        models = [getattr(tiny_chain, stage) for stage in stages]
        bench_plan(BenchConfig(**SETTINGS | {"temperatures": temperatures}), models, tmp_path)
        said = capsys.readouterr().err
        assert [note for note in (none, straight) if note in said] == ([] if told is None else [told])


def test_bounds_that_do_nothing_give_the_same_point() -> None:
    point = Point("m", "mdlm", ("hash",), SampleConfig(decode_steps=4))

    def other(**changes: Any) -> str:
        return replace(point, settings=replace(point.settings, **changes)).key(0)

    assert other(threshold=0.1, entropy_bound=3.0) == point.key(0)
    assert other(order="threshold", threshold=0.1) != other(order="threshold", threshold=0.2) != point.key(0)


def test_another_tokenizer_gives_another_point(chain_copy: Chain) -> None:
    sampler = load_sampler(chain_copy.mdlm)
    before = content_of(sampler)
    file = chain_copy.mdlm / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert content_of(sampler) != before


@pytest.mark.parametrize("compiled", [False, True])
def test_blocks_are_compiled_on_demand(tiny_chain: Chain, compiled: bool) -> None:
    (point, *_) = plan_points(BenchConfig(**SETTINGS, compile=compiled), [tiny_chain.mdlm], None).points
    assert point.settings.compile is compiled


@pytest.mark.parametrize(
    "other", [{"latent_until": 0.5}, {"latent_scale": 0.5}, {"compile": True}, {"top_p": 1.0}, {"gamma": 0.1}]
)
def test_every_setting_gives_another_point(other: dict[str, Any]) -> None:
    point = Point("m", "student", ("hash",), SampleConfig(steps=2, decode_steps=4))
    assert point.key(0) != replace(point, settings=replace(point.settings, **other)).key(0)


def test_figures_beside_another_text_have_files_of_their_own(chain_copy: Chain, tmp_path: Path) -> None:
    write_text(tmp_path / "other.txt", seed=5)
    settings = EncodeConfig(tokenizer=str(chain_copy.data), length=LENGTH, valid_share=0.3)
    encode_text(settings, text=tmp_path / "other.txt", out=tmp_path / "other")
    config = BenchConfig(decode_steps="2", seeds="0,1", n=4, scorer="none")
    files = []
    for data in (None, chain_copy.data, tmp_path / "other"):
        bench = Bench.planned(config, chain_copy.mdlm, tmp_path / "bench", data)
        (point,) = bench.plan.points
        files.append((bench.kept(point, 0), bench.pooled(point)))
    assert len({kept.samples for kept, _ in files}) == len({kept.speed for kept, _ in files}) == 1
    assert len({kept.figures for kept, _ in files}) == len({pooled for _, pooled in files}) == 3
