"""Hard cases of `tune`: odd texts, little time, little memory, and kills."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Run

LINE = "The cat sat on the mat.\n"
FEW_GB = 2_000_000
"""`ulimit -d`, in kB."""


def tune(
    folder: Path, *arguments: object, limit: int = 0, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `tune` into `folder`/out, with a limit of memory in kB; kill it after `timeout`."""
    words = [sys.executable, "-m", "fundamentallm", "tune", *map(str, arguments)]
    words += ["--output-dir", str(folder / "out")]
    if limit:
        words = ["sh", "-c", f'ulimit -d {limit}; exec "$@"', "sh", *words]
    with (folder / "output.txt").open("w") as output:  # a pipe would be held by processes of runs
        process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    said = (folder / "output.txt").read_text()
    return subprocess.CompletedProcess(words, code, said)


def best_loss(folder: Path) -> float:
    """Return the lowest validation loss of all runs."""
    rows = [
        json.loads(line)
        for file in folder.glob("out/*/run-*/metrics.jsonl")
        for line in file.read_text().splitlines()
    ]
    return min(row["val_loss"] for row in rows if "val_loss" in row)


def check_ended(done: subprocess.CompletedProcess[str], folder: Path) -> None:
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    assert (folder / "out/best.pt").exists()
    assert (folder / "out/report.html").exists()


@pytest.mark.parametrize("text", ["", "ab", "The cat sat."])
def test_a_text_too_short_for_any_shape(text: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "short.txt").write_text(text)
    done = run("tune", "short.txt", "--minutes", 1)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("fundamentallm: short.txt: ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        pytest.param((ROOT / "README.md").read_text("utf-8")[:10_000], id="10 kB"),
        pytest.param(LINE * 20_000, id="one line"),
    ],
)
def test_a_text_of_little_use(text: str, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(text)
    done = tune(tmp_path, "text.txt", "--minutes", 0.3)
    check_ended(done, tmp_path)
    assert best_loss(tmp_path) < math.log(len(set(text)))  # a busy machine trains for few steps


@pytest.mark.slow
def test_a_budget_that_is_spent_before_it_starts(text_file: Path, tmp_path: Path) -> None:
    """The shortest training still gives a model."""
    check_ended(tune(tmp_path, text_file, "--minutes", 0.001), tmp_path)


def test_a_folder_that_cannot_be_written(
    text_file: Path, tmp_path: Path, ordinary_user: list[str]
) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    words = [sys.executable, "-m", "fundamentallm", "tune", str(text_file), "--minutes=1"]
    words = [*ordinary_user, *words, "--output-dir", "closed/out"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "closed/out" in line
    assert "Permission denied" in line


@pytest.mark.nightly
def test_a_long_text_with_little_memory(tmp_path: Path) -> None:
    """300 MB, of which no process may hold much."""
    words = (ROOT / "README.md").read_text("utf-8").split()
    drawn = random.Random(0)
    with (tmp_path / "long.txt").open("w") as file:
        while file.tell() < 300_000_000:
            drawn.shuffle(words)
            file.write(" ".join(words * 50) + "\n")
    done = tune(tmp_path, "long.txt", "--minutes", 4, "--max-memory", 2, limit=FEW_GB)
    check_ended(done, tmp_path)
    assert best_loss(tmp_path) < 5


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2))
def test_kills_lose_no_finished_run_and_the_time_adds_up(
    seed: int, text_file: Path, tmp_path: Path
) -> None:
    drawn, out = random.Random(seed), tmp_path / "out"
    finished: dict[str, Any] = {}
    seconds = 0.0
    for _ in range(4):
        killed = tune(tmp_path, text_file, "--minutes", 2, timeout=drawn.uniform(5, 40))
        assert killed.returncode in (0, -9), killed.stdout
        clock = out / "clock.json"
        now = json.loads(clock.read_text())["seconds"] if clock.exists() else 0.0
        assert now >= seconds
        seconds = now
        assert ended_runs(out).items() >= finished.items()
        finished = ended_runs(out)
    check_ended(tune(tmp_path, text_file, "--minutes", 2), tmp_path)
    assert ended_runs(out).items() >= finished.items()
    assert math.isfinite(best_loss(tmp_path))


def ended_runs(folder: Path) -> dict[str, Any]:
    """Return the summaries of the runs that are done."""
    found: dict[str, Any] = {}
    for file in folder.glob("*/run-*/summary.json"):
        summary = json.loads(file.read_text())
        if summary["status"] == "done":
            found[os.fspath(file)] = summary
    return found
