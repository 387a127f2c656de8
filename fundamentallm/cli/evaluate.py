"""`fundamentallm evaluate`: scores a text with a trained model."""

from __future__ import annotations

import json

import click

from fundamentallm.cli.messages import warn_of_unknown
from fundamentallm.cli.options import PATH, device_option
from fundamentallm.metrics import score_text


@click.command()
@click.argument("run", type=PATH, metavar="RUN_OR_CHECKPOINT")
@click.argument("data", type=PATH, metavar="DATA.TXT")
@device_option()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def evaluate(run: str, data: str, device: str, as_json: bool) -> None:
    """Score all of DATA.TXT with a trained model: a run's folder (its best.pt) or a checkpoint."""
    from fundamentallm.checkpoint import Checkpoint, find_checkpoint
    from fundamentallm.device import is_out_of_memory, pick_device, suits_kernels, threads
    from fundamentallm.evaluate import score
    from fundamentallm.learner import OutOfMemoryError
    from fundamentallm.text import DataError, read_text

    where = pick_device(device)
    path = find_checkpoint(run)
    checkpoint = Checkpoint.load(path)
    text = read_text(data)
    tokens = checkpoint.vocabulary.encode_all(text.pieces())
    if len(tokens) < 2:
        raise DataError(f"{data}: one token is too few to score; give two or more")
    unknown = checkpoint.vocabulary.unknown_in(text.pieces())
    warn_of_unknown(data, unknown, scored="the loss")
    try:
        model = checkpoint.build_model().to(where)
        with threads(in_kernels=suits_kernels(checkpoint.config, where)):
            scored = score(model, tokens, text.length, checkpoint.config, where)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"memory ran out on {where}; give another --device") from None
        raise
    if as_json:
        result = {
            "checkpoint": str(path),
            "data": data,
            "loss": scored.loss,
            "perplexity": scored.perplexity,
            "bits_per_char": scored.bits_per_char,
            "tokens": scored.tokens,
            "unknown_characters": unknown.total(),
        }
        click.echo(json.dumps(result))
        return
    click.echo(
        f"loss {score_text(scored.loss)}  perplexity {score_text(scored.perplexity)}  "
        f"bits per character {score_text(scored.bits_per_char)}  ({scored.tokens:,} tokens)"
    )
