"""What ``bench`` makes of its points: comparisons, table and picture."""

import io
from typing import Any

import pytest
from rich.console import Console

from diladiff_cli.stages.bench.lines import compared
from diladiff_cli.stages.bench.picture import frontier_figure
from diladiff_cli.stages.bench.tables import frontier_table

Report = dict[str, Any]


def point_at(model: str, temperature: float, speed: float = 100.0, **figures: float) -> Report:
    """A report of :func:`bench_frontier`, made up."""
    return {
        "model": model,
        "stage": "mdlm" if "base" in model else "student",
        "steps": None if "base" in model else 2,
        "latent_until": None,
        "corrector": None,
        "latent_scale": None,
        "decodings": 1,
        "order": "random",
        "decode_steps": 8,
        "temperature": temperature,
        "figures": {name: {"mean": value, "std": 0.5} for name, value in figures.items()},
        "tokens_per_second": {"mean": speed},
        "reference": {"genppl": 50.0},
    }


NOTHING_ELSE: Report = dict.fromkeys(("mauve", "mauve_pooled", "latent_agreement", "distinct_2", "repetition_4"))
OF_BASE: Report = dict.fromkeys(("steps", "latent_until", "corrector", "latent_scale"))
OF_BASE |= {"model": "base", "decodings": 1}


def at_equal_entropy(report: Report, others: list[Report]) -> Report:
    """What a report is compared with."""
    found: Report = compared([report, *others])[0]["at_equal_entropy"]
    return found


def test_a_base_at_equal_entropy_lies_between_its_temperatures() -> None:
    line = [
        point_at("base", 1.0, entropy=4.0, genppl=400.0, mauve=0.4),
        point_at("base", 0.5, entropy=3.0, genppl=100.0),
    ]
    others = [point_at("base", 0.7, entropy=3.5, genppl=1.0) | {"decode_steps": 4}]
    student = point_at("student", 1.0, entropy=3.5, genppl=150.0, mauve=0.5)
    wanted = OF_BASE | {"genppl": pytest.approx(200.0)} | NOTHING_ELSE
    assert at_equal_entropy(student, [*line, *others]) == {"base": wanted}
    for setting, one, other in (("order", "random", "spread"), ("threshold", 0.9, 0.5), ("entropy_bound", 0.1, 0.2)):
        same = [point | {setting: one} for point in line]
        assert at_equal_entropy(student | {setting: one}, same)["base"]["genppl"] == pytest.approx(200.0)
        assert at_equal_entropy(student | {setting: other}, same)["base"]["genppl"] is None
    too_hot = point_at("student", 1.5, entropy=4.1)
    assert at_equal_entropy(too_hot, line)["base"]["genppl"] is None
    assert at_equal_entropy(point_at("student", 1.0), line) == {}  # without an entropy


def test_different_bigrams_are_compared_where_as_many_texts_share_a_latent() -> None:
    line = [point_at("base", t, entropy=e, distinct_2=e / 10) for t, e in ((1.0, 4.0), (0.5, 3.0))]
    student = point_at("student", 1.0, entropy=3.5, distinct_2=0.2)
    assert at_equal_entropy(student, line)["base"]["distinct_2"] == pytest.approx(0.35)
    found = at_equal_entropy(student | {"decodings": 2}, line)["base"]
    assert (found["distinct_2"], found["decodings"]) == (None, 1)


def test_five_temperatures_look_different() -> None:
    points = [point_at("base", t, genppl=100 * t) for t in (1.0, 0.9, 0.8, 0.7, 0.6)]
    axes = frontier_figure(points).axes[0]
    assert len({str(line.get_linestyle()) + str(line._dash_pattern) for line in axes.lines[:5]}) == 5


def test_each_line_of_another_model_is_compared_with_by_itself() -> None:
    def prior(scale: float, *genppl: float) -> list[Report]:
        points = zip((1.0, 0.5), (4.0, 3.0), genppl, strict=True)
        return [point_at("prior", t, entropy=e, genppl=g) | {"latent_scale": scale, "steps": 5} for t, e, g in points]

    student = point_at("student", 1.0, entropy=3.5, genppl=150.0)
    own = [student | {"steps": 1}]
    whose = {"model": "prior", "steps": 5, "latent_until": None, "corrector": None, "latent_scale": 0.5, "decodings": 1}
    assert at_equal_entropy(student, [*prior(1.0, 400.0, 100.0), *prior(0.5, 90.0, 10.0), *own]) == {
        "prior, 5 latent steps": whose | {"latent_scale": 1.0, "genppl": pytest.approx(200.0)} | NOTHING_ELSE,
        "prior, 5 latent steps, latents times 0.5": whose | {"genppl": pytest.approx(30.0)} | NOTHING_ELSE,
    }


@pytest.mark.parametrize("corrector", [None, 0.5])
def test_a_base_that_corrects_is_one_to_compare_with(corrector: float | None) -> None:
    def of(model: str, temperature: float, **figures: float) -> Report:
        return point_at(model, temperature, **figures) | {"corrector": corrector}

    line = [of("base", 1.0, entropy=4.0, genppl=400.0), of("base", 0.5, entropy=3.0, genppl=100.0)]
    figure = frontier_figure(compared([of("student", 1.0, entropy=3.5, genppl=150.0), *line]))
    (drawn,) = (axes.lines[0] for axes in figure.axes if "equal entropy" in axes.get_ylabel())
    assert list(drawn.get_ydata()) == [pytest.approx(0.75)]


def test_the_picture_shows_quality_over_speed_a_line_for_each_model_and_temperature() -> None:
    reports = [
        point_at("base", 1.0, speed=300.0, genppl=80.0),
        point_at("base", 1.0, speed=900.0, genppl=120.0),
        point_at("base", 0.7, speed=800.0, genppl=90.0),
        point_at("student", 1.0, speed=500.0, genppl=70.0, mauve=0.5),
        point_at("student", 1.0, speed=600.0, genppl=60.0) | {"latent_until": 0.5},
        point_at("student", 1.0, speed=650.0, genppl=55.0) | {"order": "spread"},
        point_at("student", 1.0, speed=700.0, genppl=50.0) | {"latent_scale": 0.5},
    ]
    genppl, mauve = frontier_figure(reports).axes
    drawn = [container.lines[0] for container in genppl.containers]
    assert [(list(line.get_xdata()), list(line.get_ydata())) for line in drawn] == [
        ([900.0, 300.0], [120.0, 80.0]),
        ([800.0], [90.0]),
        ([500.0], [70.0]),
        ([600.0], [60.0]),
        ([650.0], [55.0]),
        ([700.0], [50.0]),
    ]
    assert [container.get_label() for container in genppl.containers] == [
        "base, T 1",
        "base, T 0.7",
        "student, 2 latent steps, T 1",
        "student, 2 latent steps until 0.5, T 1",
        "student, 2 latent steps, spread, T 1",
        "student, 2 latent steps, latents times 0.5, T 1",
    ]
    assert [line.get_linestyle() for line in drawn] == ["-", "--", "-", "-", "-", "-"]
    assert len({line.get_marker() for line in drawn[2:]}) == 4
    colours = [line.get_color() for line in drawn]  # the first has two points
    assert colours[0] == colours[1]  # temperatures of one way
    assert len(set(colours[1:])) == 5
    assert [label.get_color() for label in genppl.texts] == [colours[0], *colours]
    assert 50.0 in [line.get_ydata()[0] for line in genppl.lines]  # the reference
    assert "MAUVE" in mauve.get_ylabel()


def test_latent_agreement_has_a_panel_where_it_was_measured() -> None:
    reports = [point_at("base", 1.0, entropy=3.0), point_at("student", 1.0, entropy=3.0, latent_agreement=0.25)]
    _, panel = frontier_figure(reports).axes
    assert [list(container.lines[0].get_ydata()) for container in panel.containers] == [[0.25]]
    assert "agreement" in panel.get_ylabel()


def drawn_in(panel: Any) -> dict[str, list[tuple[float, float]]]:
    """The points of each line of a panel, by its label, as (throughput, value)."""
    lines = {c.get_label(): c.lines[0] for c in panel.containers}
    return {label: list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for label, line in lines.items()}


def test_the_picture_compares_at_equal_entropy_with_the_base_in_its_most_steps() -> None:
    base = [point_at("base", 1.0, entropy=4.0, genppl=400.0), point_at("base", 0.5, entropy=3.0, genppl=100.0)]
    quick = point_at("base", 1.0, speed=900.0, entropy=3.5, genppl=300.0) | {"decode_steps": 4}
    student = point_at("student", 1.0, speed=500.0, entropy=3.5, genppl=150.0) | {"decode_steps": 2}
    beyond = point_at("student", 0.7, entropy=2.0, genppl=90.0)
    *_, multiples = frontier_figure([*base, quick, student, beyond]).axes
    assert drawn_in(multiples) == {
        "base, T 1": [(900.0, pytest.approx(1.5)), (100.0, pytest.approx(1.0))],
        "base, T 0.5": [(100.0, pytest.approx(1.0))],
        "student, 2 latent steps, T 1": [(500.0, pytest.approx(150 / 200))],
    }
    assert "8 random steps, at equal entropy" in multiples.get_ylabel()
    assert len(frontier_figure(base).axes) == 2  # nothing but what it would be compared with
    other = [point | {"model": "another base", "decode_steps": 16} for point in base]
    *_, multiples = frontier_figure([*base, student, *other]).axes
    assert drawn_in(multiples)["another base, T 1"] == [(100.0, pytest.approx(1.0))]
    spread = [point | {"order": "spread", "decode_steps": 16} for point in base]
    assert "8 random steps" in frontier_figure([*base, student, *spread]).axes[-1].get_ylabel()


def test_the_reference_text_is_compared_at_its_own_entropy() -> None:
    base = [point_at("base", 1.0, entropy=4.0, genppl=400.0), point_at("base", 0.5, entropy=3.0, genppl=100.0)]
    student = point_at("student", 1.0, entropy=3.5, genppl=150.0)
    reports = [point | {"reference": {"genppl": 50.0, "entropy": 3.5}} for point in (*base, student)]
    *_, multiples = frontier_figure(reports).axes
    levels = [list(line.get_ydata()) for line in multiples.lines if line.get_label() == "reference text"]
    assert levels == [[pytest.approx(0.25)] * 2]
    for reference in (None, {"genppl": 50.0}, {"genppl": 50.0, "entropy": 5.0}):
        *_, multiples = frontier_figure([point | {"reference": reference} for point in reports]).axes
        assert "reference text" not in [line.get_label() for line in multiples.lines]


def test_a_picture_of_some_points_compares_with_all_of_the_base() -> None:
    base = [point_at("base", 1.0, entropy=4.0, genppl=400.0), point_at("base", 0.5, entropy=3.0, genppl=100.0)]
    student = point_at("student", 1.0, entropy=3.5, genppl=150.0)
    assert len(frontier_figure([base[0], student]).axes) == 2
    (panel,) = frontier_figure([base[0], student], among=[*base, student], panels=["multiple"]).axes
    assert drawn_in(panel)["student, 2 latent steps"] == [(100.0, pytest.approx(0.75))]


def test_mauve_of_all_seeds_takes_the_place_of_that_of_each_in_the_picture() -> None:
    reports = [point_at("base", 1.0, mauve=0.4), point_at("base", 0.7, mauve=0.5, mauve_pooled=0.3)]
    (panel,) = frontier_figure(reports).axes
    drawn = [list(container.lines[0].get_ydata()) for container in panel.containers]
    assert drawn == [[0.3]]
    assert "all seeds" in panel.get_ylabel()
    (panel,) = frontier_figure([point_at("base", 0.7, mauve_pooled=0.3)]).axes
    assert "all seeds" in panel.get_ylabel()


SHARED: Report = {"n": 4, "seeds": [0], "decodings": 1, "top_p": 0.9, "precision": "fp32", "seconds": 1.0}
SHARED |= dict.fromkeys(("threshold", "entropy_bound", "gamma", "self_cond", "guidance", "solver"))


def cells(report: Report) -> list[str]:
    """Those of a report's table, title and row and reference, column by column."""
    table = frontier_table([report | SHARED | {"at_equal_entropy": {}}])
    return [str(cell) for column in table.columns for cell in (column.header, *column.cells)]


def test_the_table_has_no_column_of_what_nobody_measured_and_cuts_no_figure() -> None:
    report = point_at("base", 1.0, speed=777777.0, entropy=3.0) | {"reference": None}
    assert {"entropy", "genppl", "mauve", "agreement"} & set(cells(report)) == {"entropy"}
    console = Console(file=io.StringIO(), width=40)
    console.print(frontier_table(compared([report | SHARED])))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in shown
    assert shown.count("7") == 6  # of the speed, folded


def test_spreads_of_hundreds_are_written_out() -> None:
    report = point_at("base", 1.0, genppl=1200.0) | {"figures": {"genppl": {"mean": 1200.0, "std": 123.4}}}
    assert "1200 ± 120" in cells(report)


def test_the_table_has_mauve_of_all_seeds_where_it_was_measured() -> None:
    pooled = {"mauve_pooled": {"mean": 0.25, "std": 0.01, "n": 768}}
    report = point_at("base", 1.0, mauve=0.4)
    assert "mauve of 768" not in cells(report)
    found = cells(report | {"figures": report["figures"] | pooled})
    assert found[found.index("mauve of 768") :] == ["mauve of 768", "0.25 ± 0.01", "-"]


def beside(points: list[Report]) -> dict[str, list[str]]:
    """The columns of a table that compare at equal entropy, without the reference's dash."""
    table = frontier_table([report | SHARED for report in compared(points)])
    return {
        str(column.header): [str(cell) for cell in column.cells][:-1]
        for column in table.columns
        if "at this entropy" in str(column.header)
    }


def test_the_table_compares_with_bases_or_where_there_are_none_with_all_others() -> None:
    both: Report = {"mauve": 0.25, "mauve_pooled": 0.5, "latent_agreement": 0.125}
    base = [point_at("run/base", t, entropy=e, genppl=g) for t, e, g in ((1.0, 4.0, 400.0), (0.5, 3.0, 100.0))]
    prior = [point_at("run/prior", t, entropy=e, genppl=90.0, **both) for t, e in ((1.0, 4.0), (0.5, 3.0))]
    for report in prior:
        report["figures"]["mauve_pooled"]["n"] = 768
    student = [point_at("run/student", 1.0, entropy=3.5, genppl=150.0), point_at("run/student", 1.0, entropy=4.5)]
    assert beside([*student, *base, *prior]) == {"genppl of base at this entropy": ["200", "-", "-", "-", "400", "100"]}
    head = "genppl and mauve and agreement of prior, 2 latent steps at this entropy"
    assert beside([*student, *prior]) == {head: ["90, 0.5, 0.125", "-", "-", "-"]}
    assert beside(student) == {}
