"""Seconds of a whole training step (data, forward, backward, clipping, optimizer); and nanoGPT's.

    python benchmarks/train_speed.py --nanogpt PATH_TO_ITS_FILES [--shapes default,small] [--write]

The variants take one step each in turn, in processes of their own, with equal cores and float32.
nanoGPT runs as in its own training loop: with dropout; without the dropout in attention, which
disables torch's fused kernel on a CPU; without any dropout; and compiled. One more variant keeps
freed memory, as our trainer does. Our dropout is on the embeddings and the outputs of attention and
MLP, not on attention weights. The share is relative to torch's product of two 1,024 x 1,024
matrices, timed in turn with the rest. A token needs 6 operations per weight, plus
6 * layers * width * length for attention: half of nanoGPT's count, because attention is causal.
The optimizers' work is not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from comparing import in_process, in_turns, machine, ratio, write_section

from fundamentallm import Config
from fundamentallm.data.dataset import prepare, training_batch
from fundamentallm.data.text import read_text
from fundamentallm.machine.cores_and_memory import keep_freed_memory
from fundamentallm.training.train_step import TrainStep

PRODUCTS = 20
SHAPES = {
    "default": {},
    "small": {"num_layers": 4, "batch_size": 16, "max_seq_len": 128},
    "large": {"model_dim": 512, "num_layers": 12, "batch_size": 16},
}
ABOUT = {
    "default": "6 layers, 128 wide, 8 heads, sequence 256, batch 32",
    "small": "`limited-compute`, 4 layers, 128 wide, 8 heads, sequence 128, batch 16",
    "large": "`large-dataset` with batch 16, 12 layers, 512 wide, 8 heads, sequence 256",
}


def our_step(config: Config) -> Callable[[], float]:
    keep_freed_memory()  # as `fundamentallm train` does
    data = prepare(read_text(None), config)
    train_step = TrainStep(len(data.vocabulary), config, torch.device("cpu"))
    count = iter(range(1 << 30))

    def step() -> float:
        windows = training_batch(data.train, config, next(count))
        loss, _ = train_step.step(windows, config.learning_rate)
        return loss.item()

    return step


def nanogpt_step(
    path: Path,
    config: Config,
    dropout: float,
    *,
    attention_dropout: bool = True,
    compiled: bool = False,
    keep_memory: bool = False,
) -> Callable[[], float]:
    sys.path.insert(0, str(path))
    import model as module

    if keep_memory:
        keep_freed_memory()
    data = prepare(read_text(None), config)
    shape = module.GPTConfig(
        block_size=config.max_seq_len, vocab_size=len(data.vocabulary), n_layer=config.num_layers,
        n_head=config.num_heads, n_embd=config.model_dim, dropout=dropout, bias=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = module.GPT(shape)
    if not attention_dropout:
        for block in model.transformer.h:
            block.attn.dropout = 0.0
    optimizer = model.configure_optimizers(0.1, config.learning_rate, (0.9, 0.99), "cpu")
    forward = torch.compile(model) if compiled else model
    count = iter(range(1 << 30))

    def step() -> float:
        batch = training_batch(data.train, config, next(count))
        _, loss = forward(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def products() -> Callable[[], object]:
    """Return a task of large float32 matrix products."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return lambda: [a @ b for _ in range(PRODUCTS)]


def flops_a_token(config: Config, vocabulary: int) -> float:
    hidden = max(8, round(config.model_dim / 3) * 8)
    a_layer = 4 * config.model_dim**2 + 3 * config.model_dim * hidden
    weights = config.num_layers * a_layer + vocabulary * config.model_dim
    return 6 * weights + 6 * config.num_layers * config.model_dim * config.max_seq_len


def peak_memory(nanogpt: Path, which: str) -> float:
    """Return the peak MB of a process that takes two steps of the default shape, dropout 0.1.

    `which` is "ours", "nanoGPT" or "nanoGPT, in attention 0".
    """
    code = rf"""
import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
import re, torch, train_speed
from pathlib import Path
from fundamentallm import Config
torch.set_num_threads({torch.get_num_threads()})
if {which!r} == "ours": step = train_speed.our_step(Config())
else:
    dropped = {which!r} == "nanoGPT"
    step = train_speed.nanogpt_step(
        Path({str(nanogpt)!r}), Config(), 0.1, attention_dropout=dropped
    )
step(); step()
status = open("/proc/self/status").read()  # getrusage would count the parent's peak
print(int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1000)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


@click.command()
@click.option("--nanogpt", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--shapes", default="default,small,large", show_default=True)
@click.option(
    "--rounds", default=9, show_default=True, help="Rounds; a third of them for the large shape."
)
@click.option("--threads", default=2, show_default=True)
@click.option("--compiled/--eager", default=True, help="Measure compiled variants too.")
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Write the table to docs/dev/performance.md.")
def main(
    nanogpt: Path,
    shapes: str,
    rounds: int,
    threads: int,
    compiled: bool,
    as_json: bool,
    write: bool,
) -> None:
    """Print a table with two columns for each shape."""
    torch.set_num_threads(threads)
    large_rounds = max(3, rounds // 3)
    text = [
        f"{machine()}; {threads} threads; float32; {rounds} rounds, of the large "
        f"shape {large_rounds}. Tokens a second, their share of a large product's GFLOP/s, and how "
        "many times as fast ours is:",
        "",
    ]
    cells: dict[str, list[str]] = {}
    results: dict[str, Any] = {"machine": machine(), "threads": threads, "rounds": rounds}
    for name in shapes.split(","):
        config = {rate: Config(**SHAPES[name], dropout=rate) for rate in (0.1, 0.0)}  # pyright: ignore
        theirs = partial(nanogpt_step, nanogpt)
        makers = {
            "ours, 0.1": partial(our_step, config[0.1]),
            "ours, 0": partial(our_step, config[0.0]),
            "nanoGPT, 0.1": partial(theirs, config[0.1], 0.1),
            "nanoGPT, 0.1, in attention 0": partial(
                theirs, config[0.1], 0.1, attention_dropout=False
            ),
            "nanoGPT, 0": partial(theirs, config[0.0], 0.0),
            "nanoGPT, 0, freed memory kept": partial(theirs, config[0.0], 0.0, keep_memory=True),
        }
        if compiled:
            for rate in (0.1, 0.0):
                makers[f"nanoGPT compiled, {rate:g}"] = partial(
                    theirs, config[rate], rate, compiled=True
                )
        makers["products"] = products
        tasks = {task: in_process(make, threads) for task, make in makers.items()}
        seconds = in_turns(tasks, large_rounds if name == "large" else rounds)
        peak = PRODUCTS * 2 * 1024**3 / statistics.median(seconds.pop("products"))
        tokens = config[0.0].batch_size * config[0.0].max_seq_len
        need = flops_a_token(config[0.0], len(prepare(read_text(None), config[0.0]).vocabulary))
        text += [f"- {name}: {ABOUT[name]}; {peak / 1e9:.0f} GFLOP/s"]
        for task, each in seconds.items():
            speed = tokens / statistics.median(each)
            ours = "ours, 0.1" if "0.1" in task else "ours, 0"
            speedup = "" if task.startswith("ours") else ratio(seconds[ours], each)
            cells.setdefault(task, []).append(
                f"{speed:,.0f} ({need * speed / peak:.0%}) | {speedup}"
            )
        results[name] = {"seconds": seconds, "peak": peak}
    measured = shapes.split(",")
    text += ["", "| dropout | " + " | ".join(f"{name} | ratio" for name in measured) + " |"]
    text.append("|---|" + "---|---|" * len(measured))
    text += [f"| {task} | {' | '.join(each)} |" for task, each in cells.items()]
    if "default" in shapes:
        variants = ("ours", "nanoGPT", "nanoGPT, in attention 0")
        memory = {each: peak_memory(nanogpt, each) for each in variants}
        results["peak_memory_mb"] = memory
        each = ", ".join(f"{name} {megabytes:.0f}" for name, megabytes in memory.items())
        text += ["", f"Peak MB, default shape, dropout 0.1: {each}."]
    click.echo(json.dumps(results) if as_json else "\n".join(text))
    if write:
        write_section("train_speed", "\n".join(text))


if __name__ == "__main__":
    main()
