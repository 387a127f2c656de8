"""Lines of a run between its evaluations, where there is no bar."""

from __future__ import annotations

import pytest

from fundamentallm.trackers.console import ConsoleTracker


class Clock:
    """A clock that moves when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(
    capsys: pytest.CaptureFixture[str], seconds: float, minutes: float = 0.0, step: int = 0
) -> list[str]:
    """Return the lines of 40 rows, ten steps each, of which the 20th is an evaluation's."""
    clock = Clock()
    tracker = ConsoleTracker(clock)
    tracker.start({"max_minutes": minutes}, total_steps=1000, step=step, facts={})
    for row in range(1, 41):
        clock.now += seconds
        scored = {"val_loss": 2.5} if row == 20 else {}
        tracker.log({"epoch": row / 40, "train_loss": 3.0, **scored}, step=step + 10 * row)
    tracker.finish({})
    return capsys.readouterr().out.splitlines()


def test_a_line_a_minute_between_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, 10)
    minute = "step   60/1000  epoch 0.15  train_loss 3.0000  about 16 min left"
    assert lines[0] == minute
    steps = [int(line.split()[1].partition("/")[0]) for line in lines]
    assert steps == [60, 120, 180, 200, 260, 320, 380]
    assert lines[3] == "step  200/1000  epoch 0.50  train_loss 3.0000  val_loss 2.5000"


def test_no_line_where_evaluations_come_sooner(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = lines_of(capsys, 2)
    assert "val_loss" in line


def test_slow_steps_have_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(lines_of(capsys, 100)) == 40


def test_the_time_left_respects_max_minutes_and_a_resume(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert lines_of(capsys, 10, minutes=3.0)[0].endswith("about 2.0 min left")
    resuming, first, *_ = lines_of(capsys, 10, step=500)
    assert resuming == "resuming after step 500 of 1,000"
    assert first.startswith("step  560/1000")
    assert first.endswith("about 7.3 min left")
