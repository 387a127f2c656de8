"""`list`: sweeps and runs with their state, also of what is running, new or unreadable."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from conftest import Run
from results_on_disk import SWEEP, write_run, write_sweep


def change_summary(run: Path, **fields: Any) -> None:
    """Change fields of a run's summary.json."""
    file = run / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_states_of_sweeps_and_runs(run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_sweep(runs / "whole", {0.0001: [2.0, 2.1], 0.001: [1.5, 1.6], 0.01: [1.8, 1.9]})
    half = write_sweep(runs / "half", {0.001: [1.5]})
    write_sweep(runs / "busy", {0.001: [1.7, 1.6]})
    new = runs / "new"
    new.mkdir()
    for name, content in (("sweep.yaml", SWEEP), ("study.db", "")):
        (new / name).write_text(content)
    blown = write_sweep(runs / "blown", {0.01: [3.0] * 6})
    for run_folder in blown.glob("run-*"):
        change_summary(run_folder, status="diverged")
    write_run(runs / "data-2", {}, [2.5, 2.4], status="diverged")
    write_run(runs / "data-10", {}, [2.5, 2.4])
    here = {"status": "running", "host": socket.gethostname()}
    change_summary(runs / "busy/run-0002", **here, process=os.getpid())
    write_run(runs / "killed", {}, [2.5])
    change_summary(runs / "killed", **here, process=2**22 + 1)
    change_summary(write_run(runs / "far", {}, [2.5]), status="running", host="other", process=1)
    broken = write_sweep(runs / "odd", {0.001: [1.5]})
    (broken / "sweep.yaml").write_text("[")
    (runs / "link").symlink_to(half)
    done = run("list")
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines()}
    assert rows == {
        "runs/blown": "diverged 6 of 6 runs",
        "runs/busy": "in progress 1 of 6 runs val_loss 1.7000 (run-0001)",
        "runs/data-2": "diverged 20 of 20 steps val_loss 2.4000",
        "runs/data-10": "done 20 of 20 steps val_loss 2.4000",
        "runs/far": "unfinished 10 of 10 steps val_loss 2.5000",
        "runs/half": "stopped 1 of 6 runs val_loss 1.5000 (run-0001)",
        "runs/killed": "killed 10 of 10 steps val_loss 2.5000",
        "runs/new": "stopped 0 of 6 runs",
        "runs/odd": "done 1 runs val_loss 1.5000 (run-0001)",
        "runs/whole": "done 6 of 6 runs val_loss 1.5000 (run-0003)",
    }
    names = list(rows)
    assert names.index("runs/data-2") < names.index("runs/data-10")
    found = json.loads(run("list", "runs", "--json").stdout)
    assert [each["folder"] for each in found["runs"]] == [
        "runs/data-2", "runs/data-10", "runs/far", "runs/killed",
    ]  # fmt: skip
    whole = found["sweeps"][-1]
    assert whole == {
        "folder": "runs/whole", "state": "done", "done": 6, "total": 6,
        "metric": "val_loss", "best": 1.5, "best_run": "run-0003",
    }  # fmt: skip


def test_a_sweep_lists_its_runs(run: Run, tmp_path: Path) -> None:
    write_sweep(tmp_path / "s", {0.001: [1.5, 1.6]})
    lines = run("list", "s").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["s", "s/run-0001", "s/run-0002"]
    assert "val_loss 1.6000" in lines[2]


def test_a_folder_without_runs(run: Run, tmp_path: Path) -> None:
    done = run("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "runs: no sweep and no run in it\n"
    assert json.loads(run("list", "--json").stdout) == {"sweeps": [], "runs": []}
    (tmp_path / "sweep.yaml").write_text(SWEEP)  # the user's own file is no sweep's folder
    assert run("list", ".").stdout == ""
    done = run("list", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
