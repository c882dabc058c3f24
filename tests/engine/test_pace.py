"""The clock of a training: its means, and the warning that a GPU waits for data."""

from __future__ import annotations

import pytest

from soco_core.engine import pace
from soco_core.engine.pace import Pace


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    monkeypatch.setattr(pace, "usable_cores", lambda: 16)
    return made


def run(made: Pace, clock: Clock, steps: int, waited: float, computed: float) -> dict[str, float]:
    for _ in range(steps):
        with made.waiting():
            clock.now += waited
        clock.now += computed
        made.step()
    return made.look()


def test_the_means_are_of_the_steps_since_the_last_look(clock: Clock) -> None:
    made = Pace("pretrain", 8, 2, True)
    clock.now += 1000
    made.begin()
    assert run(made, clock, 4, 0.5, 1.5) == {"seconds_per_step": 2.0, "images_per_second": 4.0, "data_wait": 0.25}
    assert run(made, clock, 2, 0.0, 1.0) == {"seconds_per_step": 1.0, "images_per_second": 8.0, "data_wait": 0.0}


def test_a_wait_that_is_broken_off_counts(clock: Clock) -> None:
    made = Pace("pretrain", 8, 2, True)

    def stopped() -> None:
        with made.waiting():
            clock.now += 3
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    clock.now += 1
    made.step()
    assert made.look()["data_wait"] == 0.75


def test_long_waits_are_warned_of_once(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    made = Pace("pretrain", 8, 2, True)
    run(made, clock, 10, 9.0, 1.0)  # the loader starts
    for _ in range(4):
        run(made, clock, 10, 0.6, 0.4)
    assert capsys.readouterr().err == ""
    for _ in range(20):
        run(made, clock, 10, 0.6, 0.4)
    assert capsys.readouterr().err.splitlines() == [
        "warning: pretrain: the GPU waits for data 60 % of the time; raise runtime.workers (2 load for each process, "
        "and this machine has 16 cores), or keep the images nearer (a local disk, a pack)"
    ]


@pytest.mark.parametrize(("warns", "waited"), [(True, 0.19), (False, 0.6)])
def test_short_waits_and_those_of_a_cpu_are_not(
    warns: bool, waited: float, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Pace("pretrain", 8, 2, warns)
    for _ in range(20):
        run(made, clock, 10, waited, 1.0 - waited)
    assert capsys.readouterr().err == ""
