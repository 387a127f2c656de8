"""Promise 1: after a power cut, the disk holds all that a checkpoint or a storage refers to.

power.c records the content of every file and the names in every folder at each sync. A power cut
drops what was not synced, so the state it leaves changes only at a sync. One run thus yields every
possible state, and the tests check each of them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from tiny_sweep import FLAGS, grid, metric_rows, summaries, trials

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.training.checkpoint import Checkpoint

SOURCE = Path(__file__).parent / "power.c"


class Disk:
    """Folder `path`, and every state in which a power cut could leave it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.log = folder, folder / "disk", folder / "log"
        self.state = folder / "state"
        self.path.mkdir()
        self.log.mkdir()

    def environment(self) -> dict[str, str]:
        """Build power.c and return the variables for processes that write to the disk."""
        library = self.folder / "power.so"
        words = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
        subprocess.run(words, check=True)
        shown = {"LD_PRELOAD": library, "POWER_LOG": self.log, "POWER_DISK": self.path}
        return {name: str(value) for name, value in shown.items()}

    def states(self) -> Iterator[Path]:
        """Yield a copy of the disk as each sync left it."""
        contents: dict[str, bytes] = {}
        names: dict[str, list[list[str]]] = {}
        root = ""
        for n, line in enumerate((self.log / "events").read_text().splitlines(), 1):
            kind, key, path = line.split(" ", 2)
            if kind == "file":
                contents[key] = (self.log / str(n)).read_bytes()
            else:
                listed = (self.log / str(n)).read_text().splitlines()
                names[key] = [each.split(" ", 2) for each in listed]
                root = key if path == str(self.path) else root
            shutil.rmtree(self.state, ignore_errors=True)
            self.state.mkdir()
            _write(self.state, root, names, contents)
            yield self.state


def _write(
    folder: Path, key: str, names: dict[str, list[list[str]]], contents: dict[str, bytes]
) -> None:
    for kind, inner, name in names.get(key, []):
        if kind == "d":
            (folder / name).mkdir()
            _write(folder / name, inner, names, contents)
        else:
            (folder / name).write_bytes(contents.get(inner, b""))


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    if sys.platform != "linux" or shutil.which("cc") is None:
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail("needs Linux and a C compiler, and REQUIRE_ALL=1 allows no skip")
        pytest.skip("needs Linux and a C compiler")
    return Disk(tmp_path)


def reproducible(folder: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in row.items() if not name.startswith("perf/")}
        for row in metric_rows(folder)
    ]


def check_claims(run: Path) -> None:
    """Check that the run's folder holds all that last.pt refers to."""
    progress = Checkpoint.load(run / "last.pt").progress
    steps = [row["step"] for row in metric_rows(run)]
    assert progress["step"] - len(progress["losses"]) in steps
    assert steps == sorted(set(steps))
    assert next(row for row in metric_rows(run) if "val_loss" in row)["step"] == 8
    assert progress["sampled_step"] in dict(RunFolder(run).read_samples())
    assert "max_steps: " in (run / "config.yaml").read_text()
    assert json.loads((run / "summary.json").read_text())["total_steps"]


@pytest.mark.nightly
def test_a_run_resumes_from_every_state(
    run: Run, disk: Disk, text_file: Path, tiny_flags: list[str]
) -> None:
    flags = [text_file, *tiny_flags, "--no-wandb", f"--output-dir={disk.path}/runs/out"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in disk.environment().items():
            patch.setenv(name, value)
        assert run("train", *flags).returncode == 0
    expected = reproducible(disk.path / "runs/out")
    checked: list[tuple[str, int]] = []
    for state in disk.states():
        out = state / "runs/out"
        if not (out / "last.pt").exists():
            continue
        check_claims(out)
        status = json.loads((out / "summary.json").read_text())["status"]
        now = status, Checkpoint.load(out / "last.pt").progress["step"]
        if now in checked:
            continue
        checked.append(now)
        resumed = run("train", text_file, "--resume", "--no-wandb", f"--output-dir={out}")
        assert resumed.returncode == 0, resumed.stderr
        assert "missing" not in resumed.stderr
        assert reproducible(out) == expected
    assert checked == [("running", 8), ("running", 16), ("running", 24), ("done", 24)]
    assert reproducible(disk.state / "runs/out") == expected


def finished(folder: Path) -> list[int]:
    """Return the numbers of the runs that are finished in the storage, if it exists yet."""
    if not (folder / "study.db").exists():
        return []
    with closing(sqlite3.connect(folder / "study.db")) as database:
        try:
            rows = database.execute(
                "SELECT value_json FROM trials JOIN trial_user_attributes USING (trial_id) "
                "WHERE state = 'COMPLETE' AND key = 'run'"
            ).fetchall()
        except sqlite3.OperationalError:  # no tables yet
            return []
    return sorted(int(value) for (value,) in rows)


def test_a_sweep_resumes_from_every_state(
    run: Run, disk: Disk, text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(grid(2, 1, steps=16, every=8))
    sweep = ["sweep", "grid.yaml", text_file, "--workers=1", f"--output-dir={disk.path}/lr"]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in disk.environment().items():
            patch.setenv(name, value)
        done = run(*sweep, "--", *FLAGS)
        assert done.returncode == 0, done.stdout + done.stderr
    expected = {name: reproducible(disk.path / "lr" / name) for name in ("run-0001", "run-0002")}
    finished_counts: list[int] = []
    for state in disk.states():
        folder = state / "lr"
        for number in finished(folder):
            out = folder / f"run-{number + 1:04}"
            assert json.loads((out / "summary.json").read_text())["status"] == "done"
            assert reproducible(out) == expected[out.name]
            check_claims(out)
        for out in folder.glob("run-*"):
            if (out / "last.pt").exists():
                check_claims(out)
        if len(finished(folder)) > len(finished_counts):
            finished_counts.append(len(finished(folder)))
            resumed = run("agent", folder, "--data", text_file)
            assert resumed.returncode == 0, resumed.stdout + resumed.stderr
            assert {name: reproducible(folder / name) for name in expected} == expected
            assert sorted(summaries(folder)) == sorted(expected)
    assert finished_counts == [1, 2]
    assert len(trials(disk.state / "lr")) == 2


def test_files_that_an_earlier_version_lost(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    """It synced only checkpoints: settings, rows and the summary could be lost."""
    out = tmp_path / "out"
    done = run("train", text_file, *tiny_flags, "--no-wandb", f"--output-dir={out}")
    assert done.returncode == 0, done.stderr
    settings, rows = (out / "config.yaml").read_text(), reproducible(out)
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    for name in ("config.yaml", "summary.json", "samples.txt"):
        (out / name).write_bytes(b"")
    (out / "metrics.jsonl").write_text("".join(lines[:1]))
    resumed = run("train", "--resume", "--no-wandb", f"--output-dir={out}")
    assert resumed.returncode == 0, resumed.stderr
    assert "config.yaml is empty; the run's settings are read from last.pt" in resumed.stderr
    assert (
        "the rows of steps 9 to 24 and the samples of steps 1 to 24 are missing" in resumed.stderr
    )
    assert (out / "config.yaml").read_text() == settings
    assert reproducible(out) == rows[:1]


@pytest.mark.parametrize(
    ("kept", "warning"),
    [
        ({8, 10, 20, 24}, "1 of the rows with a val_loss are missing"),
        ({16, 24}, "some of the rows of steps 1 to 20 are missing"),
        ({8, 10, 16, 20}, "the rows of steps 21 to 24 are missing"),
    ],
)
def test_missing_rows_are_reported(
    kept: set[int], warning: str, run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("train", text_file, *tiny_flags, "--no-wandb", f"--output-dir={out}")
    assert done.returncode == 0, done.stderr
    lines = (out / "metrics.jsonl").read_text().splitlines(keepends=True)
    assert [json.loads(line)["step"] for line in lines] == [8, 10, 16, 20, 24]
    kept_lines = [line for line in lines if json.loads(line)["step"] in kept]
    (out / "metrics.jsonl").write_text("".join(kept_lines))
    resumed = run("train", "--resume", "--no-wandb", f"--output-dir={out}")
    assert resumed.returncode == 0, resumed.stderr
    assert warning in resumed.stderr


def test_lost_settings_are_not_replaced_by_defaults(
    run: Run, text_file: Path, tiny_flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run("train", text_file, *tiny_flags, "--no-wandb", f"--output-dir={out}")
    assert done.returncode == 0, done.stderr
    (out / "config.yaml").write_bytes(b"")
    (out / "last.pt").unlink()
    before = reproducible(out)
    resumed = run("train", "--resume", "--no-wandb", f"--output-dir={out}")
    assert resumed.returncode == 2
    assert "config.yaml is empty and there is no last.pt" in resumed.stderr
    assert reproducible(out) == before


def test_files_of_a_sweep_that_an_earlier_version_lost(
    run: Run, text_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "grid.yaml").write_text(grid(3, 1, steps=16, every=8))
    done = run("sweep", "grid.yaml", text_file, "--output-dir=lr", "--", *FLAGS)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted((tmp_path / "lr").glob("run-*"))
    expected = [reproducible(folder) for folder in folders]
    for name in ("config.yaml", "summary.json", "samples.txt", "metrics.jsonl"):
        (folders[0] / name).write_bytes(b"")
    (folders[1] / "metrics.jsonl").write_bytes(b"")
    resumed = run("agent", "lr", "--data", text_file)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    for number in (1, 2):
        message = f"run {number} had finished, but run-000{number} is incomplete"
        assert f"{message}; it is run again" in resumed.stdout
    assert [reproducible(folder) for folder in folders] == expected
    assert len(trials(tmp_path / "lr")) == 5
    assert len(summaries(tmp_path / "lr")) == 3
