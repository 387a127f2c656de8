"""Scores of configurations that cannot run."""

from __future__ import annotations

import math

import pytest

from fundamentallm.data.text import Text
from fundamentallm.training.impossible import summary_of_impossible


def test_a_run_that_cannot_exist_has_a_score_by_every_metric() -> None:
    for tokenizer, bits in (("char", math.log2(5)), ("byte", 8 * 5 / 4)):
        found = summary_of_impossible({"tokenizer": tokenizer}, Text.of("abcé" * 50), "no")
        assert found["val_bits_per_char"] == pytest.approx(bits)
        assert found["val_perplexity"] == pytest.approx(math.exp(found["val_loss"]))
