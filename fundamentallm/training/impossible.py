"""Penalty score for an invalid configuration, so that a search avoids it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.text import Text
from fundamentallm.data.vocabulary import vocabulary_of
from fundamentallm.status import RunStatus
from fundamentallm.training.evaluate import uniform_guess


def summary_of_impossible(settings: Mapping[str, Any], text: Text, reason: str) -> dict[str, Any]:
    """Return the summary of a run whose `settings` are invalid, scored as a uniform guess.

    It holds every metric of an evaluation, since a sweep may optimize any of them.
    """
    known = {name: settings[name] for name in ("val_split", "tokenizer") if name in settings}
    config = Config(**known)
    tokens = text.length
    if config.tokenizer == "byte":
        tokens = sum(len(piece.encode()) for piece in text.pieces())
    guess = uniform_guess(len(vocabulary_of(text, config)), text.length / tokens)
    score = {**guess.metrics, "best_val_loss": guess.loss, "best_step": 0}
    return {"status": RunStatus.IMPOSSIBLE, "stopped_by": reason, **score}
