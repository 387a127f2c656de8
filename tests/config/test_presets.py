"""Presets are valid."""

from __future__ import annotations

import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.config.presets import PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_possible(name: str) -> None:
    config = Config(**PRESETS[name].values)  # pyright: ignore[reportArgumentType]
    assert config.warnings() == []
