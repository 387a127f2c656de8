"""Seconds on one core to a validation loss, for `--preset fast` and nanoGPT's CPU recipe.

    python benchmarks/time_to_loss.py --nanogpt PATH --text tinyshakespeare.txt --seeds 5 [--write]

A decaying schedule reaches a good loss only at its end. So each recipe is trained at several
lengths, each with a fitted schedule, and the time to a loss is interpolated between two lengths,
linearly in the logarithm of the time. nanoGPT's recipe, from its README: 4 layers, width 128, 4
heads, sequence 64, batch 12, no dropout, AdamW 1e-3, 100 warm-up steps, cosine decay to a tenth;
the README trains 2,000 steps. "tuned" uses as many tokens and the best of the six pairs of batch
size and rate in docs/dev/experiments.md, chosen on the first half of the validation text. Losses
are reported on the second half. (Ours was chosen earlier on the whole text, over more tries, which
is an advantage.) Times are processor time of training, with one thread. A loss covers the whole
half, in windows of the model's context without overlap.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import click
import torch
from comparing import machine, write_section
from recipes import score_halves, train_for

from fundamentallm import Config
from fundamentallm.config.presets import PRESETS
from fundamentallm.data.dataset import Dataset, prepare, scoring_windows, training_batch
from fundamentallm.data.text import read_text
from fundamentallm.data.vocabulary import UNKNOWN_TOKEN, Tokens

CONTEXT = 64
RECIPE = {"batch": 12, "rate": 1e-3}
TUNED = {"batch": 6, "rate": 4e-3}
TARGETS = (1.88, 1.70)


def nanogpt_model(module: Any, data: Dataset) -> Any:
    """Return a new model of the recipe's shape."""
    shape = module.GPTConfig(
        block_size=CONTEXT, vocab_size=len(data.vocabulary), n_layer=4, n_head=4, n_embd=128,
        dropout=0.0, bias=False,
    )  # fmt: skip
    return module.GPT(shape)


def nanogpt_steps(
    module: Any,
    data: Dataset,
    seed: int,
    *,
    batch: int,
    rate: float,
    warmup: int,
    progress: Callable[[int], float],
) -> Iterator[Any]:
    """Train nanoGPT's recipe; yield the model after every step.

    `progress(step)` is the fraction of the decay before a step; at 1 the training ends.
    """
    torch.manual_seed(seed)
    model = nanogpt_model(module, data)
    optimizer = model.configure_optimizers(0.1, rate, (0.9, 0.99), "cpu")
    windows = Config(max_seq_len=CONTEXT, batch_size=batch, seed=seed)
    floor = rate / 10
    for step in itertools.count():
        done = progress(step)
        if done >= 1:
            return
        decay = 0.5 * (1 + math.cos(math.pi * max(done, 0)))
        now = rate * (step + 1) / (warmup + 1) if step < warmup else floor + decay * (rate - floor)
        for group in optimizer.param_groups:
            group["lr"] = now
        pair = training_batch(data.train, windows, step)
        _, loss = model(pair[:, :-1].contiguous(), pair[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield model


def train_nanogpt(
    module: Any, data: Dataset, steps: int, seed: int, *, batch: int, rate: float
) -> tuple[float, float, float]:
    """Return nanoGPT's loss on both halves and the processor seconds."""
    warmup = min(100, steps // 10)
    trained = nanogpt_steps(
        module, data, seed, batch=batch, rate=rate, warmup=warmup,
        progress=lambda step: (step - warmup) / (steps - warmup),
    )  # fmt: skip
    start = time.process_time()
    model = deque(trained, maxlen=1).pop()
    seconds = time.process_time() - start
    middle = len(data.val) // 2
    first, second = (score_nanogpt(model, part) for part in (data.val[:middle], data.val[middle:]))
    return first, second, seconds


@torch.no_grad()
def score_nanogpt(model: Any, tokens: Tokens) -> float:
    """Return the loss of nanoGPT's model; as with ours, unknown characters are no targets."""
    model.eval()
    total, count = 0.0, int((tokens[1:] != UNKNOWN_TOKEN).sum())
    for inputs, targets in scoring_windows(tokens, CONTEXT, 64):
        logits, _ = model(inputs, targets)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=UNKNOWN_TOKEN, reduction="sum"
        )
        total += loss.item()
    model.train()
    return total / count


def train_recipe(
    recipe: str, length: float, seed: int, text: Path, nanogpt: Path
) -> dict[str, Any]:
    """Train one recipe in this process; return its losses and seconds."""
    torch.set_num_threads(1)
    if recipe.startswith("ours"):
        values = {**PRESETS["fast"].values, "max_steps": 0, "seed": seed}
        if recipe == "ours, sequence 64":
            values |= {"max_seq_len": CONTEXT, "batch_size": 16}
        config = Config(**values)  # pyright: ignore
        data = prepare(read_text(text), config)
        train_step, _, seconds = train_for(config, data, length)
        first, second = score_halves(train_step, data)
    else:
        sys.path.insert(0, str(nanogpt))
        import model as module

        data = prepare(read_text(text), Config())
        settings = TUNED if "tuned" in recipe else RECIPE
        steps = int(length * RECIPE["batch"] / settings["batch"])
        measured = train_nanogpt(module, data, steps, seed, **settings)  # pyright: ignore
        first, second, seconds = measured
    return {"first": first, "second": second, "seconds": seconds}


def seconds_to(target: float, points: list[tuple[float, float]]) -> str:
    """Interpolate between the two lengths around the loss; points are (seconds, loss)."""
    points = sorted(points)
    if points[0][1] <= target:
        return f"under {points[0][0]:.0f}"
    for (t0, l0), (t1, l1) in pairwise(points):
        if l1 <= target < l0:
            share = (l0 - target) / (l0 - l1)
            return f"{math.exp(math.log(t0) + share * (math.log(t1) - math.log(t0))):.0f}"
    return f"over {points[-1][0]:.0f}"


def table(
    results: dict[tuple[str, float, int], dict[str, Any]], lengths: dict[str, str], seeds: int
) -> list[str]:
    """Return rows with time and loss by recipe and length, and the time to each target."""
    targets = " | ".join(f"to {target:.2f}" for target in TARGETS)
    rows = [f"| | seconds | second half | first half | {targets} |"]
    rows.append("|---|---|---|---|" + "---|" * len(TARGETS))
    for recipe, recipe_lengths in lengths.items():
        points: list[tuple[float, float]] = []
        lengths_of: list[str] = []
        for length in map(float, recipe_lengths.split(",")):
            runs = [results[recipe, length, seed] for seed in range(seeds)]
            elapsed = statistics.median(run["seconds"] for run in runs)
            losses = [run["second"] for run in runs]
            mean = statistics.fmean(losses)
            chosen_on = statistics.fmean(run["first"] for run in runs)
            points.append((elapsed, mean))
            lengths_of.append(
                f"{elapsed:.0f} | {mean:.3f} ({min(losses):.3f}-{max(losses):.3f}) | "
                f"{chosen_on:.3f}"
            )
        reached = " | ".join(seconds_to(target, points) for target in TARGETS)
        rows.append(f"| {recipe} | {lengths_of[0]} | {reached} |")
        rows += [f"| | {longer} |" + " |" * len(TARGETS) for longer in lengths_of[1:]]
    return rows


@click.command()
@click.option("--nanogpt", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--seeds", default=5, show_default=True)
@click.option(
    "--seconds",
    default="20,60,180",
    show_default=True,
    help="Lengths of ours; with sequence 64, all but the last.",
)
@click.option(
    "--steps",
    default="1500,3000",
    show_default=True,
    help="Lengths of nanoGPT's recipe, in batches of 12.",
)
@click.option(
    "--tuned-steps",
    default="1000,1500",
    show_default=True,
    help="Lengths of nanoGPT's tuned recipe.",
)
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Write the table to docs/dev/performance.md.")
@click.option("--one", "only", nargs=3, hidden=True, help="One run: WHO LENGTH SEED.")
def main(
    nanogpt: Path,
    text: Path,
    seeds: int,
    seconds: str,
    steps: str,
    tuned_steps: str,
    as_json: bool,
    write: bool,
    only: tuple[str, str, str] | None,
) -> None:
    """Print a table of time and loss by recipe and length over the seeds."""
    if only:
        click.echo(json.dumps(train_recipe(only[0], float(only[1]), int(only[2]), text, nanogpt)))
        return
    shorter = ",".join(seconds.split(",")[:-1]) or seconds
    lengths = {"ours": seconds, "ours, sequence 64": shorter, "nanoGPT's recipe": steps}
    lengths["nanoGPT's, tuned"] = tuned_steps
    cores = len(os.sched_getaffinity(0))
    # Finish a seed before the next, so that all recipes see the same load.
    jobs = [
        (recipe, length, seed)
        for seed in range(seeds)
        for recipe, recipe_lengths in lengths.items()
        for length in map(float, recipe_lengths.split(","))
    ]

    def run(job: tuple[str, float, int]) -> dict[str, Any]:
        words = [sys.executable, __file__, "--nanogpt", nanogpt, "--text", text, "--one", *job]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=True)
        results = json.loads(done.stdout.splitlines()[-1])
        click.echo(
            json.dumps({"job": job, **results}), err=True
        )  # show progress: the whole takes an hour
        return results

    with ThreadPoolExecutor(cores) as pool:
        results = dict(zip(jobs, pool.map(run, jobs), strict=True))
    about = (
        f"{machine()}; one thread each, {cores} at a time; {seeds} seeds; {text.name}; losses on "
    )
    about += "the halves of its validation text, seconds to one on the second."
    rows = [about, "", *table(results, lengths, seeds)]
    if as_json:
        click.echo(json.dumps([{"job": job, **result} for job, result in results.items()]))
    else:
        click.echo("\n".join(rows))
    if write:
        write_section("time_to_loss", "\n".join(rows))


if __name__ == "__main__":
    main()
