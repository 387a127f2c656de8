"""`fundamentallm generate`: lets a trained model write."""

from __future__ import annotations

import sys
from collections import Counter

import click

from fundamentallm.cli.messages import show, warn, warn_of_unknown_characters
from fundamentallm.cli.options import PATH
from fundamentallm.data.unknown_characters import examples
from fundamentallm.printable import fit_for


@click.command()
@click.argument("run", type=PATH, metavar="RUN_OR_CHECKPOINT")
@click.option("--prompt", default="", help="Continue this text.  [default: the start of a line]")
@click.option(
    "--temperature",
    default=0.8,
    metavar="T",
    help="Sample at this temperature; 0 takes the likeliest token.  [default: 0.8]",
)
@click.option(
    "--top-k",
    default=0,
    metavar="K",
    help="Sample from the K likeliest tokens; 0 allows all.  [default: 0]",
)
@click.option(
    "--top-p",
    default=1.0,
    metavar="P",
    help="Sample from the likeliest tokens that reach P together.  [default: 1.0]",
)
@click.option(
    "--max-tokens",
    default=500,
    metavar="N",
    help="Write at most N tokens.  [default: 500]",
)
@click.option("--num-samples", default=1, metavar="N", help="Write N samples.  [default: 1]")
@click.option(
    "--seed",
    default=0,
    metavar="N",
    help="Seed the first sample with N, the next with N + 1.  [default: 0]",
)
@click.option("--stop", default="", help="Stop before this text.")
def generate(
    run: str,
    prompt: str,
    temperature: float,
    top_k: int,
    top_p: float,
    max_tokens: int,
    num_samples: int,
    seed: int,
    stop: str,
) -> None:
    """Continue a prompt with a trained model.

    RUN_OR_CHECKPOINT is a run's folder, whose best.pt is used, or a checkpoint.
    """
    for flag, value in (("--max-tokens", max_tokens), ("--num-samples", num_samples)):
        if value < 1:
            raise click.UsageError(f"{flag}: got {value}; give 1 or more")
    if not 0 <= seed < 2**63:
        raise click.UsageError(f"--seed: got {seed}; give a number from 0 to 2^63 - 1")

    from fundamentallm.model.sampling import Sampling
    from fundamentallm.model.sampling import generate as write
    from fundamentallm.model.threads import threads
    from fundamentallm.training.checkpoint import Checkpoint, find_checkpoint

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    checkpoint = Checkpoint.load(find_checkpoint(run))
    model = checkpoint.build_model()
    warn_of_unknown_characters("--prompt", checkpoint.vocabulary.unknown_in(prompt))
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    escaped: Counter[str] = Counter()

    def write_out(text: str) -> None:
        escaped.update(character for character in text if not _can_encode(character, encoding))
        print(fit_for(sys.stdout, text), end="", flush=True)

    for number in range(num_samples):
        if num_samples > 1:
            show(f"--- sample {number + 1} ---")
        write_out(prompt)
        pieces = write(
            model,
            checkpoint.vocabulary,
            prompt,
            sampling=sampling,
            max_tokens=max_tokens,
            seed=seed + number,
            stop=stop,
        )
        with threads():
            for piece in pieces:
                write_out(piece)
        write_out("\n")
    if escaped:
        warn(
            f"stdout is {encoding}, which lacks {examples(escaped)}: they are escaped; set "
            "PYTHONIOENCODING=utf-8 to write them unchanged"
        )


def _can_encode(character: str, encoding: str) -> bool:
    try:
        character.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
