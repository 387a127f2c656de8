"""The transformer: tokens in, a score for every possible next token out.

Shapes: B sequences, T tokens in each, C = model_dim, H heads of size D = C / H, V tokens in
the vocabulary. Why each part is what it is: docs/experiments.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fundamentallm.hyperparameters import Config


class Transformer(nn.Module):
    """A causal transformer of the shape that `config` gives, over `vocab_size` tokens.

    Layers read a normalised copy of the stream and add to it; positions are rotations; the
    MLP is gated; there are no biases.
    """

    def __init__(self, vocab_size: int, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.model_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.head = nn.Linear(config.model_dim, vocab_size, bias=False)
        rotation = rotations(config.max_seq_len, config.model_dim // config.num_heads)
        self.register_buffer("rotation", rotation, persistent=False)
        self.rotation: Tensor
        self._initialise()

    def _initialise(self) -> None:
        """Start as a uniform guess: every layer adds nothing and every score is 0."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if name.endswith("out.weight") or name == "head.weight":
                nn.init.zeros_(weight)

    def forward(self, tokens: Tensor, cache: Cache | None = None) -> Tensor:
        """Scores of the next token, (B, T, V), for `tokens`, (B, T) with T <= max_seq_len.

        With a `cache` the tokens follow those it has read, and are added to it. Then B is 1,
        and T is 1 unless the cache is empty.
        """
        start = cache.length if cache else 0
        rotation = self.rotation[:, start : start + tokens.shape[1]]
        x = self.dropout(norm(self.embedding(tokens)))  # (B, T, C)
        for index, layer in enumerate(self.layers):
            x = layer(x, rotation, cache and cache.layers[index])
        return self.head(norm(x))


class Layer(nn.Module):
    """Attention, then an MLP, each added to the stream."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Tensor, past: Past | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.dropout(self.attention(norm(x), rotation, past))
        return x + self.dropout(self.mlp(norm(x)))


class Attention(nn.Module):
    """Every token looks back at those before it and at itself."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        # Apart from --dropout: on a CPU any dropout here leaves the fused kernel (7 times slower).
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.key = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.value = nn.Linear(config.model_dim, config.model_dim, bias=False)
        self.out = nn.Linear(config.model_dim, config.model_dim, bias=False)

    def forward(self, x: Tensor, rotation: Tensor, past: Past | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        heads = (*x.shape[:2], self.num_heads, -1)  # (B, T, H, D)
        query = rotate(self.query(x).view(heads), rotation).transpose(1, 2)
        key = rotate(self.key(x).view(heads), rotation).transpose(1, 2)
        value = self.value(x).view(heads).transpose(1, 2)
        if past is not None:
            key, value = past.extend(key, value)
        y = F.scaled_dot_product_attention(
            query,
            key,
            value,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=query.shape[2] > 1,  # a single token may see all that is there
        )
        return self.out(y.transpose(1, 2).reshape(x.shape))


class MLP(nn.Module):
    """What a token does with what it gathered: SwiGLU, a hidden layer with a gate.

    The hidden width is 8/3 of C, so that three matrices weigh what two would at 4 C.
    Source: Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = max(8, round(config.model_dim / 3) * 8)
        self.gate = nn.Linear(config.model_dim, hidden, bias=False)
        self.up = nn.Linear(config.model_dim, hidden, bias=False)
        self.out = nn.Linear(hidden, config.model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        return self.out(F.silu(self.gate(x)) * self.up(x))


class Past:
    """What one layer remembers of the tokens read so far, (1, H, T, D) each."""

    def __init__(self) -> None:
        self.key: Tensor | None = None
        self.value: Tensor | None = None

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Add the newest tokens' keys and values; return all."""
        if self.key is not None and self.value is not None:
            key, value = torch.cat((self.key, key), 2), torch.cat((self.value, value), 2)
        self.key, self.value = key, value
        return key, value


class Cache:
    """What every layer of a model remembers, so that writing on need not read again."""

    def __init__(self, model: Transformer) -> None:
        self.layers = [Past() for _ in model.layers]

    @property
    def length(self) -> int:
        """Tokens read so far."""
        key = self.layers[0].key
        return 0 if key is None else key.shape[2]


def norm(x: Tensor) -> Tensor:
    """Scale the last dimension to a root mean square of 1 (RMSNorm without weights)."""
    return F.rms_norm(x, x.shape[-1:])


def rotations(length: int, size: int) -> Tensor:
    """Cosines and sines of rotary positions, (2, length, 1, size // 2).

    Pair i of a head turns by `10000 ** (-2 i / size)` radians a position.
    Source: Su et al., "RoFormer", 2021.
    """
    pairs = size // 2
    speeds = 10000.0 ** (-torch.arange(pairs) / max(pairs, 1))
    angles = torch.outer(torch.arange(length), speeds)[:, None]
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs of each head, (B, T, H, D), by its token's position; an odd last stays."""
    cos, sin = rotation
    pairs = cos.shape[-1]
    a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
    turned = torch.cat((a * cos - b * sin, a * sin + b * cos, x[..., 2 * pairs :]), -1)
    return turned.to(x.dtype)  # the angles are float32 also in mixed precision
