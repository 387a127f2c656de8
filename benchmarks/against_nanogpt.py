"""Validation loss at equal wall-clock: `--preset fast` beside nanoGPT's own CPU recipe.

    python benchmarks/against_nanogpt.py --nanogpt PATH_TO_ITS_FILES --text tinyshakespeare.txt

nanoGPT trains first, for the steps of its recipe: 4 layers, 128 wide, 4 heads, sequence 64,
batch 12, 2,000 steps, no dropout, AdamW 1e-3, 100 steps of warm-up, cosine decay to 1e-4 (from
the README of github.com/karpathy/nanoGPT). Then ours trains for as long; its schedule is fitted
by timing a short run, evaluation included. Both have the same threads and the same training
part, and are scored on the whole validation part, each at its own context, without overlap.
Needs nanoGPT's files; nothing of them is kept here.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch.nn.functional import cross_entropy

from fundamentallm import Config, train
from fundamentallm.data import Dataset, prepare, scoring_windows, training_batch
from fundamentallm.presets import PRESETS
from fundamentallm.text import read_text

CONTEXT, BATCH, STEPS, WARMUP, PEAK, FLOOR = 64, 12, 2000, 100, 1e-3, 1e-4
TRIAL_STEPS = 150


def train_nanogpt(module: Any, data: Dataset, seed: int) -> tuple[float, float]:
    """Train nanoGPT by its recipe; its validation loss, and the seconds it took."""
    torch.manual_seed(seed)
    shape = module.GPTConfig(
        block_size=CONTEXT,
        vocab_size=len(data.vocabulary),
        n_layer=4,
        n_head=4,
        n_embd=128,
        dropout=0.0,
        bias=False,
    )
    model = module.GPT(shape)
    optimizer = model.configure_optimizers(0.1, PEAK, (0.9, 0.99), "cpu")
    windows = Config(max_seq_len=CONTEXT, batch_size=BATCH, seed=seed)
    start = time.perf_counter()
    for step in range(STEPS):
        decay = 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP)))
        warm = step < WARMUP
        rate = PEAK * (step + 1) / (WARMUP + 1) if warm else FLOOR + decay * (PEAK - FLOOR)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = training_batch(data.train, windows, step)
        _, loss = model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - start
    model.eval()
    total = 0.0
    with torch.no_grad():
        for inputs, targets in scoring_windows(data.val, CONTEXT, 64):
            logits, _ = model(inputs, targets)
            total += cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").item()
    return total / (len(data.val) - 1), seconds


def train_ours(data: Dataset, seconds: float, seed: int) -> tuple[float, float, int]:
    """Train `--preset fast` for about `seconds`; its validation loss, the seconds, the steps."""
    config = Config(**(dict(PRESETS["fast"].values) | {"seed": seed}))  # pyright: ignore
    trial = replace(config, max_steps=TRIAL_STEPS, eval_every=TRIAL_STEPS, epochs=10_000)
    start = time.perf_counter()
    train(trial, data, device="cpu")
    steps = int(TRIAL_STEPS * seconds / (time.perf_counter() - start))
    config = replace(config, max_steps=steps, epochs=10_000, eval_every=steps)
    start = time.perf_counter()
    result = train(config, data, device="cpu")
    return result.val_loss, time.perf_counter() - start, result.step


@click.command()
@click.option("--nanogpt", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--seeds", default=1, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(nanogpt: Path, text: Path, seeds: int, threads: int, as_json: bool) -> None:
    """Print a row a seed: both losses, both times (ours with its one evaluation)."""
    torch.set_num_threads(threads)
    sys.path.insert(0, str(nanogpt))
    import model as module

    data = prepare(read_text(text), Config())
    rows = []
    for seed in range(seeds):
        theirs, their_seconds = train_nanogpt(module, data, seed)
        ours, our_seconds, steps = train_ours(data, their_seconds, seed)
        rows.append(
            {
                "seed": seed,
                "nanogpt_val_loss": theirs,
                "nanogpt_seconds": their_seconds,
                "val_loss": ours,
                "seconds": our_seconds,
                "steps": steps,
            }
        )
        if not as_json:
            click.echo("  ".join(f"{key} {value:.4g}" for key, value in rows[-1].items()))
    if as_json:
        click.echo(json.dumps({"threads": threads, "torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()
