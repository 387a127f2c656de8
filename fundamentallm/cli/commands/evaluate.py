"""`fundamentallm evaluate`: scores a text with a trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.messages import show, warn, warn_of_unknown_characters
from fundamentallm.cli.model_source import find_model
from fundamentallm.cli.options import PATH, device_option
from fundamentallm.metrics import score_text

if TYPE_CHECKING:
    from fundamentallm.data.text import Text
    from fundamentallm.training.checkpoint import Checkpoint


@click.command()
@click.argument("model", type=PATH, metavar="MODEL")
@click.argument("data", type=PATH, metavar="DATA.TXT")
@device_option()
@click.option(
    "--split",
    type=click.Choice(("all", "train", "val")),
    default="all",
    show_default=True,
    help="Score only this part of the text that the model was trained on.",
)
@json_option
def evaluate(model: str, data: str, device: str, split: str, as_json: bool) -> None:
    """Score DATA.TXT with a trained model.

    MODEL is a checkpoint, or the folder of a run, whose best.pt is taken, or of a sweep, whose best
    run is taken.
    """
    from fundamentallm.data.text import DataError, read_text
    from fundamentallm.machine.device import is_out_of_memory, pick_device
    from fundamentallm.model.threads import suits_kernels, threads
    from fundamentallm.training.checkpoint import Checkpoint
    from fundamentallm.training.evaluate import score
    from fundamentallm.training.train_step import OutOfMemoryError

    where = pick_device(device)
    path = find_model(model)
    checkpoint = Checkpoint.load(path)
    text = read_text(data)
    start, stop = _part(text, split, checkpoint)
    tokens = checkpoint.vocabulary.encode_all(text.part(start, stop))
    if len(tokens) < 2:
        raise DataError(f"{data}: one token is too few to score; give two or more")
    unknown = checkpoint.vocabulary.unknown_in(text.part(start, stop))
    warn_of_unknown_characters(data, unknown, scored="the loss")
    try:
        built = checkpoint.build_model().to(where)
        with threads(in_kernels=suits_kernels(checkpoint.config, where)):
            scored = score(built, tokens, stop - start, checkpoint.config, where)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"memory ran out on {where}; give another --device") from None
        raise
    if as_json:
        result = {
            "checkpoint": str(path),
            "data": data,
            "split": split,
            "loss": scored.loss,
            "perplexity": scored.perplexity,
            "bits_per_char": scored.bits_per_char,
            "tokens": scored.tokens,
            "unknown_characters": unknown.total(),
        }
        show_json(result, indent=None)
        return
    show(
        f"loss {score_text(scored.loss)}  perplexity {score_text(scored.perplexity)}  "
        f"bits per character {score_text(scored.bits_per_char)}  ({scored.tokens:,} tokens)"
    )


def _part(text: Text, split: str, checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the start and end of the part called `split` in the text.

    Raises:
        DataError: The model was trained on another text, which has no such parts.
    """
    from fundamentallm.data.text import DataError
    from fundamentallm.data.vocabulary import train_length

    boundary = train_length(text, checkpoint.config.val_split)
    if text.sha256 != checkpoint.data["sha256"]:
        if split != "all":
            raise DataError(
                f"--split {split}: the model was trained on {checkpoint.data['name']}, and "
                f"{text.name} is another text; leave out --split"
            )
    elif split == "all":
        warn(
            f"the model was trained on {text.name}, except for its last "
            f"{text.length - boundary:,} characters; --split val scores only those"
        )
    return {"all": (0, text.length), "train": (0, boundary), "val": (boundary, text.length)}[split]
