"""The transformer and its cache."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.transformer import Cache, Transformer


def scrambled(config: Config) -> Transformer:
    """A model whose every weight matters (a new one scores 0 everywhere)."""
    torch.manual_seed(1)
    model = Transformer(11, config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3)
    return model


def test_a_new_model_predicts_uniformly(tiny: Config) -> None:
    assert (Transformer(11, tiny)(torch.randint(11, (2, 16))) == 0).all()


@pytest.mark.parametrize("heads", [1, 2, 16])
def test_no_token_sees_a_later_one(tiny: Config, heads: int) -> None:
    model = scrambled(replace(tiny, num_heads=heads))
    tokens = torch.randint(11, (1, 16))
    before = model(tokens)
    for position in range(16):
        changed = tokens.clone()
        changed[0, position] = (changed[0, position] + 1) % 11
        after = model(changed)
        assert torch.equal(before[:, :position], after[:, :position])
        assert not torch.allclose(before[:, position], after[:, position])


def test_every_token_sees_the_first(tiny: Config) -> None:
    model = scrambled(tiny)
    tokens = torch.randint(11, (1, 16))
    changed = tokens.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 11
    assert (model(tokens) - model(changed)).abs().amax(-1).min() > 1e-6


def test_a_token_enters_with_its_predecessor(tiny: Config) -> None:
    model = scrambled(tiny)
    for layer in model.layers:
        torch.nn.init.zeros_(layer.attention.out.weight)  # pyright: ignore
        torch.nn.init.zeros_(layer.mlp.out.weight)  # pyright: ignore
    scores = model(torch.tensor([[7, 3, 0, 7, 3, 3]]))[0]
    torch.testing.assert_close(scores[1], scores[4])  # 3 after 7
    assert not torch.allclose(scores[4], scores[5])  # 3 after 3
    assert not torch.allclose(scores[0], scores[3])  # nothing is before the first


@pytest.mark.parametrize("prefill", [1, 5, 16])
def test_the_cache_gives_the_same_scores_as_reading_again(tiny: Config, prefill: int) -> None:
    model = scrambled(tiny)
    tokens = torch.randint(11, (1, 16))
    cache = Cache(model)
    parts = [model(tokens[:, :prefill], cache)]
    parts += [model(tokens[:, i : i + 1], cache) for i in range(prefill, 16)]
    assert cache.length == 16
    torch.testing.assert_close(torch.cat(parts, 1), model(tokens), rtol=1e-4, atol=1e-4)


def test_attention_dropout_is_independent_of_dropout(tiny: Config) -> None:
    model = Transformer(11, replace(tiny, dropout=0.0, attention_dropout=0.5))
    tokens = torch.randint(11, (2, 16))
    for weights in (model.head.weight, *(layer.attention.out.weight for layer in model.layers)):
        nn.init.normal_(weights)  # they begin as nothing
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_dropout_acts_only_in_training(tiny: Config) -> None:
    model = scrambled(replace(tiny, dropout=0.5, attention_dropout=0.5))
    tokens = torch.randint(11, (1, 16))
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
