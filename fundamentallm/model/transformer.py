"""Transformer: from tokens to a score for every possible next token.

Shapes: B sequences of T tokens, C = model_dim, H heads of size D = C / H, V tokens in the
vocabulary. docs/dev/experiments.md has the reasons for each part.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fundamentallm.config.hyperparameters import Config
from fundamentallm.machine.device import float32_by_default
from fundamentallm.model.attention import attend, attend_with_torch, rotate, rotations
from fundamentallm.model.dropout import drop
from fundamentallm.model.linear import mlp, project
from fundamentallm.model.norm import norm
from fundamentallm.model.size import mlp_width


class Transformer(nn.Module):
    """Causal transformer of the shape that `config` gives, over `vocab_size` tokens.

    A token enters as its embedding plus a share of the previous one. Layers read a normalized copy
    of the residual stream and add to it. Positions are rotary, the MLP is gated, without biases.
    """

    @float32_by_default()
    def __init__(self, vocab_size: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.model_dim)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.head = nn.Linear(config.model_dim, vocab_size, bias=False)
        self.before = TokenShift(config.model_dim)
        with torch.device("cpu"):  # not saved, so a model of shapes alone has it too
            rotation = rotations(config.max_seq_len, config.model_dim // config.num_heads)
        self.register_buffer("rotation", rotation, persistent=False)
        self.rotation: Tensor
        self._initialize()

    def _initialize(self) -> None:
        """Start as a uniform prediction: every layer adds nothing and every score is 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith("out.weight") or name == "head.weight":
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Return scores of the next token, (B, T, V), for `tokens`, (B, T) with T <= max_seq_len.

        With a `cache` the tokens follow those it holds, and are added to it. B is then 1, and T is
        1 unless the cache is empty.
        """
        start = cache.length if cache else 0
        rotation = self.rotation[:, start : start + tokens.shape[1]]
        x = norm(self.before(norm(self.embedding(tokens)), cache))  # (B, T, C)
        x = drop(x, self.config.dropout if self.training else 0.0)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, cache and cache.layers[index])
        return project(x, self.head.weight, normed=True)


class TokenShift(nn.Module):
    """Add to each token a share of the previous one, with one number per channel.

    Layers need not learn the previous token by attention. Source: the token shift of Peng et al.,
    "RWKV", 2023, here once for the whole model.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, cache: Cache | None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        before = F.pad(x[:, :-1], (0, 0, 1, 0))  # a text's first token has no predecessor
        if cache is not None:
            if cache.newest is not None:
                before[:, :1] = cache.newest
            cache.newest = x[:, -1:]
        return torch.addcmul(x, before, self.share)


class Layer(nn.Module):
    """Attention, then an MLP; each reads a normalized copy of the stream and adds to it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: Tensor, past: Past | None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self.mlp(self.attention(x, rotation, past))


class Attention(nn.Module):
    """Attention of every token to itself and those before it."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        # A separate rate: dropout here rules out the fast CPU kernel (docs/dev/performance.md).
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.key = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.value = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.out = nn.Linear(config.model_dim, config.model_dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, past: Past | None) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        matrices = self.query.weight, self.key.weight, self.value.weight
        qkv = project(x, *matrices, normed=True)
        qkv = qkv.view(*x.shape[:2], 3, self.num_heads, -1)  # (B, T, 3, H, D)
        if past is None:
            y = attend(qkv, rotation, self.attention_dropout if self.training else 0.0)
        else:
            query, key, value = qkv.unbind(2)
            key, value = past.extend(rotate(key, rotation), value)
            y = attend_with_torch(rotate(query, rotation), key, value)
        rate = self.dropout if self.training else 0.0
        return project(y.reshape(x.shape), self.out.weight, onto=x, dropout=rate)


class MLP(nn.Module):
    """SwiGLU: a hidden layer with a gate.

    The hidden width is 8/3 of C, so that its three matrices are as large as two at 4 C.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = mlp_width(config)
        self.gate = nn.Linear(config.model_dim, hidden, bias=False)
        self.up = nn.Linear(config.model_dim, hidden, bias=False)
        self.out = nn.Linear(hidden, config.model_dim, bias=False)
        self.dropout = config.dropout

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        rate = self.dropout if self.training else 0.0
        return mlp(x, self.gate.weight, self.up.weight, self.out.weight, rate)


class Past:
    """Keys and values of one layer for the tokens read so far, (1, T, H, D) each."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values of new tokens, (1, T, H, D) each; return all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat((self.key, key), 1), torch.cat((self.value, value), 1)
        self.key, self.value = key, value
        return key, value


class Cache:
    """Keys and values of every layer, so that generation need not read the text again."""

    def __init__(self, model: Transformer) -> None:
        self.layers = [Past() for _ in model.layers]
        self.newest: Tensor | None = None
        """Embedding of the last token, (1, 1, C)."""

    @property
    def length(self) -> int:
        """Number of tokens read so far."""
        key = self.layers[0].key
        return 0 if key is None else key.shape[1]
