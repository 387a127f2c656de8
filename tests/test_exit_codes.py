"""Exit codes by status, and the status that a report shows for an early stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from results_on_disk import write_sweep

from fundamentallm.exit_codes import of_run
from fundamentallm.report.read_runs import read_results


@pytest.mark.parametrize(
    ("status", "stopped_by", "alone", "in_sweep"),
    [
        ("done", "epochs", 0, 0),
        ("interrupted", "SIGINT", 130, 130),
        ("interrupted", "SIGTERM", 143, 143),
        ("interrupted", "SIGHUP", 129, 129),
        ("interrupted", "wandb", 0, 0),
        ("interrupted", "hyperband", 0, 0),
        ("interrupted", "a closed pipe", 1, 1),
        ("diverged", "train_loss is nan at step 3", 1, 0),
        ("impossible", "", 0, 0),
        ("refused", "", 2, 2),
        ("failed", "", 1, 1),
        ("oom", "", 1, 1),
    ],
)
def test_exit_code_of_a_status(status: str, stopped_by: str, alone: int, in_sweep: int) -> None:
    assert of_run(status, stopped_by, in_sweep=False) == alone
    assert of_run(status, stopped_by, in_sweep=True) == in_sweep


@pytest.mark.parametrize("stopped_by", ["hyperband", "wandb"])
def test_a_run_stopped_early_is_ranked(stopped_by: str, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.001: [2.0, 1.5]})
    file = folder / "run-0002/summary.json"
    summary = json.loads(file.read_text()) | {"status": "interrupted", "stopped_by": stopped_by}
    file.write_text(json.dumps(summary))
    results = read_results([folder])
    assert results.best is not None
    assert (results.best.name, results.best.status) == ("run-0002", "stopped")
