import re
import time
from collections.abc import Callable

import pytest

from diladiff_cli.notes import say
from diladiff_cli.runtime import progress
from diladiff_cli.runtime.progress import Bar, Spinner


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


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What a bar of 100 shows last on a terminal, from the seconds and units of its updates."""

    def bar_of(*updates: tuple[float, int], columns: int = 120, text: str = "loss 3") -> str:
        now = [1000.0]
        monkeypatch.setattr(time, "monotonic", lambda: now[0])
        for name, value in (("TTY_COMPATIBLE", "1"), ("TTY_INTERACTIVE", "0"), ("COLUMNS", str(columns))):
            monkeypatch.setenv(name, value)
        made = Bar("work", 100)
        now[0] += 500.0  # which is not part of the work
        with made as bar:
            for seconds, units in updates:
                now[0] += seconds
                bar.update(units, text)
        found = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
        return " ".join(found.strip().splitlines()[-1].split())

    return bar_of


def test_on_a_terminal_a_bar_shows_its_rate_and_the_time_left(shown: Callable[..., str]) -> None:
    assert "10/100 4/s 0:00:22 loss 3" in shown(*[(0.5, 2)] * 5)  # 90 left at 4/s


def test_units_that_come_together_took_the_time_before_them(shown: Callable[..., str]) -> None:
    batch = [(8.0, 1), *[(0.001, 1)] * 31]
    assert "32/100 3.98/s loss 3" in shown(*batch)
    assert "64/100 3.98/s 0:00:09 loss 3" in shown(*batch, *batch)


def test_slow_first_units_do_not_count_once_others_follow(shown: Callable[..., str]) -> None:
    assert "1/100 0.0167/s loss 3" in shown((60.0, 1))
    assert "11/100 1/s 0:01:29 loss 3" in shown((60.0, 1), *[(1.0, 1)] * 10)


def test_a_fast_rate_is_whole_and_one_of_nothing_is_left_out(shown: Callable[..., str]) -> None:
    assert "0/100 loss 3" in shown((5.0, 0))
    assert "90/100 3,000/s loss 3" in shown((0.03, 90))


def test_a_narrow_terminal_cuts_the_text_and_not_the_figures(shown: Callable[..., str]) -> None:
    text = "loss 4.2834, 11,530 tokens/s, lr 0.0016"
    found = shown(*[(0.5, 2)] * 5, columns=60, text=text)
    assert "10/100 4/s 0:00:22 loss 4" in found
    assert found.endswith("…")
    assert "loss 4.2834, 11,530 tokens/s" in shown(*[(0.5, 2)] * 5, columns=80, text=text)
    assert shown(*[(0.5, 2)] * 5, columns=140, text=text).endswith(text)


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
