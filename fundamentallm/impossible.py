"""What a run is worth that cannot exist, so that a search sees it and keeps away."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fundamentallm.data import vocabulary_of
from fundamentallm.hyperparameters import Config
from fundamentallm.text import Text


def summary_of_impossible(settings: Mapping[str, Any], text: Text, reason: str) -> dict[str, Any]:
    """The summary of a run with `settings` that cannot be: a uniform guess, ln(vocabulary size)."""
    known = {name: settings[name] for name in ("val_split", "tokenizer") if name in settings}
    loss = math.log(len(vocabulary_of(text, Config(**known))))
    score = {"val_loss": loss, "best_val_loss": loss, "best_step": 0}
    return {"status": "impossible", "stopped_by": reason, **score}
