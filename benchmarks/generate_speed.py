"""Characters per second of generation: ours with its key-value cache, nanoGPT without one.

    python benchmarks/generate_speed.py --nanogpt PATH_TO_ITS_FILES [--write]

Uses the default shape (6 layers, width 128, 8 heads, context 256) and 400 characters, so that the
context is full for the last third. The weights are untrained: speed does not depend on them.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import click
import torch
from comparing import in_turns, machine, ratio, write_section

from fundamentallm import Config
from fundamentallm.model.sampling import Sampling, draw_tokens
from fundamentallm.model.transformer import Transformer

CHARACTERS, VOCABULARY = 400, 66


@click.command()
@click.option("--nanogpt", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--write", is_flag=True, help="Write the result to docs/dev/performance.md.")
def main(nanogpt: Path, rounds: int, threads: int, as_json: bool, write: bool) -> None:
    """Print both speeds."""
    torch.set_num_threads(threads)
    sys.path.insert(0, str(nanogpt))
    import model as module

    ours = Transformer(VOCABULARY, Config()).eval()
    theirs: Any = module.GPT(
        module.GPTConfig(256, VOCABULARY, n_layer=6, n_head=8, n_embd=128, dropout=0.0, bias=False)
    ).eval()
    prompt = torch.ones(1, 1, dtype=torch.long)
    tasks = {
        "ours": lambda: list(draw_tokens(ours, [1], Sampling(), CHARACTERS, 0)),
        "nanoGPT": lambda: theirs.generate(prompt, CHARACTERS, temperature=0.8),
    }
    seconds = in_turns(tasks, rounds)
    speeds = {name: CHARACTERS / statistics.median(each) for name, each in seconds.items()}
    speedup = ratio(seconds["ours"], seconds["nanoGPT"])
    text = (
        f"{machine()}; {threads} threads; {rounds} rounds; {CHARACTERS} characters from an empty "
        f"prompt, default shape. Ours {speeds['ours']:.0f} characters a second, nanoGPT "
        f"{speeds['nanoGPT']:.0f}: {speedup} times."
    )
    click.echo(json.dumps({"machine": machine(), "seconds": seconds}) if as_json else text)
    if write:
        write_section("generate_speed", text)


if __name__ == "__main__":
    main()
