"""Seconds until a command answers and until a run takes its first step, cold and in a sweep.

    python benchmarks/startup.py [--write]

Whole processes take turns. `python -c pass` and `python -c "import torch"` are the lower limits.
"Warm" is the cost of one more trial of one step in a sweep: the time of a sweep of 21 runs minus
that of a sweep of one, over 20.
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


def run(*words: object, root: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *map(str, words)], cwd=root, env=environment, check=True,
        capture_output=True,
    )  # fmt: skip


def write_runs(folder: Path) -> None:
    """Write folders of runs with 100 rows each."""
    for number in range(RUNS):
        run_folder = folder / f"run-{number:04}"
        run_folder.mkdir(parents=True)
        rows = [{"step": s, "val_loss": 3 / s + number / 1000} for s in range(1, 101)]
        (run_folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = yaml.safe_dump({"learning_rate": 0.0001 * (1 + number)})
        (run_folder / "config.yaml").write_text(config)
        (run_folder / "summary.json").write_text(json.dumps({"status": "done", "step": 100}))


def sweep(root: Path, name: str, trials: int) -> None:
    """Run a new sweep of `trials` runs of one step."""
    folder = Path(tempfile.mkdtemp(dir=root))
    seeds = list(range(trials))
    content = {"program": str(ROOT / "train.py"), "method": "grid", "metric": {"name": "val_loss"}}
    content |= {"parameters": {"seed": {"values": seeds}, "max_steps": {"value": 1}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    words = ("-m", "fundamentallm", "sweep", f"{name}.yaml", root / "text.txt", "--workers", 1)
    run(*words, "--", *TINY, root=folder)


@click.command()
@click.option("--rounds", default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Write the table to docs/dev/performance.md.")
def main(rounds: int, as_json: bool, write: bool) -> None:
    """Print a table."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "text.txt").write_text("The cat sat on the mat. Why? Nobody knows.\n" * 100)
        write_runs(root / "runs")
        first = ("-m", "fundamentallm", "train", root / "text.txt", "--no-wandb", *TINY)
        first += ("--max-steps=1", "--output-dir=one", "--overwrite")
        tasks = {
            "`python -c pass`": lambda: run("-c", "pass", root=root),
            '`python -c "import torch"`': lambda: run("-c", "import torch", root=root),
            "`fundamentallm --help`": lambda: run("-m", "fundamentallm", "--help", root=root),
            "`fundamentallm check sweeps/lr.yaml`": lambda: run(
                "-m", "fundamentallm", "check", ROOT / "sweeps/lr.yaml", root=root
            ),
            f"`fundamentallm report` of {RUNS} runs": lambda: run(
                "-m", "fundamentallm", "report", "runs", root=root
            ),
            "a run of one step, cold": lambda: run(*first, root=root),
            "a sweep of 1 such run": lambda: sweep(root, "one", 1),
            "a sweep of 21 such runs": lambda: sweep(root, "many", 21),
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
