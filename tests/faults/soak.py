"""Kills runs and sweeps at random for as long as you like, and counts what is lost.

    python -m tests.faults.soak --minutes 30

Alternates between two cases. A run is killed at random moments and resumed until it is done; its
rows must equal those of an uninterrupted run. A sweep has its trials, servers and parents killed,
and its workers paused past their lease. Exits with 1 if anything is lost.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ["OMP_NUM_THREADS"] = "1"

import click
from conftest import TEXT
from tiny_sweep import FLAGS, grid, kill, metric_rows, processes, start, summaries, trials

from fundamentallm.training.checkpoint import Checkpoint

RUN = [*FLAGS, "--max-steps=1200", "--eval-every=20", "--dropout=0.1", "--no-wandb"]
RATES, SEEDS, STEPS = 5, 3, 300


@dataclass
class Count:
    """Counts of faults injected, checks made and losses."""

    kills: int = 0
    resumes: int = 0
    stops: int = 0
    rows: int = 0
    checkpoints: int = 0
    trials: int = 0
    lost: int = 0

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.resumes} resumes, {self.stops} workers stopped past their "
            f"lease; {self.checkpoints} checkpoints verified, {self.rows} rows compared, "
            f"{self.trials} trials; {self.lost} lost, twice or different"
        )


def _rows(folder: Path) -> list[dict[str, Any]]:
    rows = metric_rows(folder)
    return [{k: v for k, v in row.items() if not k.startswith("perf/")} for row in rows]


def one_run(
    root: Path, uninterrupted: list[dict[str, Any]], rng: random.Random, count: Count
) -> None:
    """Kill and resume a run until it is done."""
    command = [sys.executable, "-m", "fundamentallm", "train", "cats.txt", *RUN]
    folder = root / f"run-{rng.getrandbits(48):x}"
    while True:
        process = subprocess.Popen(
            [*command, "--output-dir", folder, "--resume"], cwd=root,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        count.resumes += 1
        try:
            process.wait(rng.uniform(1.0, 9.0))
        except subprocess.TimeoutExpired:
            process.kill()
            count.kills += 1
        errors = process.communicate()[1].decode()
        if (folder / "last.pt").exists():
            Checkpoint.load(folder / "last.pt")
            count.checkpoints += 1
        if process.returncode == 0:
            break
        if process.returncode != -signal.SIGKILL:
            count.lost += 1
            click.echo(f"a run ended with {process.returncode}: {errors}")
            return
    rows = _rows(folder)
    count.rows += len(rows)
    if rows != uninterrupted:
        count.lost += 1
        click.echo(f"rows differ: {folder}")


def one_sweep(root: Path, rng: random.Random, count: Count) -> None:
    """Kill and pause the processes of a sweep until it is done."""
    name = f"soak-{rng.getrandbits(48):x}"
    file = root / f"{name}.yaml"
    file.write_text(grid(rates=RATES, seeds=SEEDS, steps=STEPS, every=30))
    folder = root / "runs" / name
    command = ("sweep", file, "cats.txt", "--workers", 2, "--", *FLAGS)
    workers = [start(root, *command, FUNDAMENTALLM_LEASE="8")]
    deadline = time.monotonic() + 900
    while any(worker.poll() is None for worker in workers) or workers[0].returncode != 0:
        if time.monotonic() > deadline:
            count.lost += 1
            click.echo(f"a sweep did not end: {folder}")
            break
        for index, worker in enumerate(workers):
            if worker.poll() not in (None, 0):
                worker.communicate()
                restart = command if index == 0 else ("agent", folder, "--workers", 1)
                workers[index] = start(root, *restart, FUNDAMENTALLM_LEASE="8")
                count.resumes += 1
        if len(workers) == 1 and folder.joinpath("sweep.yaml").exists():
            workers.append(start(root, "agent", folder, "--workers", 1))
        time.sleep(rng.uniform(0.5, 3.0))
        running = [worker for worker in workers if worker.poll() is None]
        trial_processes = processes(str(folder / "run-"))
        fault = rng.choice(["trial", "trial", "trial", "worker", "stop", "nothing", "nothing"])
        if fault == "trial" and trial_processes:
            kill(rng.choice(trial_processes))
            count.kills += 1
        elif fault == "worker" and running:
            kill(rng.choice(running).pid)
            count.kills += 1
        elif fault == "stop" and running:
            paused = rng.choice(running)
            os.kill(paused.pid, signal.SIGSTOP)
            time.sleep(rng.uniform(9.0, 14.0))
            os.kill(paused.pid, signal.SIGCONT)
            count.stops += 1
    for worker in workers:
        worker.communicate()
    complete = [trial for trial in trials(folder) if trial.state.name == "COMPLETE"]
    once = sorted(trial.user_attrs["run"] for trial in complete) == list(range(RATES * SEEDS))
    done = [each["status"] for each in summaries(folder).values()] == ["done"] * RATES * SEEDS
    count.trials += len(complete)
    for number in range(RATES * SEEDS):
        rows = metric_rows(folder / f"run-{number + 1:04}")
        steps = [row["step"] for row in rows]
        once = once and steps == list(range(10, STEPS + 1, 10))
        count.rows += len(rows)
    if not (once and done):
        count.lost += 1
        click.echo(f"a sweep is incomplete: {folder}")


@click.command()
@click.option("--minutes", default=30.0, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(minutes: float, seed: int) -> None:
    """Print the counts."""
    rng, count = random.Random(seed), Count()
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    (root / "cats.txt").write_text(TEXT)
    command = [sys.executable, "-m", "fundamentallm", "train", "cats.txt", *RUN]
    words = [*command, "--output-dir", "uninterrupted"]
    subprocess.run(words, cwd=root, check=True, capture_output=True)
    uninterrupted = _rows(root / "uninterrupted")
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        one_run(root, uninterrupted, rng, count)
        one_sweep(root, rng, count)
        click.echo(f"{minutes - (end - time.monotonic()) / 60:.0f} minutes: {count}")
    sys.exit(1 if count.lost else 0)


if __name__ == "__main__":
    main()
