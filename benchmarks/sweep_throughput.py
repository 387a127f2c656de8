"""Trials per hour of `fundamentallm sweep` and of one process per trial, as under `wandb agent`.

    python benchmarks/sweep_throughput.py --trials 60 --steps 8 --rounds 3

The variants take turns with equal cores and train the same model, steps and text. A process costs
the same for every trial, so a few suffice. A: one `fundamentallm sweep`, start and end included.
B: `python train.py --no-wandb` with all cores, one trial at a time, as one agent. C: one trial per
core, with one thread each, as several agents. The length of a trial is printed with the result.

    python benchmarks/sweep_throughput.py --foreign 1 --trials 8 --rounds 3

measures another program instead, foreign_program.py, whose trials have a second of work: one and
two `wandb agent`, with the tests' server in place of W&B's, and `fundamentallm sweep` with one and
two workers, cold and with `--warm`. Every trial has one thread. Starts and ends are included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHAPE = {"model-dim": 64, "num-layers": 2, "num-heads": 4, "max-seq-len": 64, "batch-size": 8}


def sweep_file(trials: int, steps: int) -> str:
    seeds = ", ".join(map(str, range(trials)))
    return (
        f"program: {ROOT}/train.py\nmethod: grid\nmetric: {{name: val_loss}}\nparameters:\n"
        f"  seed: {{values: [{seeds}]}}\n  max_steps: {{value: {steps}}}\n"
    )


def ours(place: Path, text: Path, trials: int, steps: int) -> tuple[float, float]:
    """Return the seconds of all trials, and the median seconds of one as the sweep reports it."""
    (place / "s.yaml").write_text(sweep_file(trials, steps))
    flags = [f"--{name}={value}" for name, value in SHAPE.items()]
    words = [sys.executable, "-m", "fundamentallm", "sweep", "s.yaml", str(text), "--", *flags]
    start = time.perf_counter()
    subprocess.run(words, cwd=place, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    summaries = [json.loads(p.read_text()) for p in place.glob("runs/s/run-*/summary.json")]
    assert len(summaries) == trials
    assert {each["step"] for each in summaries} == {steps}
    return seconds, statistics.median(each["seconds"] for each in summaries)


def processes(place: Path, text: Path, trials: int, steps: int, at_once: int) -> float:
    """Return the seconds of all trials, each in a process of its own."""
    cores = len(os.sched_getaffinity(0))
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, cores // at_once))}
    flags = [f"--{name}={value}" for name, value in SHAPE.items()]

    def one(seed: int) -> None:
        words = [sys.executable, str(ROOT / "train.py"), str(text), "--no-wandb", *flags]
        words += [f"--seed={seed}", f"--max_steps={steps}", f"--output-dir=run-{at_once}-{seed}"]
        subprocess.run(words, cwd=place, env=environment, check=True, capture_output=True)

    start = time.perf_counter()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(one, range(trials)))
    return time.perf_counter() - start


class Foreign:
    """Sweeps of foreign_program.py, each in a new folder."""

    def __init__(self, seconds: float, trials: int) -> None:
        self.script, self.trials = ROOT / "benchmarks/foreign_program.py", trials
        words = [sys.executable, str(self.script)]
        measured = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        self.steps = round(seconds * float(measured.split()[-1]))
        self.environment = {name: os.environ[name] for name in os.environ if name[:6] != "WANDB_"}
        self.environment["OMP_NUM_THREADS"] = "1"
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def write(self, folder: str) -> Path:
        """Write the sweep file into a folder."""
        seeds = ", ".join(map(str, range(self.trials)))
        (Path(folder) / "s.yaml").write_text(
            f"program: {self.script}\nmethod: grid\nmetric: {{name: loss}}\nparameters:\n"
            f"  seed: {{values: [{seeds}]}}\n  steps: {{value: {self.steps}}}\n"
        )
        return Path(folder)

    def ours(self, workers: int, *flags: str) -> float:
        """Return the seconds of `fundamentallm sweep`."""
        with tempfile.TemporaryDirectory() as folder:
            place = self.write(folder)
            words = [sys.executable, "-m", "fundamentallm", "sweep", "s.yaml"]
            words += [f"--workers={workers}", *flags]
            start = time.perf_counter()
            subprocess.run(words, cwd=place, env=self.environment, check=True, capture_output=True)
            seconds = time.perf_counter() - start
            found = [json.loads(p.read_text()) for p in place.glob("runs/s/run-*/summary.json")]
            assert [each["status"] for each in found] == ["done"] * self.trials
        return seconds

    def agents(self, count: int) -> float:
        """Return the seconds of `count` agents from their start to the end of the last."""
        from wandb_server import WandbServer

        with WandbServer() as server, tempfile.TemporaryDirectory() as folder:
            place = self.write(folder)
            own = {"WANDB_PROJECT": "p", "HOME": folder}
            environment = self.environment | server.environment | own
            wandb = [sys.executable, "-m", "wandb"]
            subprocess.run(
                [*wandb, "sweep", "s.yaml"],
                cwd=place, env=environment, check=True, capture_output=True,
            )  # fmt: skip
            (sweep,) = server.store.sweeps.values()
            start = time.perf_counter()
            agents = [
                subprocess.Popen(
                    [*wandb, "agent", sweep.path], cwd=place, env=environment,
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                for _ in range(count)
            ]  # fmt: skip
            for agent in agents:
                agent.wait()
            seconds = time.perf_counter() - start
            assert [run.state for run in sweep.runs] == ["finished"] * self.trials
        return seconds


def compare_foreign(arguments: argparse.Namespace) -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    foreign = Foreign(arguments.foreign, arguments.trials)
    tasks: dict[str, Callable[[], float]] = {}
    for count in (1, 2):
        agents = "one `wandb agent`" if count == 1 else "two agents"
        workers = "one worker" if count == 1 else "two workers"
        tasks[agents] = partial(foreign.agents, count)
        tasks[f"ours, {workers}"] = partial(foreign.ours, count)
        tasks[f"ours, {workers}, `--warm`"] = partial(foreign.ours, count, "--warm")
    rates: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(arguments.rounds):
        for name, task in tasks.items():
            rates[name].append(3600 * foreign.trials / task())
            print(f"# {name}: {rates[name][-1]:.0f} trials an hour", flush=True)
    print(
        f"\n{foreign.trials} trials of {arguments.foreign:g} s of work ({foreign.steps} steps), "
        f"{len(os.sched_getaffinity(0))} cores, medians of {arguments.rounds} rounds in turns\n"
    )
    print("| | trials an hour | against as many agents, least to most |\n|---|---|---|")
    for position, (name, speeds) in enumerate(rates.items()):
        agents = list(rates.values())[position // 3 * 3]
        ratios = [a / b for a, b in zip(speeds, agents, strict=True)]
        middle = statistics.median(speeds) / statistics.median(agents)
        spread = f"{middle:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"| {name} | {statistics.median(speeds):.0f} | {spread if position % 3 else ''} |")
    if arguments.json_file:
        content = {"rates": rates, "steps": foreign.steps, "arguments": str(arguments)}
        arguments.json_file.write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--process-trials", type=int, default=8, help="trials of B and C")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="[default: the built-in corpus, as a file]")
    parser.add_argument("--foreign", type=float, metavar="SECONDS", help="work of another program")
    parser.add_argument("--json", dest="json_file", type=Path)
    arguments = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    if arguments.foreign:
        compare_foreign(arguments)
        return
    cores = len(os.sched_getaffinity(0))
    names = ("ours", "a process each, one at a time", f"a process each, {cores} at a time")
    rates: dict[str, list[float]] = {name: [] for name in names}
    lengths: list[float] = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            text = arguments.text
            if text is None:
                from fundamentallm.data.builtin_corpus import builtin_corpus

                text = place / "text.txt"
                text.write_text(builtin_corpus(), "utf-8")
            text = text.absolute()
            steps, few = arguments.steps, arguments.process_trials
            seconds, length = ours(place, text, arguments.trials, steps)
            lengths.append(length)
            timings = [(arguments.trials, seconds)]
            timings += [(few, processes(place, text, few, steps, n)) for n in (1, cores)]
        for name, (count, each) in zip(names, timings, strict=True):
            rates[name].append(3600 * count / each)
            print(f"# {name}: {rates[name][-1]:.0f} trials an hour", flush=True)
    length = statistics.median(lengths)
    print(
        f"\n{arguments.trials} trials of {arguments.steps} steps ({length:.2f} s of training each),"
        f" {cores} cores, medians of {arguments.rounds} rounds in turns\n"
    )
    print("| | trials an hour | ratio to ours, least to most |\n|---|---|---|")
    for name, speeds in rates.items():
        ratios = [a / b for a, b in zip(rates["ours"], speeds, strict=True)]
        middle = statistics.median(rates["ours"]) / statistics.median(speeds)
        spread = f"{middle:.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"| {name} | {statistics.median(speeds):.0f} | {'' if name == 'ours' else spread} |")
    if arguments.json_file:
        content = {"rates": rates, "seconds_a_trial": lengths, "arguments": str(arguments)}
        arguments.json_file.write_text(json.dumps(content))


if __name__ == "__main__":
    main()
