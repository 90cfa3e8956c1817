"""``plot`` from Python: the lines drawn are the numbers logged and reported."""

import json
from pathlib import Path
from typing import Any

import pytest

from diladiff_cli.errors import UserError
from diladiff_cli.stages.eval_artifact import evaluate_artifact
from diladiff_cli.stages.plot import figures_of, plot, read_sources, running_mean
from tests.chain import Chain


def drawn(axes: Any) -> dict[str, list[list[float]]]:
    """Points of the lines of a panel that have a name."""
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines if line.get_label()[0] != "_"}


def logged(artifact: Path, split: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (artifact / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def reported(artifact: Path, file: Path) -> dict[str, Any]:
    """A report of eval, written as eval prints it."""
    report = evaluate_artifact(artifact, batches=1, draws=1)
    file.write_text(json.dumps(report) + "\n")
    return report


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
    loss, validation, rate = figure.axes
    train, name = logged(tiny_chain.mdlm, "train"), str(tiny_chain.mdlm)
    assert loss.lines[0].get_xydata().tolist() == [[line["step"], line["loss"]] for line in train]
    assert drawn(loss)[name] == [
        [line["step"], mean] for line, mean in zip(train, running_mean([x["loss"] for x in train]), strict=True)
    ]
    assert drawn(rate)[name] == [[line["step"], line["learning_rate"]] for line in train]
    valid = logged(tiny_chain.mdlm, "valid")
    assert drawn(validation)[name] == [[line["step"], line["perplexity_bound"]] for line in valid]


def test_recovery_is_drawn_for_the_auto_encoder_its_base_and_noise(tiny_chain: Chain) -> None:
    figure = dict(figures_of(read_sources([tiny_chain.ae])))["recovery"]
    curves = logged(tiny_chain.ae, "valid")[-1]["curves"]
    for axes, name, scale in zip(figure.axes, ("recovery", "nll"), (100, 1), strict=True):
        lines = drawn(axes)
        for label, model in (("auto-encoder", "autoencoder"), ("base", "base"), ("noise for a latent", "noise_latent")):
            wanted = [[100 * p["ratio"], scale * p[name]] for p in curves[model]]
            assert lines[label] == [pytest.approx(point) for point in wanted]


def test_the_prior_is_drawn_beside_a_white_latent(tiny_chain: Chain) -> None:
    axes = dict(figures_of(read_sources([tiny_chain.prior])))["prior_noise"].axes[0]
    levels = logged(tiny_chain.prior, "valid")[-1]["by_noise"]
    assert drawn(axes)["white latent"] == [[level["sigma"], level["white"]] for level in levels]
    assert drawn(axes)[str(tiny_chain.prior)] == [[level["sigma"], level["loss"]] for level in levels]


def test_reports_of_eval_are_drawn(tiny_chain: Chain, tmp_path: Path) -> None:
    report = reported(tiny_chain.ae, tmp_path / "ae.json")
    pictures = dict(figures_of(read_sources([tmp_path / "ae.json"])))
    assert list(pictures) == ["recovery", "latent_noise"]
    rows = report["figures"]["robustness"]
    lines = drawn(pictures["latent_noise"].axes[0])
    for ratio in (0.5, 1.0):
        wanted = [[row["std"], 100 * row["recovery"]] for row in rows if row["ratio"] == ratio]
        assert lines[f"{100 * ratio:.0f} % masked"] == wanted
    student = reported(tiny_chain.student, tmp_path / "student.json")["figures"]["teacher_distance"]
    axes = dict(figures_of(read_sources([tmp_path / "student.json"])))["student_distance"].axes[0]
    assert drawn(axes)[str(tiny_chain.student)] == [[m, student[f"student_{m}_steps"]] for m in (1, 2, 5)]
    assert drawn(axes)["teacher's Euler"] == [[5, student["teacher_5_steps"]]]


def test_an_indented_report_is_read_too(tiny_chain: Chain, tmp_path: Path) -> None:
    report = reported(tiny_chain.prior, tmp_path / "prior.json")
    (tmp_path / "pretty.json").write_text(json.dumps(report, indent=2) + "\n")
    assert read_sources([tmp_path / "pretty.json"]) == read_sources([tmp_path / "prior.json"])


def test_runs_of_one_stage_share_a_picture(tiny_chain: Chain, chain_copy: Chain) -> None:
    figure = dict(figures_of(read_sources([tiny_chain.prior, chain_copy.prior])))["prior_noise"]
    assert set(drawn(figure.axes[0])) == {str(tiny_chain.prior), str(chain_copy.prior), "white latent"}


def test_the_same_numbers_give_the_same_bytes(tiny_chain: Chain, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        list(plot([tiny_chain.ae], tmp_path / folder, ["png", "svg"]))
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_names_and_labels_are_text_in_an_svg(tiny_chain: Chain, tmp_path: Path) -> None:
    list(plot([tiny_chain.ae], tmp_path, ["svg"]))
    picture = (tmp_path / "recovery.svg").read_text()
    for text in ("masked tokens (%)", "auto-encoder", "noise for a latent"):
        assert text in picture


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read .+ \(No such file or directory\)"),
        (b"\xff\xfe", r"cannot read .+ \(no text\)"),
        (b"{", "is no JSON"),
        (b"[1]\n", "holds something else than JSON objects"),
        (b'{"text": "a sample"}\n', "holds no reports of artifacts"),
        (b"", "holds no reports of artifacts"),
    ],
)
def test_what_cannot_be_drawn_is_told_in_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_sources([tmp_path / "x.json"])
    assert "\n" not in str(caught.value)


def test_an_artifact_without_a_log_and_a_damaged_log_are_told(chain_copy: Chain) -> None:
    log = chain_copy.mdlm / "metrics.jsonl"
    log.write_text('{"split": "train"}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        read_sources([chain_copy.mdlm])
    log.unlink()
    with pytest.raises(UserError, match=r"has no metrics\.jsonl"):
        read_sources([chain_copy.mdlm])
    with pytest.raises(UserError, match=r"no config\.json"):
        read_sources([chain_copy.root])
