"""Names of runs."""

from __future__ import annotations

import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.run_name import run_name


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (Config(model_dim=256, learning_rate=3e-4), "d256-l6-h8-lr3e-4"),
        (Config(), "d128-l6-h8-lr1e-3"),
        (Config(learning_rate=0.0123456), "d128-l6-h8-lr0.0123"),
        (Config(learning_rate=3.1234e-5), "d128-l6-h8-lr3.12e-5"),
        (Config(dropout=0.25, batch_size=8), "d128-l6-h8-lr1e-3-b8-do0.25"),
        (Config(weight_decay=0.0, lr_schedule="cosine"), "d128-l6-h8-lr1e-3-wd0-cosine"),
        (Config(seed=3, tokenizer="byte"), "d128-l6-h8-lr1e-3-byte-seed3"),
    ],
)
def test_names_of_runs_are_unique(config: Config, name: str) -> None:
    assert run_name(config) == name
