"""The timeline: when runs were in progress, and how many at once."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from results_on_disk import write_run

from fundamentallm.report.read_runs import read_results
from fundamentallm.report.timeline import assign_rows, timeline

TIMES = st.floats(0, 1000, allow_nan=False).map(lambda time: round(time, 1))
PERIODS = st.lists(st.tuples(TIMES, TIMES).map(lambda ends: (min(ends), max(ends))), max_size=30)


@given(PERIODS)
def test_runs_of_a_row_do_not_overlap(periods: list[tuple[float, float]]) -> None:
    rows = assign_rows(periods)
    assert len(rows) == len(periods)
    for row in set(rows):
        own = sorted(period for period, its in zip(periods, rows, strict=True) if its == row)
        assert all(b[0] >= a[1] - 0.5 for a, b in pairwise(own))


def timed(folder: Path, start: float, seconds: float, *, copied: bool = False) -> None:
    write_run(folder, {"dropout": start / 10_000}, [2.0])
    summary = json.loads((folder / "summary.json").read_text()) | {"seconds": seconds}
    (folder / "summary.json").write_text(json.dumps(summary))
    began = start + seconds if copied else start
    os.utime(folder / "config.yaml", (began, began))
    os.utime(folder / "summary.json", (start + seconds, start + seconds))


def test_periods_come_from_the_files(tmp_path: Path) -> None:
    timed(tmp_path / "a", 1000, 100)
    timed(tmp_path / "b", 1050, 100)
    timed(tmp_path / "c", 1101, 100)
    timed(tmp_path / "d", 2000, 100, copied=True)  # as `cp -r` leaves it
    results = read_results([tmp_path])
    assert [run.period for run in results.runs] == [(1000, 1100), (1050, 1150), (1101, 1201), None]
    plot = timeline(results)
    assert plot is not None
    assert [list(trace.y) for trace in plot.figure.data] == [[1, 2, 1]]
    assert timeline(read_results([tmp_path / "a"])) is None
