"""``bench`` from Python: points, what is kept of them, and the comparison at equal entropy."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import BenchConfig, SampleConfig
from diladiff_cli.errors import UserError
from diladiff_cli.settings import ConfigError
from diladiff_cli.stages.bench import frontier as module
from diladiff_cli.stages.bench.frontier import bench_frontier
from diladiff_cli.stages.bench.tables import frontier_table
from diladiff_cli.stages.export import export
from diladiff_cli.stages.sampling.sample import generate
from diladiff_cli.stages.sampling.sampler import load_sampler

from ...chain import Chain

Report = dict[str, Any]
SETTINGS: dict[str, Any] = {
    "decode_steps": "2,4",
    "steps": "1,2",
    "prior_steps": "3",
    "seeds": "0,5",
    "n": 4,
    "scorer": "none",
    "precision": "fp32",
}


def bench(chain: Chain, out: Path, *stages: str, **settings: Any) -> list[Report]:
    models = [getattr(chain, stage) for stage in stages or ("student",)]
    return list(bench_frontier(BenchConfig(**SETTINGS | settings), models, out))


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, float, int]]:
    """What is drawn anew: latent steps, decoding steps, temperature and seed."""
    asked: list[tuple[int, int, float, int]] = []
    draw = module._draw

    def watched(sampler: Any, settings: SampleConfig) -> Any:
        asked.append((settings.steps, settings.decode_steps, settings.temperature, settings.seed))
        return draw(sampler, settings)

    monkeypatch.setattr(module, "_draw", watched)
    return asked


def test_a_point_for_every_model_number_of_steps_and_temperature(tiny_chain: Chain, tmp_path: Path) -> None:
    reports = bench(tiny_chain, tmp_path, "student", "mdlm", "prior", temperatures="1.0,0.5")
    found = {(r["stage"], r["steps"], r["decode_steps"], r["temperature"]) for r in reports}
    lines = [("student", 1), ("student", 2), ("mdlm", None), ("prior", 3)]
    assert found == {(stage, m, n, t) for stage, m in lines for n in (2, 4) for t in (1.0, 0.5)}
    assert len(reports) == len(found)
    assert frontier_table(reports).row_count == len(reports) + 1  # and the reference


def test_the_table_tells_what_all_points_share(tiny_chain: Chain, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"decode_steps": "4", "steps": "2", "seeds": "0"}
    reports = bench(tiny_chain, tmp_path, "mdlm", "student", latent_until=0.5, gamma=0.0, **settings)
    assert [r["latent_until"] for r in reports] == [None, 0.5]
    shared = "4 texts, 1 seed, nucleus 0.9, 2 texts from each latent, gamma 0, latent until 0.5, fp32"
    assert frontier_table(reports).caption == shared


def test_guidance_is_of_priors_alone(tiny_chain: Chain, tmp_path: Path, drawn: list[Any]) -> None:
    settings: dict[str, Any] = {"decode_steps": "4", "steps": "2", "seeds": "0", "n": 32}
    plain = bench(tiny_chain, tmp_path, "prior", "student", **settings)
    drawn.clear()
    reports = bench(tiny_chain, tmp_path, "prior", "student", guidance=3.0, **settings)
    assert len(drawn) == 1  # the student's point is kept
    assert [r["guidance"] for r in plain + reports] == [None, None, 3.0, None]
    assert reports[0]["figures"]["entropy"] != plain[0]["figures"]["entropy"]
    assert "guidance 3" in str(frontier_table(reports).caption)
    with pytest.raises(ConfigError, match="guidance is 3.0, but none of the models is a prior; leave it out"):
        bench(tiny_chain, tmp_path, "student", "mdlm", guidance=3.0, **settings)


def test_factors_on_latents_are_a_column_where_there_are_several(tiny_chain: Chain, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"decode_steps": "4", "steps": "2", "seeds": "0"}
    one = frontier_table(bench(tiny_chain, tmp_path, "mdlm", "student", latent_scale="0.5", **settings))
    assert "latents times 0.5, fp32" in str(one.caption)
    assert "times" not in [column.header for column in one.columns]
    plain = frontier_table(bench(tiny_chain, tmp_path, "mdlm", "student", latent_scale="1", **settings))
    assert "times" not in str(plain.caption)
    several = frontier_table(bench(tiny_chain, tmp_path, "mdlm", "student", latent_scale="1,0.5", **settings))
    (times,) = [list(column.cells) for column in several.columns if column.header == "times"]
    assert times == ["-", "1", "0.5", "-"]
    assert "times: the factor on drawn latents" in str(several.caption)


@pytest.mark.parametrize(
    ("order", "told"),
    [
        ({"order": "confidence", "threshold": 0.3}, "order confidence"),
        ({"order": "threshold", "threshold": 0.3}, "order threshold, threshold 0.3"),
        ({"order": "entropy", "entropy_bound": 2.0}, "order entropy, entropy bound 2"),
    ],
)
def test_an_order_of_decoding_is_that_of_sample(
    tiny_chain: Chain, tmp_path: Path, order: dict[str, Any], told: str
) -> None:
    settings: dict[str, Any] = {"decode_steps": "4", "seeds": "5"}
    (report,) = bench(tiny_chain, tmp_path, "mdlm", **order, **settings)
    wanted = list(generate(load_sampler(tiny_chain.mdlm, "cpu"), SampleConfig(n=4, decode_steps=4, seed=5, **order)))
    (file,) = (tmp_path / "points").glob("*.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == wanted
    names = ("order", "threshold", "entropy_bound")
    assert {name: report[name] for name in names} == {name: wanted[0][name] for name in names}
    assert frontier_table([report]).caption == f"4 texts, 1 seed, nucleus 0.9, {told}, fp32"
    bench(tiny_chain, tmp_path, "mdlm", **settings)
    assert len(list((tmp_path / "points").glob("*.jsonl"))) == 2  # kept beside those in random order


def test_a_time_for_the_base_that_is_too_small_is_told(
    tiny_chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"decode_steps": "2,4", "steps": "2", "seeds": "0"}
    reports = bench(tiny_chain, tmp_path, "mdlm", "student", latent_until=0.3, **settings)
    assert [r["latent_until"] for r in reports] == [None, None, None, 0.3]
    told = [line for line in capsys.readouterr().err.splitlines() if "--latent-until" in line]
    assert told == ["--latent-until 0.3 does nothing: it is less than one of 2 steps"]


def test_a_time_for_the_base_is_refused_where_no_model_has_latents(tiny_chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latent_until is 0.5, but none of the models has latents; leave it out"):
        bench(tiny_chain, tmp_path, "mdlm", latent_until=0.5)


def test_figures_are_those_of_the_samples_that_sample_draws(tiny_chain: Chain, tmp_path: Path) -> None:
    report = bench(tiny_chain, tmp_path, decode_steps="4", steps="2", seeds="5")[0]
    config = SampleConfig(n=4, steps=2, decode_steps=4, seed=5, decodings=2)
    wanted = list(generate(load_sampler(tiny_chain.student, "cpu"), config))
    (file,) = (tmp_path / "points").glob("*.jsonl")
    assert [json.loads(line) for line in file.read_text().splitlines()] == wanted
    assert report["figures"]["entropy"]["std"] is None
    assert set(report["left_out"]) >= {"genppl", "mauve"}


def test_spread_is_over_seeds_and_speed_is_tokens_per_second(tiny_chain: Chain, tmp_path: Path) -> None:
    for r in bench(tiny_chain, tmp_path, "student", "mdlm"):
        entropy = r["figures"]["entropy"]
        assert len(entropy["by_seed"]) == len(r["seeds"]) == 2
        assert entropy["mean"] == pytest.approx(sum(entropy["by_seed"]) / 2)
        assert entropy["std"] > 0
        assert min(r["tokens_per_second"]["by_seed"]) > 0
        assert (r["latent_share"] > 0.01) == (r["stage"] == "student")


def test_only_what_is_new_is_drawn(
    tiny_chain: Chain, tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = bench(tiny_chain, tmp_path)
    assert len(drawn) == 8
    assert "(drawn before)" not in capsys.readouterr().err
    drawn.clear()
    assert bench(tiny_chain, tmp_path) == first
    assert drawn == []
    assert capsys.readouterr().err.count("of 4 (drawn before): ") == 4
    bench(tiny_chain, tmp_path, decode_steps="2,4,8", steps="2")
    assert drawn == [(2, 8, 1.0, 0), (2, 8, 1.0, 5)]
    drawn.clear()
    bench(tiny_chain, tmp_path, n=6, steps="1", decode_steps="2", seeds="0")
    assert drawn == [(1, 2, 1.0, 0)]


def test_an_interrupted_run_says_that_it_keeps_what_was_measured(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = module._draw

    def interrupted(sampler: Any, settings: SampleConfig) -> Any:
        if settings.decode_steps == 4:
            raise KeyboardInterrupt
        return draw(sampler, settings)

    monkeypatch.setattr(module, "_draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench(tiny_chain, tmp_path, "mdlm")
    assert capsys.readouterr().err.endswith(f"{tmp_path}: what was measured is kept; the same command goes on\n")


def test_another_model_in_the_same_place_is_measured_anew(chain_copy: Chain, tmp_path: Path, drawn: list[Any]) -> None:
    from tests.chain import distill_config

    settings = {"steps": "1", "decode_steps": "2", "seeds": "0"}
    bench(chain_copy, tmp_path, **settings)
    from diladiff_cli.stages.distill import distill

    distill(distill_config(max_steps=2), prior=chain_copy.prior, out=chain_copy.student, resume=False)
    bench(chain_copy, tmp_path, **settings)
    assert len(drawn) == 2


def test_an_auto_encoder_draws_from_the_latents_of_the_data_given(chain_copy: Chain, tmp_path: Path) -> None:
    wanted, source = bench(chain_copy, tmp_path / "bench", "ae", decode_steps="4"), chain_copy.held_out
    shutil.move(chain_copy.data, tmp_path / "moved")
    with pytest.raises(UserError, match="is missing"):
        bench(chain_copy, tmp_path / "bench", "ae", decode_steps="4")
    config = BenchConfig(**SETTINGS | {"decode_steps": "4"})
    found = list(bench_frontier(config, [chain_copy.ae], tmp_path / "other", tmp_path / "moved"))
    assert found[0]["figures"]["entropy"] == wanted[0]["figures"]["entropy"]
    assert found[0]["reference"]["source"] == wanted[0]["reference"]["source"] == source
    assert found[0]["reference"]["entropy"] == wanted[0]["reference"]["entropy"]
    (other, *_) = bench_frontier(config, [chain_copy.mdlm, chain_copy.student], tmp_path / "other", tmp_path / "moved")
    assert other["reference"] == found[0]["reference"]


def test_models_with_several_reference_texts_are_refused_before_anything_is_drawn(
    chain_copy: Chain, tmp_path: Path, drawn: list[Any]
) -> None:
    export(chain_copy.mdlm, tmp_path / "here" / "deeper" / "bundle")
    (tmp_path / "here" / "deeper" / "bundle").rename(tmp_path / "bundle")  # away from its data set
    with pytest.raises(UserError, match=f"reference texts .* in {chain_copy.data}.*; name one data set with --data$"):
        list(bench_frontier(BenchConfig(**SETTINGS), [chain_copy.student, tmp_path / "bundle"], tmp_path / "bench"))
    assert drawn == []


def test_figures_beside_the_shipped_text_are_measured_again_when_the_data_set_is_back(
    chain_copy: Chain, tmp_path: Path
) -> None:
    shutil.move(chain_copy.data, tmp_path / "moved")
    assert "ships with" in bench(chain_copy, tmp_path / "bench", "mdlm")[0]["reference"]["source"]
    shutil.move(tmp_path / "moved", chain_copy.data)
    assert bench(chain_copy, tmp_path / "bench", "mdlm")[0]["reference"]["source"] == chain_copy.held_out


def test_bases_are_compared_at_equal_entropy_and_equal_decoding_steps(tiny_chain: Chain, tmp_path: Path) -> None:
    reports = bench(tiny_chain, tmp_path, "student", "mdlm", temperatures="1.0,0.2", n=64, steps="1", seeds="0")
    for r in reports:
        if r["stage"] == "mdlm":
            assert list(r["at_equal_entropy"]) == [f"{tiny_chain.student}, 1 latent step"]
            continue
        line = [b for b in reports if b["stage"] == "mdlm" and b["decode_steps"] == r["decode_steps"]]
        ends = sorted(b["figures"]["entropy"]["mean"] for b in line)
        found = r["at_equal_entropy"][str(tiny_chain.mdlm)]
        assert (found["repetition_4"] is not None) == (ends[0] <= r["figures"]["entropy"]["mean"] <= ends[1])
        assert found["distinct_2"] is None  # of one text a latent beside two


def test_settings_that_do_not_fit_a_model_are_refused(tiny_chain: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="too few held-out blocks"):
        bench(tiny_chain, tmp_path, "ae", n=100_000)
    with pytest.raises(ConfigError, match="steps is '1,x'; give whole numbers"):
        BenchConfig(steps="1,x")


def test_speed_at_another_batch_size_is_measured_anew(tiny_chain: Chain, tmp_path: Path, drawn: list[Any]) -> None:
    settings = {"steps": "1", "decode_steps": "2", "seeds": "0"}
    first = bench(tiny_chain, tmp_path, **settings)
    again = bench(tiny_chain, tmp_path, **settings, batch_size=2)
    assert len(drawn) == 2
    assert [r["batch_size"] for r in first + again] == [32, 2]
    assert first[0]["figures"] == again[0]["figures"]


def test_samples_stay_where_a_speed_is_measured_on_another_machine(
    tiny_chain: Chain, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = bench(tiny_chain, tmp_path, decode_steps="2", steps="1", seeds="0")
    (samples,) = (file for file in (tmp_path / "points").glob("*.jsonl"))
    samples.write_text(samples.read_text().replace('"order"', '"measured there": true, "order"'), encoding="utf-8")
    kept = samples.read_bytes()
    monkeypatch.setattr("diladiff_cli.stages.bench.kept.machine", lambda device: "another")
    (after,) = bench(tiny_chain, tmp_path, decode_steps="2", steps="1", seeds="0")
    assert len(drawn) == 2
    assert samples.read_bytes() == kept
    assert after["figures"] == before["figures"]
    assert after["tokens_per_second"] != before["tokens_per_second"]


def test_points_go_on_where_all_was_moved(chain_copy: Chain, tmp_path: Path, drawn: list[Any]) -> None:
    settings, out = {"steps": "1", "decode_steps": "2", "seeds": "0"}, tmp_path / "bench"
    first = bench(chain_copy, out, **settings)
    moved = chain_copy.student.rename(chain_copy.root / "ckpt" / "moved")
    (again,) = bench_frontier(BenchConfig(**SETTINGS | settings), [moved], out)
    chain_copy.root.rename(tmp_path / "elsewhere")
    config = BenchConfig(**SETTINGS | settings | {"decode_steps": "2,4"})
    kept, new = bench_frontier(config, [tmp_path / "elsewhere/ckpt/moved"], out)
    assert (kept["figures"], again["figures"], len(drawn)) == (first[0]["figures"], first[0]["figures"], 2)
    assert new["reference"] == kept["reference"] == again["reference"] == first[0]["reference"]


def test_points_of_several_scorers_or_texts_are_not_compared(tiny_chain: Chain, tmp_path: Path) -> None:
    reports = bench(tiny_chain, tmp_path, steps="1", decode_steps="2,4", seeds="0")
    other = [reports[0], reports[1] | {"scorer": {"name": "gpt2-large", "note": ""}}]
    with pytest.raises(UserError, match=r"several scorers \(None, gpt2-large\); name one with --scorer"):
        module._check_comparable(other, tmp_path)
    other = [reports[0], reports[1] | {"reference": {"source": "another text"}}]
    with pytest.raises(UserError, match="several reference texts"):
        module._check_comparable(other, tmp_path)
