import re
import time
from functools import partial

import pytest
from rich.progress import Progress

from diladiff_cli.notes import say
from diladiff_cli.runtime import progress
from diladiff_cli.runtime.progress import Bar, RateColumn, Spinner


def test_off_a_terminal_a_bar_speaks_now_and_then_and_at_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar("work", 100) as bar:
        for i in range(100):
            now[0] += 1
            bar.update(1, f"loss {i}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "work 1/100 loss 0",
        "work 32/100 loss 31, 0:01:08 left",
        "work 63/100 loss 62, 0:00:37 left",
        "work 94/100 loss 93, 0:00:06 left",
        "work 100/100 loss 99",
    ]


def test_the_time_left_is_told_of_slow_work_as_well(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Bar("work", 103, done=100) as bar:
        for _ in range(3):
            now[0] += 40
            bar.update(1, "done")
    assert capsys.readouterr().err.splitlines() == [
        "work 101/103 done",
        "work 102/103 done, 0:00:40 left",
        "work 103/103 done",
    ]


def test_a_bar_that_goes_on_starts_where_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("work", 10, done=9) as bar:
        bar.update(1, "end")
    assert capsys.readouterr().err == "work 10/10 end\n"


def test_what_is_done_meanwhile_is_told_and_taken_back(capsys: pytest.CaptureFixture[str]) -> None:
    def text(bar: Bar) -> str:
        return str(bar._progress.tasks[0].fields["text"])

    with Bar("work", 10, done=4) as bar:
        bar.update(1, "loss 1")
        with pytest.raises(ZeroDivisionError), bar.doing("validating"):
            assert text(bar) == "validating"
            raise ZeroDivisionError
        assert text(bar) == "loss 1"
    assert capsys.readouterr().err == "work 5/10 loss 1\nwork 5/10 validating\n"
    with Bar("work", 1, enabled=False) as bar, bar.doing("validating"):
        assert capsys.readouterr().err == ""


def test_a_disabled_bar_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Bar("work", 1, enabled=False) as bar:
        bar.update(1, "end")
    assert capsys.readouterr().err == ""


def test_a_spinner_ends_with_its_last_words_unless_something_failed(capsys: pytest.CaptureFixture[str]) -> None:
    with Spinner("reading") as spinner:
        spinner.update("7 documents")
    assert capsys.readouterr().err == "reading: 7 documents\n"
    with pytest.raises(ZeroDivisionError), Spinner("reading") as spinner:
        spinner.update(f"{1 // 0} documents")
    assert capsys.readouterr().err == ""


def test_words_for_the_user_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_on_a_terminal_a_bar_shows_its_rate_and_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(progress, "Progress", partial(Progress, get_time=lambda: now[0]))
    for name, value in (("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "0"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    with Bar("work", 100) as bar:
        for _ in range(5):
            now[0] += 0.5
            bar.update(2, "loss 3")
    found = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err).split())
    assert "10/100 4/s 0:00:23 loss 3" in found  # 90 left at 4/s, rounded up


def test_a_slow_rate_keeps_its_digits_and_an_unknown_one_is_left_out() -> None:
    now = [0.0]
    bars = Progress(get_time=lambda: now[0])
    task = bars.add_task("work", total=100_000)
    texts = [RateColumn().render(bars.tasks[0]).plain]
    for seconds, units in ((0, 1), (10, 0.25), (10, 0.25)):
        now[0] += seconds
        bars.update(task, advance=units)
    texts.append(RateColumn().render(bars.tasks[0]).plain)
    bars.update(task, advance=70_000)
    texts.append(RateColumn().render(bars.tasks[0]).plain)
    assert texts == ["", "0.025/s", "3,500/s"]


def test_a_spinner_tells_the_share_and_the_time_left_where_the_whole_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for total, told in ((80, "reading: 7 documents, 25%, 0:02:00 left\n"), (0, "reading: 7 documents\n")):
        with Spinner("reading", total) as spinner:
            spinner.advance(15)
            spinner.update("6 documents")  # not yet time for a line
            spinner.advance(5)
            now[0] += 40
            spinner.update("7 documents")
            assert capsys.readouterr().err == told
        assert capsys.readouterr().err == "reading: 7 documents\n"
