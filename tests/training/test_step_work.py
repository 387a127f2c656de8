"""Work of an optimizer step, held against the model's matrices and the optimizer's products."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import parameter_count
from fundamentallm.model.transformer import Transformer
from fundamentallm.training.optimizer import orthogonalize_with_torch
from fundamentallm.training.step_work import step_work

VOCABULARY = 50
CONFIG = Config(model_dim=96, num_layers=3, num_heads=3, max_seq_len=64, batch_size=8)


def test_every_token_meets_every_matrix_and_half_of_its_context() -> None:
    embedding_and_norm = (VOCABULARY + 1) * CONFIG.model_dim
    a_token = parameter_count(CONFIG, VOCABULARY) - embedding_and_norm
    a_token += CONFIG.num_layers * CONFIG.max_seq_len * CONFIG.model_dim
    work = step_work(CONFIG, VOCABULARY)
    assert work.multiplications == 3 * CONFIG.tokens_per_step * a_token
    head = 3 * CONFIG.tokens_per_step * VOCABULARY * CONFIG.model_dim
    assert work.multiplications - step_work(CONFIG, 0).multiplications == head


@pytest.mark.parametrize("width", [32, 96])
def test_the_optimizer_multiplies_as_often_as_counted(width: int) -> None:
    config = replace(CONFIG, model_dim=width, num_heads=2)
    with FlopCounterMode(display=False) as counter:
        for name, weights in Transformer(VOCABULARY, config).named_parameters():
            if name.startswith("layers.") and weights.ndim == 2:
                orthogonalize_with_torch(weights.detach()[None], weights.dtype)
    assert 2 * step_work(config, VOCABULARY).orthogonalizing == counter.get_total_flops()


def test_the_optimizer_works_once_a_step() -> None:
    several = replace(CONFIG, gradient_accumulation=3)
    once, thrice = step_work(CONFIG, VOCABULARY), step_work(several, VOCABULARY)
    assert thrice.multiplications == 3 * once.multiplications
    assert thrice.orthogonalizing == once.orthogonalizing
    assert thrice.calls == 3 * once.calls
