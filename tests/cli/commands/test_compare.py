"""`compare`: tables and JSON of differing settings and results."""

from __future__ import annotations

import json
from pathlib import Path

from conftest import Run
from results_on_disk import write_sweep


def test_many_runs_are_shown_in_tables_that_fit(run: Run, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {0.001 + 0.0005 * i: [1.5 + i / 100] for i in range(12)})
    lines = run("compare", "s").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("val_loss" in line for line in lines) > 1  # a table each
    for i in range(12):
        assert any(f"{1.5 + i / 100:.4f}" in line for line in lines)


def test_differing_settings_are_shown(run: Run, tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", {0.001: [1.5], 0.01: [1.6]})
    done = run("compare", folder / "run-0001", folder / "run-0002")
    assert (done.returncode, "0.01" in done.stdout) == (0, True), done.stderr
    rows = json.loads(run("compare", folder, "--json").stdout)
    assert rows["learning_rate"] == {"run-0001": 0.001, "run-0002": 0.01}
    assert "gradient_clip" not in rows
