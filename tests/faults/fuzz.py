"""What readers of foreign files and flags are fed: anything, and nearly what they expect.

    python tests/faults/fuzz.py --inputs 100000
    python tests/faults/fuzz.py --folders 20000 --seed 1

The second form gives whole folders to commands (fuzz_folders.py). In the first, every input must be
taken, or refused by an error of the project's own; and none may take long. The
short form is in test_fuzz.py; the last figures of the long one are in docs/reliability.md.
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

PLACE = Path(tempfile.mkdtemp(prefix="fuzz-"))
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


def _spliced(text: str | bytes, place: int, length: int, other: Any) -> Any:
    place %= len(text) + 1
    return text[:place] + other + text[place + length :]


def _sweep_texts() -> st.SearchStrategy[str]:
    pieces = st.lists(st.sampled_from([*WORDS, "\n", "\n  ", "\n    ", " "]) | st.text(max_size=5))
    soup = pieces.map("".join)
    lines = st.permutations(SWEEP.splitlines()).map("\n".join)
    near = st.builds(_spliced, st.just(SWEEP), st.integers(0, 400), st.integers(0, 30), soup)
    return near | soup | lines | st.text()


def _good() -> bytes:
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


GOOD = _good()
ROW = b'{"step": 10, "epoch": 0.1, "train_loss": 2.5, "val_loss": 2.4}\n'


def _checkpoints() -> st.SearchStrategy[bytes]:
    near = st.builds(
        _spliced, st.just(GOOD), st.integers(0, len(GOOD)), st.integers(0, 64), st.binary()
    )
    return near | st.binary(max_size=2000)


def _rows() -> st.SearchStrategy[bytes]:
    near = st.builds(
        _spliced, st.just(3 * ROW), st.integers(0, 200), st.integers(0, 9), st.binary()
    )
    deep = st.integers(1, 3000).map(lambda n: b"[" * n + b"\n")
    return near | deep | st.lists(near).map(b"".join) | st.binary()


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
    """As `check` and `sweep` do."""
    SearchSpace(parse_sweep(text, "x.yaml"), {})


def load_checkpoint(raw: bytes) -> None:
    """As `generate` does, with a hash that is right: a forger can make one."""
    path = PLACE / "best.pt"
    path.write_bytes(raw + hashlib.sha256(raw).digest() + MARK)
    Checkpoint.load(path).build_model()


def read_rows(raw: bytes) -> None:
    """As a resumed run does."""
    folder = RunFolder(PLACE)
    folder.metrics.write_bytes(raw)
    assert all(type(row["step"]) is int for row in folder.rows())
    folder.rewind(10)


def parse_flags(words: list[str]) -> None:
    """As `train` does, before it looks at any file."""
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
    """Feed a reader; how many inputs it got, how many it refused, and seconds of the slowest."""
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
        gc.disable()  # hypothesis remembers what it drew, and to look through that takes seconds
        began = time.process_time()
        try:
            with contextlib.redirect_stderr(io.StringIO()):
                reader(content)
        except (FundamentallmError, click.UsageError, click.exceptions.Exit):
            counts["refused"] += 1
        slowest = max(slowest, time.process_time() - began)
        gc.enable()

    run()
    return counts["fed"], counts["refused"], slowest


@click.command()
@click.option("--inputs", default=100_000, show_default=True, help="To each reader.")
@click.option("--folders", default=0, help="Change so many folders instead.")
@click.option("--seed", default=0, show_default=True, help="Of the first folder; then +1.")
def main(inputs: int, folders: int, seed: int) -> None:
    """Print a table; exit by 1 if a folder shows a fault."""
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
