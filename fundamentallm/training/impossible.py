"""What a run is worth that cannot exist, so that a search sees it and keeps away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.text import Text
from fundamentallm.data.vocabulary import vocabulary_of
from fundamentallm.status import RunStatus
from fundamentallm.training.evaluate import uniform_guess


def summary_of_impossible(settings: Mapping[str, Any], text: Text, reason: str) -> dict[str, Any]:
    """The summary of a run with `settings` that cannot be: a uniform guess, ln(vocabulary size).

    By every metric of an evaluation, for a sweep may search by any.
    """
    known = {name: settings[name] for name in ("val_split", "tokenizer") if name in settings}
    config = Config(**known)
    tokens = text.length
    if config.tokenizer == "byte":
        tokens = sum(len(piece.encode()) for piece in text.pieces())
    guess = uniform_guess(len(vocabulary_of(text, config)), text.length / tokens)
    score = {**guess.metrics, "best_val_loss": guess.loss, "best_step": 0}
    return {"status": RunStatus.IMPOSSIBLE, "stopped_by": reason, **score}
