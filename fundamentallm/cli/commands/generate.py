"""`fundamentallm generate`: lets a trained model write."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import click

from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import show, warn, warn_of_unknown_characters
from fundamentallm.cli.model_source import find_model
from fundamentallm.cli.options import PATH
from fundamentallm.data.unknown_characters import examples
from fundamentallm.printable import fit_for


@click.command()
@click.argument("model", type=PATH, metavar="MODEL")
@click.option("--prompt", help="Continue this text.  [default: the start of a line]")
@click.option(
    "--prompt-file", type=PATH, metavar="FILE", help="Continue the text in FILE; - reads stdin."
)
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
@click.option("--stop", default="", help=r"Stop before this text; \n means a line break.")
@json_option
def generate(
    model: str,
    prompt: str | None,
    prompt_file: str | None,
    temperature: float,
    top_k: int,
    top_p: float,
    max_tokens: int,
    num_samples: int,
    seed: int,
    stop: str,
    as_json: bool,
) -> None:
    """Continue a prompt with a trained model.

    MODEL is a checkpoint, or the folder of a run, whose best.pt is taken, or of a sweep, whose best
    run is taken.
    """
    for flag, value in (("--max-tokens", max_tokens), ("--num-samples", num_samples)):
        if value < 1:
            raise click.UsageError(f"{flag}: got {value}; give 1 or more")
    if not 0 <= seed < 2**63:
        raise click.UsageError(f"--seed: got {seed}; give a number from 0 to 2^63 - 1")
    if prompt is not None and prompt_file is not None:
        raise click.UsageError("--prompt and --prompt-file exclude each other; give one")

    from fundamentallm.data.text import read_text
    from fundamentallm.model.sampling import Sampling
    from fundamentallm.model.sampling import generate as write
    from fundamentallm.model.threads import threads
    from fundamentallm.training.checkpoint import Checkpoint

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    path = find_model(model)
    checkpoint = Checkpoint.load(path)
    built = checkpoint.build_model()
    text = read_text(prompt_file).content if prompt_file is not None else prompt or ""
    where = "--prompt" if prompt_file is None else prompt_file
    warn_of_unknown_characters(where, checkpoint.vocabulary.unknown_in([text]))

    def pieces(seed: int) -> Iterator[str]:
        return write(
            built,
            checkpoint.vocabulary,
            text,
            sampling=sampling,
            max_tokens=max_tokens,
            seed=seed,
            stop=_unescaped(stop),
        )

    seeds = range(seed, seed + num_samples)
    with threads():
        if as_json:
            samples = [{"seed": n, "prompt": text, "text": "".join(pieces(n))} for n in seeds]
            show_json({"checkpoint": str(path), "samples": samples})
        else:
            _print_samples(text, [pieces(n) for n in seeds])


def _unescaped(typed: str) -> str:
    r"""Return a typed text with `\n`, `\t` and `\\` as the characters that they stand for."""
    meant = {"n": "\n", "t": "\t", "\\": "\\"}
    return re.sub(r"\\([nt\\])", lambda found: meant[found[1]], typed)


def _print_samples(prompt: str, samples: Sequence[Iterator[str]]) -> None:
    """Print samples as they are written; warn of characters that stdout's encoding lacks."""
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"
    escaped: Counter[str] = Counter()

    def write_out(text: str) -> None:
        escaped.update(character for character in text if not _can_encode(character, encoding))
        print(fit_for(sys.stdout, text), end="", flush=True)

    for number, pieces in enumerate(samples, 1):
        if len(samples) > 1:
            show(f"--- sample {number} ---")
        write_out(prompt)
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
