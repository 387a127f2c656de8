"""Damaged rows of one run end neither another run nor the worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from tiny_sweep import FLAGS, grid, metric_rows, start, summaries, wait_for

ROWS = (
    '{"step": 9, "val_loss": "x"}',
    '{"step": 9, "val_loss": null}',
    '{"step": 9, "val_loss": NaN}',
    '{"step": 9, "val_loss": -Infinity}',
    '{"step": 9, "val_loss": [1]}',
    '{"step": "9", "val_loss": 0.1}',
    '{"step": 1e999, "val_loss": 0.1}',
    '{"step": -1, "val_loss": 0.1}',
    f'{{"step": {10**400}, "val_loss": 0.1}}',
    "[1, 2]",
    "\0",
)


@pytest.mark.nightly
def test_damaged_rows_end_no_run(tmp_path: Path, text_file: Path) -> None:
    """Holds during both runs, when they are resumed, and in `explain` and `report`."""
    (tmp_path / "g.yaml").write_text(grid(2, 1, steps=3000, every=100))
    words = ("sweep", "g.yaml", text_file, "--workers", "2", "--", *FLAGS)
    process = start(tmp_path, *words, OMP_NUM_THREADS="1")
    folder = tmp_path / "runs/g"
    rows = [folder / f"run-000{number}/metrics.jsonl" for number in (1, 2)]
    wait_for(lambda: all(each.exists() and "val_loss" in each.read_text() for each in rows))
    with rows[0].open("a") as file:
        file.write("\n".join(ROWS) + "\n")
    os.kill(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 130, output
    agent = start(tmp_path, "agent", folder, OMP_NUM_THREADS="1")
    output, _ = agent.communicate(timeout=400)
    assert agent.returncode == 0, output
    assert "Traceback" not in output
    assert [each["status"] for each in summaries(folder).values()] == ["done", "done"]
    scores = [row["val_loss"] for row in metric_rows(rows[1].parent) if "val_loss" in row]
    assert summaries(folder)["run-0002"]["best_val_loss"] == min(scores)
    with rows[0].open("a") as file:
        file.write("\n".join(ROWS) + "\n")
    for command in ("explain", "report"):
        reading = start(tmp_path, command, folder)
        output, _ = reading.communicate(timeout=100)
        assert reading.returncode == 0, output
        if command == "explain":  # a row with a valid step counts without its val_loss
            assert "6 lines of metrics.jsonl cannot be read" in output
