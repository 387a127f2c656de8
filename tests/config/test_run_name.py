"""Names of runs."""

from __future__ import annotations

import pytest

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.config.parsing import DATA
from fundamentallm.config.run_name import ABBREVIATIONS, MOST_CHARACTERS, name_of, run_name


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
        (Config(epochs=5, max_steps=90), "d128-l6-h8-lr1e-3-ep5-steps90"),
        (
            Config(lr_schedule="step", lr_steps="10,20", lr_decay=0.5),
            "d128-l6-h8-lr1e-3-step-decay0.5-at10,20",
        ),
        (Config(early_stopping=True, patience=2), "d128-l6-h8-lr1e-3-early-pat2"),
        (Config(learning_rate=1000.0), "d128-l6-h8-lr1000"),
        (Config(eval_every=7, compile="false"), "d128-l6-h8-lr1e-3"),
    ],
)
def test_names_of_runs_are_unique(config: Config, name: str) -> None:
    assert run_name({**vars(config), "data": "cats.txt"}) == name
    changed = {name: v for name, v in vars(config).items() if v != getattr(Config, name)}
    assert run_name(changed) == (name if changed else "")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"num_layers": 2, "learning_rate": 3e-4}, "l2-lr3e-4"),
        ({"seed": 1, "dropout": 0.0, "data": "texts/my book.txt"}, "my book-do0-seed1"),
        ({"early_stopping": False, "mixed_precision": True}, "noearly-amp"),
        ({"optimizer": "sgd", "batch_size": 8}, "b8-optimizersgd"),
        ({"data": "\x1b]0;a\n.txt"}, "\ufffd]0;a\ufffd"),
        ({}, ""),
    ],
)
def test_a_sweep_names_its_runs_by_the_swept_values(values: dict[str, object], name: str) -> None:
    assert name_of(values) == name


def test_every_hyperparameter_has_an_abbreviation_of_its_own() -> None:
    assert set(ABBREVIATIONS) == {DATA, *HYPERPARAMETERS}
    words = [each for each in ABBREVIATIONS.values() if each]
    assert len(words) == len(set(words))
    assert len(name_of({"data": "a" * 500})) == MOST_CHARACTERS
