"""The number of weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Transformer


@pytest.mark.parametrize("shape", [(16, 2), (128, 6), (96, 1)])
def test_the_count_without_a_model_is_that_of_the_model(
    shape: tuple[int, int], tiny: Config
) -> None:
    config = replace(tiny, model_dim=shape[0], num_layers=shape[1])
    model = Transformer(11, config)
    assert parameter_count(config, 11) == sum(weights.numel() for weights in model.parameters())
