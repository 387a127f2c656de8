"""Seconds of a training step with one and with all threads while other programs run.

    python benchmarks/busy_machine.py [--rounds 9] [--loads 0,1,2,4] [--write]

The other programs are busy loops, one process each. The variants take steps of `--preset fast` in
turn, each in its own process. The last two use torch alone, whose OpenMP threads wait by spinning,
their default, or by sleeping, which `fundamentallm` sets.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import click
import torch
from comparing import in_process, in_turns, machine, ratio, write_section
from train_speed import our_step

from fundamentallm import Config
from fundamentallm.config.presets import PRESETS
from fundamentallm.machine.cores_and_memory import usable_cores
from fundamentallm.model.native import SWITCH
from fundamentallm.model.threads import threads

STEPS = 3  # per variant and round
LOOP = "import time\nend = time.time() + 3600\nwhile time.time() < end: pass"


def steps(count: int, in_kernels: bool) -> Callable[[], None]:
    """Return a task of some steps with `count` threads of kernels.c or of torch alone."""
    if not in_kernels:
        os.environ[SWITCH] = "0"
    step = our_step(Config(**PRESETS["fast"].values))

    def task() -> None:
        with threads(count, in_kernels):
            for _ in range(STEPS):
                step()

    return task


def waiting(
    policy: str, make: Callable[[], Callable[[], object]], count: int
) -> Callable[[], None]:
    """Return the task in a process whose OpenMP, which reads `policy` at its start, waits so."""
    os.environ["OMP_WAIT_POLICY"] = policy
    try:
        return in_process(make, count)
    finally:
        del os.environ["OMP_WAIT_POLICY"]


@contextmanager
def competing(loads: int) -> Iterator[None]:
    """Run `loads` busy loops."""
    others = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(loads)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@click.command()
@click.option("--rounds", default=9, show_default=True)
@click.option("--loads", default="0,1,2,4", show_default=True, help="Numbers of other programs.")
@click.option("--write", is_flag=True, help="Write the table to docs/dev/performance.md.")
def main(rounds: int, loads: str, write: bool) -> None:
    """Print the table."""
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)
    cores = usable_cores()
    tasks = {
        "one thread": in_process(partial(steps, 1, True), 1),
        f"{cores} threads": in_process(partial(steps, cores, True), cores),
        f"torch, {cores} turn": in_process(partial(steps, cores, False), cores),
        f"torch, {cores} sleep": waiting("passive", partial(steps, cores, False), cores),
    }
    one, *others = tasks
    text = [
        f"{machine()}; `--preset fast`, steps a second with one thread, then ratios to it; "
        f"{rounds} rounds of {STEPS} steps. OpenMP's threads wait by turning or sleeping.",
        "",
        "| loops beside | " + " | ".join(tasks) + " |",
        "|---" * (len(tasks) + 1) + "|",
    ]
    for load in map(int, loads.split(",")):
        with competing(load):
            seconds = in_turns(tasks, rounds)
        speed = STEPS / statistics.median(seconds[one])
        ratios = [ratio(seconds[name], seconds[one]) for name in others]
        text.append(f"| {load} | {speed:.1f} | " + " | ".join(ratios) + " |")
        click.echo(text[-1], err=True)
    click.echo("\n".join(text))
    if write:
        write_section("busy_machine", "\n".join(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
