"""Runs of some minutes on a small text: schedule, rate, context, batch, regularization and size.

    python benchmarks/long_runs.py --text tinyshakespeare.txt --cores 0,1 [--write]

`fundamentallm train` makes each run that long_runs.json lacks, with one thread on one of the cores.
docs/dev/experiments.md has the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import click
from comparing import machine, write_section
from time_to_tuned import score_model

from fundamentallm.data.builtin_corpus import BUILTIN, builtin_corpus

RUNS = Path(__file__).parent / "long_runs.json"
PAGE = Path(__file__).parent.parent / "docs/dev/experiments.md"
PART = 278_000
"""Characters of a part of the text, which repeats sooner."""
BASE: Mapping[str, Any] = {
    "model_dim": 128, "num_layers": 2, "num_heads": 4, "dropout": 0.0, "weight_decay": 0.1,
    "batch_size": 8, "max_seq_len": 128, "lr_schedule": "wsd", "decay_fraction": 0.5,
    "min_lr_ratio": 0.0, "warmup_steps": 60, "epochs": 1_000, "seed": 0, "part": 0,
    "text": "",
}  # fmt: skip
COLUMNS = {
    "layers": "num_layers",
    "width": "model_dim",
    "context": "max_seq_len",
    "batch": "batch_size",
    "steps": "max_steps",
    "rate": "learning_rate",
    "dropout": "dropout",
    "weight decay": "weight_decay",
}


def changes() -> Iterator[dict[str, Any]]:
    """Yield what each run changes."""
    linear, fifth = {"lr_schedule": "linear"}, {"decay_fraction": 0.2}
    for schedule, rates in (
        (fifth, (4e-4, 1e-3)),
        ({}, (5e-4, 1e-3)),
        (linear, (5e-4, 1e-3, 2e-3)),
    ):
        yield from ({"max_steps": 4000, "learning_rate": rate, **schedule} for rate in rates)
    yield {"max_steps": 2000, "learning_rate": 1.5e-3, "batch_size": 16, **linear}
    yield {"max_steps": 4000, "learning_rate": 1e-3, "batch_size": 4, "max_seq_len": 256, **linear}
    long = {"max_steps": 12_000, "learning_rate": 1e-3, **linear}
    yield from ({**long, "dropout": dropout} for dropout in (0.0, 0.1))
    long = {"max_steps": 3000, "learning_rate": 1e-3, "batch_size": 16, "max_seq_len": 256}
    yield from (long, {**long, "dropout": 0.1}, {**long, "weight_decay": 0.5})
    short = {"max_steps": 2000, "learning_rate": 9e-4, "max_seq_len": 256}
    yield from (short, {**short, "weight_decay": 0.4})
    large = {**short, "model_dim": 192, "num_layers": 3, "learning_rate": 7e-4}
    yield from (large, {**large, "weight_decay": 0.4})
    part = {**short, "learning_rate": 8e-4, "part": PART}
    yield from ({**part, "dropout": dropout} for dropout in (0.0, 0.1, 0.2))
    yield from ({**part, "dropout": dropout, "weight_decay": 0.5} for dropout in (0.0, 0.1))
    yield from repeated()


def repeated() -> Iterator[dict[str, Any]]:
    """Yield runs that read their text often, with more and more regularization."""
    small = {"text": BUILTIN, "num_layers": 6, "model_dim": 96, "num_heads": 3, "batch_size": 16}
    wide = {**small, "model_dim": 128, "num_heads": 4}
    large = {"num_layers": 3, "model_dim": 192, "num_heads": 6, "max_seq_len": 256}
    for base, steps, rate, dropout, weight_decay in (
        (small, 1000, 1.6e-3, 0.0, 0.25),
        (small, 2000, 1.3e-3, 0.0, 0.5),
        (small, 2000, 1.3e-3, 0.1, 0.5),
        (small, 4000, 1e-3, 0.1, 0.5),
        (small, 4000, 1e-3, 0.2, 0.5),
        (small, 4000, 1e-3, 0.2, 1.0),
        (wide, 2000, 1.2e-3, 0.1, 0.5),
        (large, 8000, 5e-4, 0.0, 0.5),
        (large, 4000, 6e-4, 0.0, 0.3),
    ):
        yield {
            **base,
            "max_steps": steps,
            "learning_rate": rate,
            "dropout": dropout,
            "weight_decay": weight_decay,
        }


def train(changed: Mapping[str, Any], text: Path, core: int) -> dict[str, Any]:
    """Train one run; return its row."""
    used = {**BASE, **changed}
    own, length = used.pop("text"), used.pop("part")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in used.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as folder:
        part, run = Path(folder) / text.name, Path(folder) / "run"
        content = builtin_corpus().encode() if own else text.read_bytes()[: length or None]
        part.write_bytes(content)
        words = ["taskset", "-c", str(core), sys.executable, "-m", "fundamentallm", "train"]
        words += [str(part), "--no-wandb", f"--output-dir={run}"]
        words += [f"--eval-every={used['max_steps']}"]
        subprocess.run([*words, *flags], env=environment, stdout=subprocess.DEVNULL, check=True)
        return row(changed, run, part)


def row(changed: Mapping[str, Any], folder: Path, text: Path) -> dict[str, Any]:
    """Return the row of a finished run: what it changed, and its losses."""
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    last = json.loads((folder / "metrics.jsonl").read_text("utf-8").splitlines()[-1])
    first, second = score_model(folder / "last.pt", text, None)
    return {
        "changed": dict(changed),
        "parameters": summary["parameters"],
        "epochs": round(last["epoch"], 2),
        "train_loss": round(last["train_loss"], 4),
        "val_loss": round(summary["val_loss"], 4),
        "halves": [round(first, 4), round(second, 4)],
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the runs as a Markdown table."""
    heads = [*COLUMNS, "decays over", "epochs", "training loss", "loss", "first half", "second"]
    lines = [heads, ["--"] * len(heads)]
    for each in rows:
        used = {**BASE, **each["changed"]}
        cells = [f"{used[name]:,g}" for name in COLUMNS.values()]
        cells += ["all" if used["lr_schedule"] == "linear" else f"{used['decay_fraction']:g}"]
        cells += [f"{each['epochs']:.1f}"]
        losses = each["train_loss"], each["val_loss"], *each["halves"]
        lines.append([*cells, *(f"{loss:.3f}" for loss in losses)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--text", type=click.Path(exists=True, path_type=Path))
@click.option("--cores", default="0,1", help="Cores to use, one run on each.")
@click.option("--write", is_flag=True, help="Write the tables to docs/dev/experiments.md.")
def main(text: Path | None, cores: str, write: bool) -> None:
    """Train what is missing (with --text), then print the tables."""
    rows: list[dict[str, Any]] = json.loads(RUNS.read_text("utf-8")) if RUNS.exists() else []
    if text is not None:
        free: SimpleQueue[int] = SimpleQueue()
        for core in cores.split(","):
            free.put(int(core))

        def add(changed: Mapping[str, Any]) -> None:
            core = free.get()
            rows.append(train(changed, text, core))
            free.put(core)
            RUNS.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n", "utf-8")

        missing = [each for each in changes() if all(each != row["changed"] for row in rows)]
        with ThreadPoolExecutor(len(cores.split(","))) as pool:
            list(pool.map(add, missing))
    by_change = {json.dumps(row["changed"], sort_keys=True): row for row in rows}
    known = [by_change.get(json.dumps(each, sort_keys=True)) for each in changes()]
    rows = [row for row in known if row]
    builtin = [row for row in rows if "text" in row["changed"]]
    part = [row for row in rows if "part" in row["changed"]]
    whole = [row for row in rows if not row["changed"].keys() & {"text", "part"}]
    tables = (
        f"{table(whole)}\n\nThe first {PART:,} characters alone:\n\n{table(part)}\n\n"
        f"The built-in text:\n\n{table(builtin)}"
    )
    click.echo(tables)
    if write:
        write_section("long_runs", f"{machine()}:\n\n{tables}", PAGE)


if __name__ == "__main__":
    main()
