"""Peak memory of a training step by sequence length: linear if attention is fused.

    python benchmarks/memory_by_length.py

Trains two steps on one sequence at default width and depth, in one process per length. Reports the
memory above that of a process with a new model. For comparison, also the memory of the attention
matrices if they were stored for the backward pass: layers x heads x length^2 in float32.
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
train_step = TrainStep(len(data.vocabulary), config, torch.device("cpu"))
before = peak()
for step in range(2):
    train_step.step(training_batch(data.train, config, step), 1e-3)
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
    for length, measured, matrices in rows:
        click.echo(f"| {length:,} | {measured:,.0f} | {matrices:,.0f} |")


if __name__ == "__main__":
    main()
