"""How soon a command answers, and a training run takes its first step: cold, and warm in a sweep.

    python benchmarks/startup.py [--write]

Whole processes, in turns, beside `python -c pass` and `python -c "import torch"`, which no program
of the kind can undercut. Warm is what one more trial costs in a sweep, of one step each: the time
of a sweep of 21 less that of a sweep of one, over 20.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import yaml
from comparing import in_turns, machine, write_section

ROOT = Path(__file__).parent.parent
TINY = ("--model-dim=16", "--num-layers=1", "--num-heads=2", "--max-seq-len=16", "--batch-size=4")
RUNS = 200


def run(*words: object, place: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *map(str, words)], cwd=place, env=environment, check=True,
        capture_output=True,
    )  # fmt: skip


def write_runs(folder: Path) -> None:
    """Runs as they lie on disk, with 100 rows each."""
    for number in range(RUNS):
        place = folder / f"run-{number:04}"
        place.mkdir(parents=True)
        rows = [{"step": s, "val_loss": 3 / s + number / 1000} for s in range(1, 101)]
        (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "config.yaml").write_text(yaml.safe_dump({"learning_rate": 0.0001 * (1 + number)}))
        (place / "summary.json").write_text(json.dumps({"status": "done", "step": 100}))


def sweep(place: Path, name: str, trials: int) -> None:
    """A new sweep of `trials` runs of one step."""
    folder = Path(tempfile.mkdtemp(dir=place))
    seeds = list(range(trials))
    content = {"program": str(ROOT / "train.py"), "method": "grid", "metric": {"name": "val_loss"}}
    content |= {"parameters": {"seed": {"values": seeds}, "max_steps": {"value": 1}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    words = ("-m", "fundamentallm", "sweep", f"{name}.yaml", place / "text.txt", "--workers", 1)
    run(*words, "--", *TINY, place=folder)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Into docs/dev/performance.md.")
def main(rounds: int, as_json: bool, write: bool) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "text.txt").write_text("The cat sat on the mat. Why? Nobody knows.\n" * 100)
        write_runs(place / "runs")
        first = ("-m", "fundamentallm", "train", place / "text.txt", "--no-wandb", *TINY)
        first += ("--max-steps=1", "--output-dir=one", "--overwrite")
        tasks = {
            "`python -c pass`": lambda: run("-c", "pass", place=place),
            '`python -c "import torch"`': lambda: run("-c", "import torch", place=place),
            "`fundamentallm --help`": lambda: run("-m", "fundamentallm", "--help", place=place),
            "`fundamentallm check sweeps/lr.yaml`": lambda: run(
                "-m", "fundamentallm", "check", ROOT / "sweeps/lr.yaml", place=place
            ),
            f"`fundamentallm report` of {RUNS} runs": lambda: run(
                "-m", "fundamentallm", "report", "runs", place=place
            ),
            "a run of one step, cold": lambda: run(*first, place=place),
            "a sweep of 1 such run": lambda: sweep(place, "one", 1),
            "a sweep of 21 such runs": lambda: sweep(place, "many", 21),
        }
        seconds = in_turns(tasks, rounds)
    rows = [f"{machine()}; one thread; {rounds} rounds.", "", "| | seconds |", "|---|---|"]
    for task, each in seconds.items():
        middle = statistics.median(each)
        rows.append(f"| {task} | {middle:.2f} ({min(each):.2f}-{max(each):.2f}) |")
    many, one = seconds["a sweep of 21 such runs"], seconds["a sweep of 1 such run"]
    warm = (statistics.median(many) - statistics.median(one)) / 20
    rows.append(f"| one more run, warm | {warm:.2f} |")
    click.echo(
        json.dumps({"machine": machine(), "seconds": seconds}) if as_json else "\n".join(rows)
    )
    if write:
        write_section("startup", "\n".join(rows))


if __name__ == "__main__":
    main()
