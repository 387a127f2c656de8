"""Peak memory of a training step by the length of its sequence: linear, where attention is fused.

    python benchmarks/memory_by_length.py

One sequence, default width and depth, two steps, a process each; above what a process has when the
model is made and nothing was computed. Beside it what the attention matrices alone would take if
they were kept for the way back (layers x heads x length x length, float32), which is quadratic.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import click
from comparing import machine

CODE = r"""
import re, sys, torch
torch.set_num_threads(1)
from fundamentallm import Config
from fundamentallm.data.dataset import prepare, training_batch
from fundamentallm.training.train_step import TrainStep
from fundamentallm.data.text import read_text

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6

config = Config(max_seq_len=int(sys.argv[1]), batch_size=1)
data = prepare(read_text(None), config)
learner = TrainStep(len(data.vocabulary), config, torch.device("cpu"))
before = peak()
for step in range(2):
    learner.step(training_batch(data.train, config, step), 1e-3)
print(peak() - before)
"""


@click.command()
@click.option("--lengths", default="256,512,1024,2048,4096", show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(lengths: str, as_json: bool) -> None:
    """Print a table."""
    rows: list[tuple[int, float, float]] = []
    for length in map(int, lengths.split(",")):
        words = [sys.executable, "-c", CODE, str(length)]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        megabytes = float(re.findall(r"[\d.]+", done.stdout)[-1])
        rows.append((length, megabytes, 6 * 8 * length**2 * 4 / 1e6))
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{machine()}; one thread; float32, dropout 0.1.\n")
    click.echo("| length | a step takes, MB | the matrices alone would take, MB |\n|---|---|---|")
    for length, taken, kept in rows:
        click.echo(f"| {length:,} | {taken:,.0f} | {kept:,.0f} |")


if __name__ == "__main__":
    main()
