"""Score a text: predict every token once, with the model's full context."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import scoring_windows
from fundamentallm.data.text import DataError
from fundamentallm.data.vocabulary import UNKNOWN_TOKEN, Tokens
from fundamentallm.machine.device import autocast
from fundamentallm.model.transformer import Transformer

NO_TOKEN = -100  # ignored by `cross_entropy` by default
SCORED_AT_ONCE = 8192  # enough to fill a device, small enough to stay in a processor's cache


@dataclass(frozen=True)
class Score:
    """Score of a model on a text."""

    loss: float
    """Mean cross-entropy in nats a token."""
    tokens: int
    """Predicted tokens: all but the first and unknown characters."""
    characters_per_token: float
    """1 unless a token is a byte."""

    @property
    def perplexity(self) -> float:
        """Perplexity, exp(loss): as uncertain as a fair choice among this many tokens."""
        return perplexity(self.loss)

    @property
    def bits_per_char(self) -> float:
        """Cross-entropy in bits per character, comparable across vocabularies."""
        return self.loss / math.log(2) / self.characters_per_token

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics for a row of metrics.jsonl."""
        return {
            "val_loss": self.loss,
            "val_perplexity": self.perplexity,
            "val_bits_per_char": self.bits_per_char,
        }


def uniform_guess(vocabulary: int, characters_per_token: float) -> Score:
    """Score of a uniform prediction."""
    return Score(math.log(vocabulary), 0, characters_per_token)


def perplexity(loss: float) -> float:
    """Return exp(loss), capped so that JSON can hold it."""
    return math.exp(min(loss, 700.0))


@torch.no_grad()
def score(
    model: Transformer,
    tokens: Tokens,
    characters: float,
    config: Config,
    device: torch.device,
    *,
    tick: Callable[[], None] = lambda: None,
) -> Score:
    """Score `tokens`, shape (T,) with T >= 2, which spell `characters` characters.

    The text is cut into windows of the model's context length; `model` must be in `eval` mode.
    Unknown characters are not targets: the model never saw one, so their loss would depend on how
    far training has pushed them down, not on what it has learned. A loss that is not finite is
    returned as it is. `tick` is called between windows and may raise to end the scoring.

    Raises:
        DataError: No token of the text can be scored.
    """
    total = 0.0
    count, ignored = len(tokens) - 1, NO_TOKEN
    if config.tokenizer == "char":
        count, ignored = int(np.count_nonzero(tokens[1:] != UNKNOWN_TOKEN)), UNKNOWN_TOKEN
    if not count:
        raise DataError("the model knows no token of the text; give a longer text")
    length = config.max_seq_len
    for inputs, targets in scoring_windows(tokens, length, max(1, SCORED_AT_ONCE // length)):
        with autocast(device, config.mixed_precision):
            logits = model(inputs.to(device))
        losses = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.to(device).flatten(),
            ignore_index=ignored,
            reduction="sum",
        )
        total += losses.item()
        tick()
    return Score(total / count, count, characters / len(tokens))
