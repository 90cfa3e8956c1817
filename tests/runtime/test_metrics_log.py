import json
from pathlib import Path

import pytest

from diladiff_cli.runtime.folders import recover
from diladiff_cli.runtime.metrics_log import MetricsLog, read_metrics


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "new", 0, 0)
    written = [{"step": i, "loss": 1 / (i + 1), "curve": [1, {"x": 0.1}]} for i in range(5)]
    for line in written:
        log.write(line)
    assert read_metrics(tmp_path / "new" / "metrics.jsonl") == written


def test_a_resume_drops_the_steps_beyond_it_and_leaves_no_gap(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path.parent, 0, 0)
    for i in range(1, 8):
        log.write({"step": i})
    log = MetricsLog(path.parent, 4, 4)
    for i in range(5, 7):
        log.write({"step": i})
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4, 5, 6]


def test_a_validation_that_is_owed_is_not_kept_from_a_run_that_died_after_it(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, 0)
    for step, split in ((2, "train"), (2, "valid"), (4, "train"), (4, "valid"), (5, "train")):
        log.write({"step": step, "split": split})
    MetricsLog(tmp_path, 4, 2)
    kept = [(line["step"], line["split"]) for line in read_metrics(tmp_path / "metrics.jsonl")]
    assert kept == [(2, "train"), (2, "valid"), (4, "train")]


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 3', "{", "3", '{"step": null}', '{"step": "3"}', "\x00\x00"]
)
def test_a_last_line_torn_by_a_kill_is_dropped(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + torn)
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    MetricsLog(path.parent, 10, 10).write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3}\n'


def test_numbers_that_are_not_finite_become_null_at_any_depth(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, 0, 0)
    log.write({"step": 1, "loss": float("nan"), "curves": {"a": [{"nll": float("inf")}, 0.5]}, "name": "x"})
    line = (tmp_path / "metrics.jsonl").read_text()
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert found == {"step": 1, "loss": None, "curves": {"a": [{"nll": None}, 0.5]}, "name": "x"}


def test_a_missing_file_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_run_that_starts_over_leaves_the_old_log_alone_until_its_first_checkpoint(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text("{}")
    (out / "metrics.jsonl").write_text('{"step": 7}\n')
    log = MetricsLog(out, 0, 0)
    log.write({"step": 1})
    assert read_metrics(out / "metrics.jsonl") == [{"step": 7}]
    assert read_metrics(log.path) == [{"step": 1}]
    log.path.replace(out / "metrics.jsonl")  # as a checkpoint does with a copy
    log.saved()
    log.write({"step": 2})
    assert read_metrics(out / "metrics.jsonl") == [{"step": 1}, {"step": 2}]
    MetricsLog(out, 0, 0).write({"step": 1})
    recover(out)  # of a run that was killed
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
