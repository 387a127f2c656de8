"""Axes follow the useful range, however far some scores lie beyond it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from results_on_disk import write_run

from fundamentallm.report.axis_range import ScoreAxis
from fundamentallm.report.read_runs import read_results
from fundamentallm.report.results import Results


def results_of(folder: Path, losses: list[float], metric: str = "") -> Results:
    for number, loss in enumerate(losses):
        write_run(folder / f"run-{number}", {"dropout": 0.01 * number}, [loss])
    return read_results([folder], metric)


@pytest.mark.parametrize(
    ("losses", "worst"),
    [
        ([1.5, 1.6, 1.7, 1.8, 1.9, 2.0], 2.0),
        ([1.5, 1.6, 1.7, 1.8, 1.9, 60.0], 1.9),
        ([0.1, 1.6, 1.7, 1.8, 1.9, 2.0], 2.0),  # far better is news, and on the axis
        ([1.5, 60.0], 60.0),
        ([1.5, 1.5, 1.5, 1.5, 1.5, 1.6], 1.6),
        ([1.5], 1.5),
    ],
)
def test_far_worse_scores_are_beyond(tmp_path: Path, losses: list[float], worst: float) -> None:
    results = results_of(tmp_path, losses)
    axis = ScoreAxis.of(results, results.runs)
    assert (axis.best, axis.worst) == (min(losses), worst)
    assert axis.edge >= axis.worst
    beyond = [run.score for run in results.runs if axis.is_beyond(results, run)]
    assert beyond == [loss for loss in losses if loss > worst]


def test_an_axis_of_scores_to_maximize_has_its_edge_below(tmp_path: Path) -> None:
    for number, speed in enumerate([90.0, 100.0, 110.0, 120.0, 130.0, -9999.0]):
        folder = write_run(tmp_path / f"run-{number}", {"dropout": 0.1 * number}, [2.0])
        row = f'{{"step": 10, "perf/tokens_per_second": {speed}}}\n'
        (folder / "metrics.jsonl").write_text(row)
    results = read_results([tmp_path], "perf/tokens_per_second")
    axis = ScoreAxis.of(results, results.runs)
    assert axis.sign * axis.best == 130.0
    assert math.isclose(axis.edge, 88.0)
