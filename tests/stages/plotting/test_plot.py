"""``plot`` from Python: the lines drawn are the numbers logged and reported."""

import io
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.config import EvalConfig
from diladiff_cli.errors import UserError
from diladiff_cli.shipped import SHIPPED_MODEL
from diladiff_cli.stages.evaluation.artifact import evaluate_artifact
from diladiff_cli.stages.plotting.plot import figures_of, plot
from diladiff_cli.stages.plotting.sources import read_sources
from diladiff_cli.stages.plotting.training import SMOOTHING, running_mean
from diladiff_cli.stages.train_mdlm import train_mdlm

from ...chain import Chain, mdlm_config


def drawn(axes: Any) -> dict[str, list[list[float]]]:
    """Points of the lines of a panel that have a name."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label()[0] != "_"}


def logged(artifact: Path, split: str) -> list[dict[str, Any]]:
    return logged_lines((artifact / "metrics.jsonl").read_text().splitlines(), split)


def logged_lines(lines: list[str], split: str = "train") -> list[dict[str, Any]]:
    return [line for line in map(json.loads, lines) if line["split"] == split]


def reported(artifact: Path, file: Path) -> dict[str, Any]:
    """A report of eval, written as eval prints it."""
    report = evaluate_artifact(EvalConfig(batches=1, draws=1), artifact)
    file.write_text(json.dumps(report) + "\n")
    return report


def report_of(figures: Any) -> bytes:
    return json.dumps({"path": "x", "stage": "prior", "figures": figures}).encode()


def test_every_stage_has_its_pictures(tiny_chain: Chain, tmp_path: Path) -> None:
    chain = [tiny_chain.mdlm, tiny_chain.ae, tiny_chain.prior, tiny_chain.student]
    found = list(plot(chain, tmp_path, ["png", "svg"]))
    names = ["mdlm_training", "ae_training", "prior_training", "student_training"]
    names += ["recovery", "prior_noise", "student_distance"]
    assert [line["picture"] for line in found] == names
    for line in found:
        png, svg = map(Path, line["files"])
        assert png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert int.from_bytes(png.read_bytes()[16:20], "big") >= 600  # pixels across
        assert "</svg>" in svg.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{n}.{f}" for n in names for f in ("png", "svg"))


def test_training_curves_are_the_logged_numbers(tiny_chain: Chain) -> None:
    (figure,) = dict(figures_of(read_sources([tiny_chain.mdlm]))).values()
    loss, validation, recovery, rate = figure.axes
    train, name = logged(tiny_chain.mdlm, "train"), str(tiny_chain.mdlm)
    assert loss.lines[0].get_xydata().tolist() == [[line["step"], line["loss"]] for line in train]
    assert drawn(loss)[name] == [
        [line["step"], mean] for line, mean in zip(train, running_mean([x["loss"] for x in train]), strict=True)
    ]
    assert drawn(rate)[name] == [[line["step"], line["learning_rate"]] for line in train]
    valid = logged(tiny_chain.mdlm, "valid")
    assert drawn(validation)[name] == [[line["step"], line["perplexity_bound"]] for line in valid]
    assert drawn(recovery)[name] == [[line["step"], 100 * line["recovery"]] for line in valid]


def test_a_curve_of_one_point_can_be_seen(tiny_chain: Chain, tmp_path: Path) -> None:
    train_mdlm(mdlm_config(max_steps=1), data=tiny_chain.data, out=tmp_path / "mdlm")
    for artifact, marker in ((tmp_path / "mdlm", "o"), (tiny_chain.mdlm, "")):
        (figure,) = dict(figures_of(read_sources([artifact]))).values()
        loss, *_, rate = figure.axes
        assert [panel.lines[-1].get_marker() for panel in (loss, rate)] == [marker, marker]


def test_every_validation_of_a_student_is_drawn_for_each_number_of_steps(tiny_chain: Chain) -> None:
    distance = dict(figures_of(read_sources([tiny_chain.student])))["student_training"].axes[2]
    valid, name = logged(tiny_chain.student, "valid"), str(tiny_chain.student)
    for figure, label in (("student_1_steps", "1 step"), ("teacher_5_steps", "teacher, 5 steps")):
        assert drawn(distance)[f"{name} {label}"] == [[line["step"], line[figure]] for line in valid]
    assert [text.get_text() for text in distance.get_legend().get_texts()][:3] == ["1 step", "2 steps", "5 steps"]


def test_the_running_mean_is_that_of_the_neighbours_without_gaps() -> None:
    values = [float(i) for i in range(30)]
    reach = SMOOTHING // 2
    assert running_mean(values)[reach:-reach] == values[reach:-reach]  # a straight line stays
    assert running_mean(values)[0] == sum(values[: reach + 1]) / (reach + 1)
    assert running_mean([1.0, math.nan, 3.0, 5.0, 5.0, 5.0]) == [1.0, 2.0, 4.0, 13 / 3, 5.0, 5.0]


def test_few_values_are_hardly_smoothed() -> None:
    assert running_mean([4.0, 2.0, 1.0]) == [4.0, 2.0, 1.0]
    falling = [4.0 / (i + 1) for i in range(12)]
    assert running_mean(falling)[0] == sum(falling[:3]) / 3


def test_recovery_is_drawn_for_the_auto_encoder_its_base_and_noise(tiny_chain: Chain) -> None:
    figure = dict(figures_of(read_sources([tiny_chain.ae])))["recovery"]
    curves = logged(tiny_chain.ae, "valid")[-1]["curves"]
    for axes, name, scale in zip(figure.axes, ("recovery", "nll"), (100, 1), strict=True):
        lines = drawn(axes)
        for label, model in (("auto-encoder", "autoencoder"), ("base", "base"), ("noise for a latent", "noise_latent")):
            wanted = [[100 * p["ratio"], scale * p[name]] for p in curves[model]]
            assert lines[label] == [pytest.approx(point) for point in wanted]


def test_the_highest_point_of_flat_lines_is_inside(tiny_chain: Chain) -> None:
    for axes in dict(figures_of(read_sources([tiny_chain.ae])))["recovery"].axes:
        low, high = axes.get_ylim()
        assert low == 0
        assert high >= 1.04 * max(max(line.get_ydata()) for line in axes.lines)


def test_a_model_has_the_same_colour_whatever_is_beside_it(tiny_chain: Chain, tmp_path: Path) -> None:
    reported(tiny_chain.mdlm, tmp_path / "mdlm.json")
    alone = dict(figures_of(read_sources([tmp_path / "mdlm.json"])))["recovery"].axes[0]
    beside = dict(figures_of(read_sources([tmp_path / "mdlm.json", tiny_chain.ae])))["recovery"].axes[0]
    colours = {line.get_color() for axes in (alone, beside) for line in axes.lines if line.get_label()[:4] == "base"}
    assert len(colours) == 1
    assert len({line.get_color() for line in beside.lines}) == 3


def test_the_prior_is_drawn_beside_a_white_latent(tiny_chain: Chain) -> None:
    axes = dict(figures_of(read_sources([tiny_chain.prior])))["prior_noise"].axes[0]
    levels = logged(tiny_chain.prior, "valid")[-1]["by_noise"]
    assert drawn(axes)["white latent"] == [[level["sigma"], level["white"]] for level in levels]
    assert drawn(axes)[str(tiny_chain.prior)] == [[level["sigma"], level["loss"]] for level in levels]
    share = dict(figures_of(read_sources([tiny_chain.prior])))["prior_noise"].axes[1]
    wanted = [[level["sigma"], 100 * level["loss"] / level["white"]] for level in levels]
    assert drawn(share)[str(tiny_chain.prior)] == [pytest.approx(point) for point in wanted]


def test_reports_of_eval_are_drawn(tiny_chain: Chain, tmp_path: Path) -> None:
    report = reported(tiny_chain.ae, tmp_path / "ae.json")
    pictures = dict(figures_of(read_sources([tmp_path / "ae.json"])))
    assert list(pictures) == ["recovery", "latent_noise"]
    rows = report["figures"]["robustness"]
    lines = drawn(pictures["latent_noise"].axes[0])
    for ratio in (0.5, 1.0):
        wanted = [[row["std"], 100 * row["recovery"]] for row in rows if row["ratio"] == ratio]
        assert lines[f"{tiny_chain.ae}, {100 * ratio:.0f} % of tokens masked"] == wanted
    student = reported(tiny_chain.student, tmp_path / "student.json")["figures"]["teacher_distance"]
    axes = dict(figures_of(read_sources([tmp_path / "student.json"])))["student_distance"].axes[0]
    wanted = [[m, student[f"student_{m}_steps"]] for m in (1, 2, 5)]
    assert drawn(axes)[f"{tiny_chain.student}, student"] == wanted
    assert drawn(axes)[f"{tiny_chain.student}, teacher"] == [[5, student["teacher_5_steps"]]]


def test_reports_may_be_indented_on_standard_input_and_beside_those_of_samples(
    tiny_chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = reported(tiny_chain.prior, tmp_path / "prior.json")
    wanted = read_sources([tmp_path / "prior.json"])
    others = [{"samples": {"n": 2}, "settings": {}}, report]
    (tmp_path / "pretty.json").write_text("\n\n".join(json.dumps(r, indent=2) for r in others) + "\n")
    assert read_sources([tmp_path / "pretty.json"]) == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO((tmp_path / "prior.json").read_bytes())))
    assert read_sources(["-"]) == wanted


def test_runs_of_one_stage_share_a_picture(tiny_chain: Chain, chain_copy: Chain) -> None:
    figure = dict(figures_of(read_sources([tiny_chain.prior, chain_copy.prior])))["prior_noise"]
    assert set(drawn(figure.axes[0])) == {str(tiny_chain.prior), str(chain_copy.prior), "white latent"}


def test_what_ships_is_drawn_under_its_name() -> None:
    (source,) = read_sources([SHIPPED_MODEL / "parents" / "mdlm"])
    assert source.name == "shipped/parents/mdlm"


def test_sources_of_one_name_are_told_apart(tiny_chain: Chain, tmp_path: Path) -> None:
    reported(tiny_chain.prior, tmp_path / "prior.json")
    name = str(tiny_chain.prior)
    found = read_sources([tiny_chain.prior, tmp_path / "prior.json", tiny_chain.prior, tiny_chain.ae])
    assert [source.name for source in found] == [name, f"{name} (2)", str(tiny_chain.ae)]


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_labels_and_legends_stay_inside_the_picture(tiny_chain: Chain, tmp_path: Path, runs: int) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    targets = [tmp_path / "reports.json", tiny_chain.mdlm, tiny_chain.ae, tiny_chain.prior, tiny_chain.student]
    report = reported(tiny_chain.ae, targets[0])
    targets[0].write_text("".join(json.dumps(report | {"path": "a/long/path/" * i}) + "\n" for i in range(runs)))
    for name, figure in figures_of(read_sources(targets)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        found = figure.get_tightbbox(canvas.get_renderer())
        slack = 0.1  # inches
        assert found.x0 > -slack, name
        assert found.y0 > -slack, name
        assert found.x1 < figure.get_figwidth() + slack, name
        assert found.y1 < figure.get_figheight() + slack, name


def test_the_same_numbers_give_the_same_bytes(tiny_chain: Chain, tmp_path: Path) -> None:
    import matplotlib

    for folder, size in (("a", 9), ("b", 20)):  # nor do the user's own settings matter
        with matplotlib.rc_context({"font.size": size, "lines.linewidth": size}):
            list(plot([tiny_chain.ae], tmp_path / folder, ["png", "svg", "pdf"]))
    assert len(list((tmp_path / "a").iterdir())) == 6
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_names_and_labels_are_text_in_an_svg(tiny_chain: Chain, tmp_path: Path) -> None:
    list(plot([str(tiny_chain.ae)], str(tmp_path), ["svg"]))
    picture = (tmp_path / "recovery.svg").read_text()
    for text in ("masked (% of tokens)", "auto-encoder", "noise for a latent"):
        assert text in picture


def forget_log(folder: Path) -> None:
    """Take the hash of the log out of config.json, so that a test may write another."""
    config = json.loads((folder / "config.json").read_text())
    kept = {k: v for k, v in config.items() if k not in ("log", "checksum")}
    (folder / "config.json").write_text(json.dumps(kept))


def test_what_a_kill_cut_off_is_left_out_and_what_was_not_finite_is_a_gap(chain_copy: Chain) -> None:
    log = chain_copy.prior / "metrics.jsonl"
    forget_log(chain_copy.prior)
    lines = log.read_text().splitlines()
    first = json.loads(lines[0]) | {"loss": None}
    log.write_text("\n".join([json.dumps(first), *lines[1:], '{"step": 99, "spl']))
    (source,) = read_sources([chain_copy.prior])
    assert len(source.training) == len(lines)
    values = source.series("train", "loss")[1]
    assert math.isnan(values[0])
    assert values[1:] == [line["loss"] for line in logged_lines(lines)[1:]]
    assert "prior_training" in dict(figures_of([source]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .+ \(No such file or directory\)"),
        (b"\xff\xfe", r"cannot read .+ \(no text\)"),
        (b"{}\n{", "row 2 is not JSON: Expecting property name"),
        (b"[1]\n", "holds something else than JSON objects"),
        (b'{"text": "a sample"}\n', "holds no reports of artifacts"),
        (b"", "holds no reports of artifacts"),
        (report_of({}), "holds nothing to draw"),
        (report_of(3), "is damaged"),
        (report_of({"prior_loss": {"by_noise": 3}}), r"is damaged \(its prior_loss\)"),
        (report_of({"curves": {"base": [{"ratio": 0.1}]}}), r"is damaged \(its curves\)"),
        (report_of({"teacher_distance": {"student_1_steps": "far"}}), r"is damaged \(its teacher_distance\)"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_sources([tmp_path / "x.json"])
    assert "\n" not in str(caught.value)
    if content is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        with pytest.raises(UserError, match=message) as piped:
            read_sources(["-"])
        assert str(piped.value) == str(caught.value).replace(str(tmp_path / "x.json"), "standard input")


def test_a_log_counts_up_to_what_is_no_line_of_it_and_an_artifact_without_one_is_told(chain_copy: Chain) -> None:
    log = chain_copy.mdlm / "metrics.jsonl"
    forget_log(chain_copy.mdlm)
    good = log.read_text()
    (whole,) = read_sources([chain_copy.mdlm])
    for bad in ('{"split": "train"}', "[]", "{"):
        log.write_text(good + bad + "\n" + good)
        assert read_sources([chain_copy.mdlm]) == [whole]
    log.write_text(good + '{"step": 9, "split": "train", "loss": "low"}\n')
    with pytest.raises(UserError, match=r"the log of .*mdlm is damaged .its loss: 'low' is not a number.; restore it"):
        list(plot([chain_copy.mdlm], chain_copy.root / "plots", ["png"]))
    log.write_text('{"step": 1, "split": "train"}\n')
    with pytest.raises(UserError, match="hold no figure"):
        list(plot([chain_copy.mdlm], chain_copy.root / "plots", ["png"]))
    log.write_text("")
    with pytest.raises(UserError, match="holds nothing to draw"):
        read_sources([chain_copy.mdlm])
    log.unlink()
    with pytest.raises(UserError, match=r"has no metrics\.jsonl"):
        read_sources([chain_copy.mdlm])
    with pytest.raises(UserError, match=r"no config\.json"):
        read_sources([chain_copy.root])
