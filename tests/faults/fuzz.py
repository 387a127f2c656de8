"""Feeds random and nearly valid input to the readers of untrusted files and flags.

    python tests/faults/fuzz.py --inputs 100000
    python tests/faults/fuzz.py --folders 20000 --seed 1

The first form feeds readers: each must accept an input or refuse it by an error of the project, and
quickly. The second gives whole folders to commands (fuzz_folders.py). test_fuzz.py holds the short
form; docs/reliability.md the last figures of the long one.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fundamentallm.cli.commands.train import train
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.model.transformer import Transformer
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.training.checkpoint import FORMAT, MARK, Checkpoint

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
SWEEP = """\
program: train.py
method: bayes
metric: {name: val_loss, goal: minimize}
parameters:
  learning_rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  batch_size: {values: [8, 16, 32]}
  dropout: {min: 0.0, max: 0.3}
early_terminate: {type: hyperband, min_iter: 3}
run_cap: 20
"""
SOUP = """\
program method metric parameters early_terminate run_cap name goal values value min max mu sigma q
distribution probabilities uniform normal log_uniform q_uniform grid random bayes hyperband 1e-4
.inf .nan -1 0 null true [] {} - : , & * ! | > # % @ ` ' " <<: *a &a !!python ~ 2026-01-01 0x10
1_000"""
WORDS = [*SOUP.split(), "\t", "\0", "\u2028"]


def _spliced(text: str | bytes, index: int, length: int, other: Any) -> Any:
    index %= len(text) + 1
    return text[:index] + other + text[index + length :]


def _sweep_texts() -> st.SearchStrategy[str]:
    pieces = st.lists(st.sampled_from([*WORDS, "\n", "\n  ", "\n    ", " "]) | st.text(max_size=5))
    soup = pieces.map("".join)
    lines = st.permutations(SWEEP.splitlines()).map("\n".join)
    nearly_valid = st.builds(
        _spliced, st.just(SWEEP), st.integers(0, 400), st.integers(0, 30), soup
    )
    return nearly_valid | soup | lines | st.text()


def _valid_checkpoint() -> bytes:
    shape = {"model_dim": 8, "num_layers": 1, "num_heads": 1, "max_seq_len": 8}
    file = io.BytesIO()
    torch.save(
        {
            "format": FORMAT,
            "config": shape,
            "vocabulary": {"tokenizer": "char", "characters": "abc"},
            "data": {"name": "x", "sha256": "0"},
            "model": Transformer(4, Config(**shape)).state_dict(),  # pyright: ignore
            "progress": {},
            "training": {},
        },
        file,
    )
    return file.getvalue()


VALID_CHECKPOINT = _valid_checkpoint()
ROW = b'{"step": 10, "epoch": 0.1, "train_loss": 2.5, "val_loss": 2.4}\n'


def _checkpoints() -> st.SearchStrategy[bytes]:
    nearly_valid = st.builds(
        _spliced,
        st.just(VALID_CHECKPOINT),
        st.integers(0, len(VALID_CHECKPOINT)),
        st.integers(0, 64),
        st.binary(),
    )
    return nearly_valid | st.binary(max_size=2000)


def _rows() -> st.SearchStrategy[bytes]:
    nearly_valid = st.builds(
        _spliced, st.just(3 * ROW), st.integers(0, 200), st.integers(0, 9), st.binary()
    )
    deep = st.integers(1, 3000).map(lambda n: b"[" * n + b"\n")
    return nearly_valid | deep | st.lists(nearly_valid).map(b"".join) | st.binary()


def _flags() -> st.SearchStrategy[list[str]]:
    names = st.sampled_from([known.flag for known in HYPERPARAMETERS.values()])
    names |= st.sampled_from(
        ["--preset", "--config", "--output-dir", "--resume", "--", "-", "--no-"]
    )
    values = st.text() | st.integers().map(str) | st.floats().map(str) | st.sampled_from(
        ["true", "False", "fast", "1e400", "-0", "10,20", "nan", "\u0661", "1" * 5000]
    )  # fmt: skip
    joined = st.builds("{}={}".format, names, values)
    return st.lists(names | values | joined, max_size=8)


def read_sweep_text(text: str) -> None:
    """Read a sweep file as `check` and `sweep` do."""
    SearchSpace(parse_sweep(text, "x.yaml"), {})


def load_checkpoint(raw: bytes) -> None:
    """Load a checkpoint as `generate` does, with a valid hash, which a forger can compute."""
    path = FOLDER / "best.pt"
    path.write_bytes(raw + hashlib.sha256(raw).digest() + MARK)
    Checkpoint.load(path).build_model()


def read_rows(raw: bytes) -> None:
    """Read metrics.jsonl as a resumed run does."""
    folder = RunFolder(FOLDER)
    folder.metrics.write_bytes(raw)
    assert all(type(row["step"]) is int for row in folder.rows())
    folder.rewind(10)


def parse_flags(words: list[str]) -> None:
    """Parse flags as `train` does before it opens any file."""
    context = train.make_context("train", list(words))
    typed = {
        name: given[-1]
        for name, given in context.params.items()
        if name in HYPERPARAMETERS and given
    }
    Config(**typed)


READERS: dict[str, tuple[Callable[[Any], None], st.SearchStrategy[Any]]] = {
    "sweep files": (read_sweep_text, _sweep_texts()),
    "checkpoints": (load_checkpoint, _checkpoints()),
    "metrics.jsonl": (read_rows, _rows()),
    "flags": (parse_flags, _flags()),
}


def feed(name: str, inputs: int) -> tuple[int, int, float]:
    """Feed a reader; return the inputs fed, the inputs refused, and the seconds of the slowest."""
    reader, strategy = READERS[name]
    counts = {"fed": 0, "refused": 0}
    slowest = 0.0

    @settings(
        max_examples=inputs, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def run(content: Any) -> None:
        nonlocal slowest
        counts["fed"] += 1
        gc.disable()  # collecting what hypothesis keeps takes seconds
        start = time.process_time()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                reader(content)
        except (FundamentallmError, click.UsageError, click.exceptions.Exit):
            counts["refused"] += 1
        slowest = max(slowest, time.process_time() - start)
        gc.enable()

    run()
    return counts["fed"], counts["refused"], slowest


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="Inputs per reader.")
@click.option("--folders", default=0, help="Fuzz this many folders instead.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Seed of the first folder; each next folder adds 1.",
)
def main(inputs: int, folders: int, seed: int) -> None:
    """Print a table; exit with 1 if a folder shows a fault."""
    torch.set_num_threads(1)
    if folders:
        from fuzz_folders import fuzz

        faults, table = fuzz(folders, seed)
        click.echo(table)
        sys.exit(bool(faults))
    click.echo("| reader | inputs | refused | slowest, seconds |\n|---|---|---|---|")
    for name in READERS:
        fed, refused, slowest = feed(name, inputs)
        click.echo(f"| {name} | {fed:,} | {refused:,} | {slowest:.2f} |")


if __name__ == "__main__":
    main()
