"""Plain lines of progress, with a clock that the test moves."""

from __future__ import annotations

import pytest

from soco_core.engine import progress
from soco_core.engine.progress import Progress, duration


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    return clock


def test_a_line_every_five_seconds_with_rate_and_time_left(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("pretrain", total=100, unit="steps") as work:
        for step in range(12):
            clock.now += 1.0
            work.advance(note=f"loss {step}")
    assert capsys.readouterr().err.splitlines() == [
        "pretrain: 1/100 steps, 1.0/s, 1 min 39 s left | loss 0",
        "pretrain: 6/100 steps, 1.0/s, 1 min 34 s left | loss 5",
        "pretrain: 11/100 steps, 1.0/s, 1 min 29 s left | loss 10",
        "pretrain: 12/100 steps, 1.0/s, 1 min 28 s left | loss 11",
    ]


def test_what_an_earlier_attempt_did_counts_for_the_total_and_not_for_the_rate(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("propose", total=100, start=90, unit="images") as work:
        clock.now += 10.0
        work.advance(5)
        work.advance(5)
    assert capsys.readouterr().err.splitlines() == [
        "propose: 95/100 images, 0.5/s, 10 s left",
        "propose: 100/100 images, 1.0/s",
    ]


def test_work_that_never_began_divides_by_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("empty", total=0):
        pass
    assert capsys.readouterr().err == "empty: 0/0 it, 0.0/s\n"


def test_the_last_line_is_not_said_twice(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("one", total=1) as work:
        clock.now += 2.0
        work.advance()
    assert capsys.readouterr().err == "one: 1/1 it, 0.5/s\n"


def test_in_a_terminal_it_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with Progress("pretrain", total=3) as work:
        work.advance(3, note="loss -8")
    shown = capsys.readouterr().err
    assert "pretrain" in shown
    assert "3/3" in shown
    assert "loss -8" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (1e5, "27 h 46 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
