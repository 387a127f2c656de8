"""A law of the loss, by parameters, tokens seen and characters of text."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

MILLION = 1e6


@dataclass(frozen=True)
class Observation:
    """The annealed end of a run; or a point of a curve at a constant rate, with others of one."""

    parameters: int
    """Weights of the model."""
    tokens: float
    """Tokens seen in training."""
    characters: float
    """Characters (tokens) of the training text: after so many tokens it repeats."""
    loss: float
    """`val_loss`, in nats a token."""
    run: str = ""
    """Name of the run if other observations are of it too: they share its noise."""


@dataclass(frozen=True)
class Law:
    """Loss as a sum of powers.

    loss = offset + size_scale * (N / 1e6)^-size_exponent + token_scale * (D' / 1e6)^-token_exponent
    + memorization * (N / U)^overcapacity * R^repetition

    N is the number of parameters, U the number of characters and R = D / U - 1 how often the text
    is repeated. D' are effective tokens: a repetition is worth less than new text, and the more so
    the more came before (Muennighoff et al., "Scaling Data-Constrained Language Models", arXiv
    2305.16264). Their law never rises; the last term is ours: small texts are soon memorized.

    All fields are above 0. A loss may exceed that of a uniform prediction: the law does not know
    the vocabulary.
    """

    offset: float
    """Loss that no size and no length removes, in nats a token."""
    size_scale: float
    """Nats that a model of a million parameters loses by its size."""
    size_exponent: float
    token_scale: float
    """Nats that a run of a million tokens, all new, loses by its length."""
    token_exponent: float
    repeats: float
    """Repetitions after which another one is worth 1/e of new text."""
    memorization: float
    """Nats lost by one repetition in a model of as many parameters as the text has characters."""
    overcapacity: float
    repetition: float

    def loss(self, parameters: float, tokens: float, characters: float) -> float:
        """Return the loss to expect, in nats a token."""
        point = np.array([[parameters, tokens, characters]], dtype=float)
        return float(losses(self.logs, point)[0])

    @property
    def logs(self) -> np.ndarray:
        """Logarithms of the fields, in their order."""
        return np.log([getattr(self, field.name) for field in fields(self)])

    @classmethod
    def of_logs(cls, logs: np.ndarray) -> Law:
        """Return the law of `logs`."""
        return cls(*map(float, np.exp(logs)))


def losses(logs: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the losses (..., n) of laws (..., 9) at points (n, 3).

    A point is parameters, tokens and characters; a law is given by the logarithms of its fields.
    """
    size, tokens, characters = points.T
    offset, a_scale, a, b_scale, b, repeats, kept, over, often = np.moveaxis(
        np.exp(logs)[..., None], -2, 0
    )
    repeated = np.maximum(tokens / characters - 1, 0)
    fresh = np.minimum(tokens, characters)
    effective = fresh + characters * repeats * -np.expm1(-repeated / repeats)
    return (
        offset
        + a_scale * (size / MILLION) ** -a
        + b_scale * (effective / MILLION) ** -b
        + kept * (size / characters) ** over * repeated**often
    )
