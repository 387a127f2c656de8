"""Runs a sweep over each hyperparameter that the guide documents, and draws a chart of it.

    python benchmarks/hyperparameter_charts.py                 # all: 40 minutes of two cores
    python benchmarks/hyperparameter_charts.py dropout         # one
    python benchmarks/hyperparameter_charts.py --only-draw     # from the data in docs/charts

Each sweep is in runs/charts/NAME and can be resumed. docs/charts/NAME.json holds the results with
date and machine, docs/charts/NAME.svg the chart. The text is the built-in one, cut to its first
60,000 characters where overfitting is the question. Width, depth, batch size and length are
compared at equal seconds of one core, the rest at equal steps. All runs use the same small model,
three seeds each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import click
import yaml
from comparing import machine

from fundamentallm.data.builtin_corpus import builtin_corpus
from fundamentallm.report.read_runs import read_results

ROOT = Path(__file__).parent.parent
CHARTS = ROOT / "docs/charts"
SWEEPS = ROOT / "runs/charts"
SEEDS = (0, 1, 2)
SMALL_TEXT = 60_000
MODEL = {
    "model_dim": 128, "num_layers": 2, "num_heads": 4, "dropout": 0.0,
    "batch_size": 8, "max_seq_len": 128,
}  # fmt: skip
STEPS = {"max_steps": 300, "lr_schedule": "linear", "warmup_steps": 15}
SECONDS = {"max_minutes": 0.4, "eval_every": 100_000}
LENGTH = "300 steps, linear decay"
TIME = "24 seconds of one core, constant rate"


@dataclass(frozen=True)
class Question:
    """One sweep and its chart."""

    values: Sequence[Any]
    fixed: Mapping[str, Any]
    caption: str
    """Settings that all runs share, in words."""
    lines: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Second hyperparameter, with a line for each of its values."""
    shows: Mapping[str, str] = field(default_factory=lambda: {"best_val_loss": "best val_loss"})
    """Keys of summary.json to draw, with their labels."""
    has_small_text: bool = False


QUESTIONS: dict[str, Question] = {
    "learning_rate": Question([1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2], STEPS, LENGTH),
    "model_dim": Question([64, 128, 256, 512, 1024], SECONDS, TIME),
    "batch_size": Question([8, 16, 32, 64, 128], SECONDS, TIME),
    "dropout": Question(
        [0.0, 0.1, 0.2, 0.3],
        {"lr_schedule": "linear", "warmup_steps": 15},
        "60,000 characters, linear decay",
        lines={"max_steps": [150, 500]},
        has_small_text=True,
    ),
    "num_layers": Question([2, 4, 6, 8, 12, 24], SECONDS, TIME),
    "max_seq_len": Question([128, 256, 512, 1024, 2048], SECONDS, TIME),
    "lr_schedule": Question(
        ["constant", "exponential", "step", "cosine", "linear"],
        {**STEPS, "lr_decay": 0.3, "lr_steps": "150,225"},
        "300 steps, warm-up 15; exponential by 0.3 an epoch, step by 0.3 at 150 and 225",
    ),
    "epochs": Question(
        [2, 5, 10, 20],
        {"lr_schedule": "linear", "warmup_steps": 15},
        "60,000 characters, linear decay to the end of each",
        shows={"val_loss": "val_loss at the end", "train_loss": "train_loss at the end"},
        has_small_text=True,
    ),
    "num_heads": Question([2, 4, 8, 16], STEPS, LENGTH),
}


def run_sweep(name: str, question: Question, workers: int) -> list[dict[str, Any]]:
    """Run a sweep and return the results of its runs."""
    folder = SWEEPS / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    varied = {name: question.values, **question.lines, "seed": SEEDS}
    fixed = MODEL | dict(question.fixed)
    parameters = {each: {"value": value} for each, value in fixed.items() if each not in varied}
    parameters |= {each: {"values": list(values)} for each, values in varied.items()}
    sweep = {"program": str(ROOT / "train.py"), "method": "grid", "parameters": parameters}
    sweep["metric"] = {"name": "val_loss", "goal": "minimize"}
    file = folder.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(sweep, sort_keys=False))
    words = ["sweep", file, "--output-dir", folder, "--workers", workers]
    if question.has_small_text:
        text = folder.with_suffix(".txt")
        text.write_text(builtin_corpus()[:SMALL_TEXT], "utf-8")
        words.insert(2, text)
    subprocess.run([sys.executable, "-m", "fundamentallm", *map(str, words)], check=True)
    keys = ("best_val_loss", "val_loss", "step", "seconds")
    return [
        {each: run.settings[each] for each in varied}
        | {
            "status": run.status,
            "train_loss": next(iter(run.curve("train_loss").values[-1:]), None),
        }
        | {key: run.summary.get(key) for key in keys}
        for run in read_results([folder]).runs
    ]


def draw(name: str, question: Question, data: Mapping[str, Any]) -> None:
    """Draw a dot per run and a line through the means; below, the durations."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": name, "svg.fonttype": "none", "font.family": "sans-serif"}
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(7, 4.4), sharex=True, height_ratios=[3, 1], layout="constrained"
    )
    x_by_value = {value: index for index, value in enumerate(question.values)}
    colors = iter(("#2D8BCB", "#E69F00", "#009E73", "#CC79A7"))  # Okabe and Ito (2008)
    other, others = next(iter(question.lines.items()), ("", [None]))
    for value in others:
        runs = [run for run in data["runs"] if not other or run[other] == value]
        for key, title in question.shows.items():
            color = next(colors)
            label = f"{other} {value:g}" if other else title
            _dots_and_line(above, runs, name, key, x_by_value, color, label)
        _dots_and_line(below, runs, name, "seconds", x_by_value, color, "")
    names = list(question.shows.values())
    above.set_ylabel(names[0] if len(names) == 1 else "loss")
    below.set_ylabel("seconds")
    below.set_ylim(bottom=0)
    below.set_xlabel(name)
    below.set_xticks(list(x_by_value.values()), [_plain(value) for value in x_by_value])
    for axes in (above, below):
        axes.grid(axis="y", color="#DDDDDD")
        axes.spines[["top", "right"]].set_visible(False)
    if other or len(names) > 1:
        above.legend(frameon=False)
    above.set_title(f"{question.caption}; {len(SEEDS)} seeds", fontsize=10, loc="left")
    figure.savefig(CHARTS / f"{name}.svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)


def _dots_and_line(
    axes: Any, runs: Sequence[Mapping[str, Any]], name: str, key: str,
    x_by_value: Mapping[Any, int], color: str, label: str,
) -> None:  # fmt: skip
    points = [(x_by_value[run[name]], run[key]) for run in runs if run[key] is not None]
    axes.scatter(*zip(*points, strict=True), s=14, color=color, alpha=0.6, linewidths=0)
    means = {
        x_value: statistics.fmean(y for x, y in points if x == x_value)
        for x_value in sorted({x for x, _ in points})
    }
    axes.plot(list(means), list(means.values()), color=color, label=label)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.12g}"


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(QUESTIONS)))
@click.option("--workers", default=2, show_default=True, help="Parallel runs, one thread each.")
@click.option("--only-draw", is_flag=True, help="Draw from existing data; run nothing.")
def main(names: Sequence[str], workers: int, only_draw: bool) -> None:
    """Write docs/charts/NAME.json and NAME.svg for every NAME, or for all."""
    CHARTS.mkdir(exist_ok=True)
    for name in names or QUESTIONS:
        question, file = QUESTIONS[name], CHARTS / f"{name}.json"
        if not only_draw:
            runs = run_sweep(name, question, workers)
            about = {"measured": machine(), "workers": workers, "same": question.caption}
            lines = ",\n".join(json.dumps(run) for run in runs)
            file.write_text(f'{json.dumps(about)[:-1]}, "runs": [\n{lines}\n]}}\n')
        draw(name, question, json.loads(file.read_text()))
        click.echo(f"{name}: {file.with_suffix('.svg')}")


if __name__ == "__main__":
    main()
