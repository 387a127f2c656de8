"""Trials per hour of `fundamentallm sweep` and of one process per trial, as under `wandb agent`.

    python benchmarks/sweep_throughput.py --trials 60 --steps 8 --rounds 3

The variants take turns with equal cores and train the same model, steps and text. A process costs
the same for every trial, so a few suffice. A: one `fundamentallm sweep`, start and end included.
B: `python train.py --no-wandb` with all cores, one trial at a time, as one agent. C: one trial per
core, with one thread each, as several agents. The length of a trial is printed with the result.
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
from concurrent.futures import ThreadPoolExecutor
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--process-trials", type=int, default=8, help="trials of B and C")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--text", type=Path, help="[default: the built-in corpus, as a file]")
    parser.add_argument("--json", dest="json_file", type=Path)
    arguments = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
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
