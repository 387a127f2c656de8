"""The live view fits the terminal, for any program's names, and moves between results."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from screens import Program, Screen
from tiny_sweep import FLAGS, grid

from fundamentallm.cli.terminal_view import PlainView, TableView
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, RunIndex, Trial

SWEEP = """\
program: other.py
method: random
run_cap: 30
metric: {name: val/mean_accuracy/dataloader_0, goal: maximize}
parameters:
  trainer: {parameters: {learning_rate: {min: 0.0001, max: 0.1}}}
  encoder.layers: {values: [2, 4, 8]}
  optimizer: {values: [{name: adamw, beta2: 0.99}, {name: sgd, momentum: 0.9}]}
"""
VALUES = {
    "trainer.learning_rate": 0.00123,
    "encoder.layers": 4,
    "optimizer": {"name": "adamw", "beta2": 0.99},
}


SIX = """\
program: train.py
method: bayes
run_cap: 40
metric: {name: val_loss}
early_terminate: {type: hyperband, min_iter: 2}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  weight_decay: {distribution: uniform, min: 0.0, max: 0.3}
  dropout: {distribution: uniform, min: 0.0, max: 0.3}
  num_layers: {values: [2, 4, 8]}
  model_dim: {values: [64, 128]}
  batch_size: {values: [16, 32]}
"""
POINT = {
    "learning_rate": 0.0012345, "weight_decay": 0.012345, "dropout": 0.1, "num_layers": 4,
    "model_dim": 128, "batch_size": 32,
}  # fmt: skip


class Clock:
    """A clock that moves when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def running(number: int, values: dict[str, object]) -> Run:
    return Run(number, (Trial(number, number, values, RunStatus.RUNNING, "me"),))


def table(width: int, text: str = SWEEP) -> list[str]:
    """Return the table of four runs of a sweep."""
    screen, sweep = Screen(width, 24), parse_sweep(text, "sweep.yaml")
    space = SearchSpace(sweep, {}, is_ours=False)
    view = TableView(space, sweep.ranks_by, console=screen.console(), clock=Clock())
    runs = [running(number, VALUES) for number in range(4)]
    view.update(RunIndex.of(runs[0].trials), 30)
    with view:
        for run in runs:
            view.started(run, resumes=False)
        view.row(runs[1], Row(0, 0, {sweep.ranks_by.name: 0.53}))
        view.row(runs[2], Row(1234567, 0, {"loss": 1.0}))
        view.row(runs[3], Row(20, 100, {sweep.ranks_by.name: 12345678.0}))
        view.draw()
        lines = screen.lines
    return lines[next(i for i, line in enumerate(lines) if line.startswith("run  ")) :]


def test_another_programs_metric_and_parameters() -> None:
    heading, *rows, sweep, times = table(80)
    columns = ["run", "status", "progress", "…curacy/dataloader_0", "time", "configuration"]
    assert heading.split() == columns
    assert [row.split()[:3] for row in rows] == [
        ["1", "starting", "0:00"],
        ["2", "running", "0"],
        ["3", "running", "1234567"],
        ["4", "running", "━━╺━━━━━━━"],
    ]
    assert "20%" in rows[3]
    assert "0.5300" in rows[1]
    assert "1.235e+07" in rows[3]
    assert all("layers 4" in row for row in rows)
    assert all(len(line) <= 80 for line in (heading, *rows, sweep))
    assert re.fullmatch(r"sweep  ━+   0%  0 of 30 runs, 1 running", sweep)
    assert times == "0:00 elapsed"


@pytest.mark.parametrize("width", [50, 60, 200])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    _, *rows, _, _ = table(width)
    assert "1234567" in rows[2]
    assert "1.235e+07" in rows[3]


def test_a_sweep_without_a_metric_has_no_column_of_one() -> None:
    text = "".join(line for line in SWEEP.splitlines(keepends=True) if line[:6] != "metric")
    columns = ["run", "status", "progress", "time", "configuration"]
    assert table(80, text)[0].split() == columns


# --- A sweep of six parameters after twelve runs ---


@contextmanager
def after_twelve_runs(screen: Screen, **console: object) -> Iterator[tuple[TableView, Clock]]:
    """Yield the view of a sweep after twelve runs, while three are in progress."""
    sweep, clock = parse_sweep(SIX, "sweep.yaml"), Clock()
    known = screen.console(**console)
    view = TableView(SearchSpace(sweep, {}), sweep.ranks_by, console=known, clock=clock)
    with view:
        runs = RunIndex()
        for number in range(12):
            is_stopped = number % 4 == 3
            status, seconds = (RunStatus.STOPPED, 20) if is_stopped else (RunStatus.DONE, 60)
            score = 1.9 + 0.01 * number
            ended = Trial(number, number, POINT, status, "me", score=score, seconds=seconds)
            view.ended(Run(number, (ended,)), ended)
            runs.update([ended])
            view.update(runs, 40)
        clock.now = 700
        new = [running(number, POINT) for number in (12, 13, 14)]
        runs.update(run.trials[0] for run in new)
        view.update(runs, 40)
        for run in new:
            view.started(run, resumes=run.number == 14)
        for step in range(10, 620, 10):
            clock.now += 0.5
            val = {"val_loss": 1.8732} if step % 100 == 0 else {}
            view.row(new[0], Row(step, 1000, {"train_loss": 1.9012, **val}))
        view.row(new[1], Row(10, 1000, {"train_loss": 3.9012}))
        view.draw()
        yield view, clock


TABLE_80 = """\
run  status    progress         train_loss  val_loss  left  configuration
 13  running   ━━━━━━╺━━━  61%      1.9012    1.8732  0:20  batch_size 32, drop…
 14  running   ━━━━━━━━━━   1%      3.9012                  batch_size 32, drop…
 15  resuming                                               batch_size 32, drop…
sweep  ━━━╺━━━━━━  31%  12 of 40 runs, 3 running (9 done, 3 stopped early)
12:10 elapsed, about 7:16 left, best val_loss 1.9000 (run 1)
"""
TABLE_100 = """\
run  status    progress         train_loss  val_loss  left  configuration
 13  running   ━━━━━━╺━━━  61%      1.9012    1.8732  0:20  batch_size 32, dropout 0.1, learning_ra…
 14  running   ━━━━━━━━━━   1%      3.9012                  batch_size 32, dropout 0.1, learning_ra…
 15  resuming                                               batch_size 32, dropout 0.1, learning_ra…
sweep  ━━━╺━━━━━━  31%  12 of 40 runs, 3 running (9 done, 3 stopped early)
12:10 elapsed, about 7:16 left, best val_loss 1.9000 (run 1)
"""
WHOLE = (
    "batch_size 32, dropout 0.1, learning_rate 0.00123, model_dim 128, num_layers 4, "
    "weight_decay 0.0123"
)
TABLE_200 = f"""\
run  status    progress                       step  train_loss  val_loss  left  configuration
 13  running   ━━━━━━━━━━━━╺━━━━━━━  61%  610/1000      1.9012    1.8732  0:20  {WHOLE}
 14  running   ━━━━━━━━━━━━━━━━━━━━   1%   10/1000      3.9012                  {WHOLE}
 15  resuming                                                                   {WHOLE}
sweep  ━━━━━━╺━━━━━━━━━━━━━  31%  12 of 40 runs, 3 running (9 done, 3 stopped early)
12:10 elapsed, about 7:16 left, best val_loss 1.9000 (run 1)
"""


@pytest.mark.parametrize(
    ("columns", "rows", "expected"),
    [(80, 24, TABLE_80), (100, 30, TABLE_100), (200, 50, TABLE_200)],
)
def test_the_screen(columns: int, rows: int, expected: str) -> None:
    screen = Screen(columns, rows)
    with after_twelve_runs(screen):
        *printed, last = screen.lines[:-6], screen.lines[-6:]
        assert "\n".join(last) + "\n" == expected
        assert any(f"run 15 of 40 resumes: {WHOLE}"[: columns - 20] in line for line in printed[0])
    assert not any("elapsed" in line for line in screen.lines)  # erased at the end
    assert "run 15 of 40 resumes" in " ".join(screen.lines)


def test_time_passes_between_results() -> None:
    screen = Screen(80, 24)
    with after_twelve_runs(screen) as (view, clock):
        clock.now += 7
        view.draw()
        assert "  0:12  batch_size" in screen.lines[-5]
        assert screen.lines[-1].startswith("12:18 elapsed, about 7:09 left")


def test_colors_say_how_runs_ended() -> None:
    screen = Screen(200, 50)
    with after_twelve_runs(screen) as (view, _):
        failed = Trial(13, 13, POINT, RunStatus.FAILED, "me", note="ValueError")
        view.ended(Run(13, (failed,)), failed)
        first = next(
            i for i, line in enumerate(screen.lines) if "run 1 of" in line or "run 1 d" in line
        )
        last = next(i for i, line in enumerate(screen.lines) if "ValueError" in line)
        assert (screen.color(first, 0), screen.color(last, 0)) == ("green", "red")
        bar = len(screen.lines) - 2
        assert screen.color(bar, 8) != screen.color(bar, 25)  # what is done, and what is not


def test_without_color_bars_end_where_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(80, 24)
    with after_twelve_runs(screen, no_color=True):
        assert "━━━━━━      61%" in screen.lines[-5]
        assert {c.fg for row in screen.screen.buffer.values() for c in row.values()} == {"default"}


def test_a_terminal_with_fewer_rows_than_trials() -> None:
    screen = Screen(80, 24)
    with after_twelve_runs(screen) as (view, _):
        for number in range(15, 50):
            view.started(running(number, POINT), resumes=False)
        view.draw()
        lines = screen.lines
        heading = next(i for i, line in enumerate(lines) if line.startswith("run  "))
        assert [line.split()[0] for line in lines[heading + 1 : -3]] == [*map(str, range(13, 32))]
        assert lines[-3] == "and 19 more"
        assert lines[-2].startswith("sweep")
        assert len(lines) == 24


@pytest.mark.parametrize("breaks_lines", [True, False])
def test_a_narrower_terminal_shows_no_rest_of_the_wider_one(breaks_lines: bool) -> None:
    screen = Screen(200, 50)
    with after_twelve_runs(screen) as (view, _):
        with view.drawing:
            if breaks_lines:
                screen.narrow(100)
            else:
                screen.screen.resize(50, 100)
            view.console.width = 100
        view.draw()
        assert "\n".join(screen.lines[-6:]) + "\n" == TABLE_100
        assert sum("elapsed" in line for line in screen.lines) == 1
        assert sum("run 13 of 40 starts" in line for line in screen.lines) == 1
        with view.drawing:
            screen.screen.resize(50, 200)
            view.console.width = 200
        view.draw()
        assert "\n".join(screen.lines[-6:]) + "\n" == TABLE_200
        assert sum("elapsed" in line for line in screen.lines) == 1


# --- Without a terminal ---


def test_one_line_a_minute_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    sweep, clock = parse_sweep(SIX, "sweep.yaml"), Clock()
    view = PlainView(SearchSpace(sweep, {}), sweep.ranks_by, clock=clock)
    done = Trial(0, 0, POINT, RunStatus.DONE, "me", score=1.9, seconds=100)
    new = [running(number, POINT) for number in range(1, 7)]
    runs = RunIndex.of([done, *(run.trials[0] for run in new)])
    view.update(runs, 40)
    for run in new:
        view.started(run, resumes=False)
    capsys.readouterr()
    while clock.now < 130:
        clock.now += 2
        for run in new[1:]:
            view.row(run, Row(10 * int(clock.now), 10000, {"train_loss": 3.0}))
        view.update(runs, 40)
    first, second = capsys.readouterr().out.splitlines()
    assert first == (
        "1 of 40 runs, 6 running; 1:00 elapsed, about 1:33:10 left, best val_loss 1.9000 (run 1); "
        "run 3 at 6%, run 4 at 6%, run 5 at 6%, run 6 at 6% and 1 more"
    )
    assert second.startswith("1 of 40 runs, 6 running; 2:00 elapsed, about 1:32:")


def test_a_worker_that_starts_few_runs_is_soon_done(capsys: pytest.CaptureFixture[str]) -> None:
    sweep, clock = parse_sweep(SIX, "sweep.yaml"), Clock()
    view = PlainView(SearchSpace(sweep, {}), sweep.ranks_by, count=2, clock=clock)
    done = Trial(0, 0, POINT, RunStatus.DONE, "me", score=1.9, seconds=100)
    run = running(1, POINT)
    view.started(run, resumes=False)
    clock.now = 60
    view.update(RunIndex.of([done, *run.trials]), 40)
    assert "about 2:20 left" in capsys.readouterr().out  # 40 seconds, and one run of 100


# --- A real sweep ---


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        (80, 24),
        pytest.param(100, 30, marks=pytest.mark.slow),
        pytest.param(200, 50, marks=pytest.mark.slow),
    ],
)
def test_a_sweep_in_a_terminal(columns: int, rows: int, text_file: Path, tmp_path: Path) -> None:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "g.yaml").write_text(grid(2, 1, steps=1_000_000))
    words = ["sweep", "g.yaml", text_file, "--workers=2", "--", *FLAGS, "--epochs=1000000"]
    numbers = r"(\S+/\S+)? +\d\.\d{4} +\d\.\d{4} +[\d:]+"
    row = rf"  [12]  running   ━+ +\d+%  {numbers}  learn.*"

    def both_run(lines: list[str]) -> bool:
        return sum(bool(re.fullmatch(row, line)) for line in lines) == 2 and "left" in lines[-1]

    with Program(tmp_path, columns, rows, *words) as program:
        lines = program.wait_for(both_run)
        assert lines[-5].split()[:3] == ["run", "status", "progress"]
        assert re.fullmatch(r"sweep  ━+   0%  0 of 2 runs, 2 running", lines[-2])
        assert re.fullmatch(r"0:\d\d elapsed, about [\d:]+ left", lines[-1])
        assert all(len(line) <= columns for line in lines)
        program.resize(70, rows)
        program.screen.screen.resize(rows, 70)
        os.kill(program.process.pid, signal.SIGWINCH)
        program.wait_for(
            lambda lines: both_run(lines) and sum("elapsed" in each for each in lines) == 1
        )
        assert sum(line.startswith("run  status") for line in program.screen.lines) == 1
        os.kill(program.process.pid, signal.SIGINT)
        lines = program.finish()
        assert program.process.returncode == 130
        assert not any("elapsed" in line for line in lines)
        assert sum("interrupted and saved" in line for line in lines) == 2


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}])
def test_a_terminal_that_can_do_less(
    environment: dict[str, str], text_file: Path, tmp_path: Path
) -> None:
    shutil.copy2(ROOT / "train.py", tmp_path)
    (tmp_path / "g.yaml").write_text(grid(2, 1))
    words = ["sweep", "g.yaml", text_file, "--workers=2", "--", *FLAGS]
    with Program(tmp_path, 80, 24, *words, **environment) as program:
        lines = program.finish()
    assert sum("done, val_loss" in line for line in lines) == 2
    cells = [cell for row in program.screen.screen.buffer.values() for cell in row.values()]
    assert {cell.fg for cell in cells} == {"default"}


def test_the_best_is_a_mean_where_seeds_are_repeated() -> None:
    text = "method: grid\nmetric: {name: loss}\nparameters: {x: {values: [1, 2]}, seed: {value: 0}}"
    sweep = parse_sweep(text, "sweep.yaml")
    space = SeededSpace(SearchSpace(sweep, {}, is_ours=False), 3)
    view = PlainView(space, sweep.ranks_by)
    lines: list[str] = []
    view.print_line = lambda text, style="": lines.append(text)
    scores = [(1, 0, 0.5), (2, 0, 0.6), (1, 1, 0.9)]
    trials = [
        Trial(i, i, {"x": x, "seed": seed}, RunStatus.DONE, "me", score=score)
        for i, (x, seed, score) in enumerate(scores)
    ]
    view.update(RunIndex.of(trials[:2]), 6)
    assert view.best is not None
    assert (view.best.score, view.best.who) == (0.5, "run 1")
    view.ended(Run(2, (replace(trials[2], status=RunStatus.RUNNING),)), trials[2])
    assert "(best 0.6000, run 2)" in lines[-1]
    view.update(
        RunIndex.of([*trials, Trial(3, 3, {"x": 2, "seed": 1}, RunStatus.DONE, "", 0.7)]), 6
    )
    assert (round(view.best.score, 3), view.best.who) == (0.65, "mean of runs 2, 4")
