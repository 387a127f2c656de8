"""Names and values as people write them."""

from __future__ import annotations

import pytest

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import nearest_name, read_values


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("--bach-size", "batch_size"),
        ("n_embd", "model_dim"),
        ("block_size", "max_seq_len"),
        ("num-layer", "num_layers"),
        ("zzzz", None),
    ],
)
def test_nearest_name(given: str, meant: str | None) -> None:
    assert nearest_name(given) == meant


def test_aliases_are_no_hyperparameters_and_unique() -> None:
    aliases = [alias for known in HYPERPARAMETERS.values() for alias in known.also_called]
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & set(HYPERPARAMETERS)


def test_values_are_read_by_name() -> None:
    assert read_values({"batch-size": "8", "seed": 1}, "a.yaml") == {"batch_size": 8, "seed": 1}
    with pytest.raises(ConfigError, match=r"a.yaml: lr is not .*; did you mean learning_rate"):
        read_values({"lr": 1}, "a.yaml")
    with pytest.raises(ConfigError, match=r"a.yaml: --batch-size: got 'x'"):
        read_values({"batch_size": "x"}, "a.yaml")
    with pytest.raises(ConfigError, match="given twice"):
        read_values({"batch-size": 1, "batch_size": 2}, "a.yaml")
