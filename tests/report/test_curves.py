"""Curves: what the page needs to draw them over steps, tokens and seconds."""

from __future__ import annotations

import json
from pathlib import Path

from results_on_disk import write_run

from fundamentallm.report.curves import CurveParts, training_time
from fundamentallm.report.read_runs import read_results


def logged(folder: Path, rows: list[tuple[int, int, float]]) -> Path:
    write_run(folder, {"dropout": 0.1}, [2.0])
    lines = [
        {"step": step, "val_loss": 2.0, "tokens": tokens, "perf/tokens_per_second": speed}
        for step, tokens, speed in rows
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    return folder


def test_seconds_of_training_follow_from_tokens_and_speed(tmp_path: Path) -> None:
    folder = logged(tmp_path / "a", [(10, 1000, 100.0), (20, 2000, 200.0), (30, 2000, 0.0)])
    run = read_results([folder]).runs[0]
    assert training_time(run).values == (10.0, 15.0, 15.0)
    part = CurveParts()(read_results([folder]))["a"]
    assert part["clocks"]["tokens"] == ([10, 20, 30], [1000.0, 2000.0, 2000.0])
    assert part["clocks"]["seconds"] == ([10, 20, 30], [10.0, 15.0, 15.0])
    assert part["lines"]["val_loss"] == ([10, 20, 30], [2.0, 2.0, 2.0])
    assert "train_loss" not in part["lines"]


def test_long_curves_keep_their_end(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"dropout": 0.1}, [3 - i / 1000 for i in range(1001)])
    parts = CurveParts()
    steps, values = parts(read_results([tmp_path]))["a"]["lines"]["val_loss"]
    assert len(steps) == len(values) <= 201
    assert (steps[-1], values[-1]) == (10_010, 2.0)


def test_curves_that_did_not_change_are_the_same_parts(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {"dropout": 0.1}, [2.0, 1.9])
    write_run(tmp_path / "b", {"dropout": 0.2}, [2.0, 1.8])
    results, parts = read_results([tmp_path]), CurveParts()
    first = parts(results)
    assert parts(results)["a"] is first["a"]
    assert parts(read_results([tmp_path])) == first
