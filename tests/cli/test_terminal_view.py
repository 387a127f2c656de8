"""The live table fits the terminal, for any program's names."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fundamentallm.cli.terminal_view import TableView
from fundamentallm.status import RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.file.sweep_file import parse_sweep
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


def table(width: int, *, is_ours: bool = False, text: str = SWEEP) -> list[str]:
    sweep = parse_sweep(text, "sweep.yaml")
    view = TableView(SearchSpace(sweep, {}, is_ours=is_ours), sweep.ranks_by)
    run = Run(0, (Trial(0, 0, VALUES, RunStatus.RUNNING, "me"),))
    view.rows[0] = (Row(0, 0, {}), view.started_at, run)
    view.rows[1] = (Row(0, 0, {sweep.ranks_by.name: 0.53}), view.started_at, run)
    view.rows[2] = (Row(1234567, 0, {"loss": 1.0}), view.started_at, run)
    view.rows[3] = (Row(20, 100, {sweep.ranks_by.name: 12345678.0}), view.started_at, run)
    view.update(RunIndex.of(run.trials), 30)
    console = Console(width=width, file=io.StringIO())
    with console.capture() as captured:
        console.print(view.render())
    return captured.get().splitlines()


def test_another_programs_metric_and_parameters() -> None:
    heading, *rows, caption = table(80)
    columns = heading.split()
    assert columns == ["run", "step", "…curacy/dataloader_0", "seconds", "configuration"]
    assert [row.split()[:2] for row in rows] == [
        ["1", "0"], ["2", "0"], ["3", "1234567"], ["4", "20/100"],
    ]  # fmt: skip
    assert "0.5300" in rows[1]
    assert "1.235e+07" in rows[3]
    assert all("layers 4, optimizer (adamw, beta2" in row for row in rows)
    assert all(len(row) <= 80 for row in (heading, *rows))
    assert caption.startswith("0 of 30 ended, 1 running")
    assert caption == caption.rstrip()


@pytest.mark.parametrize("width", [50, 60, 200])
def test_numbers_are_whole_at_any_width(width: int) -> None:
    _, *rows, _ = table(width)
    assert "1234567" in rows[2]
    assert "1.235e+07" in rows[3]


def test_a_sweep_without_a_metric_has_no_column_of_one() -> None:
    text = "".join(line for line in SWEEP.splitlines(keepends=True) if line[:6] != "metric")
    assert table(80, text=text)[0].split() == ["run", "step", "seconds", "configuration"]


def test_ours_has_the_training_loss() -> None:
    assert "train_loss" in table(120, is_ours=True)[0]
