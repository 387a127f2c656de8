"""Plan of a tuning: the shape to train for a budget, and how to divide the budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import parameter_count
from fundamentallm.scaling.law import Law
from fundamentallm.training.lr_transfer import scaled_learning_rate
from fundamentallm.tune.budget import Speed

WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)
LAYERS = (2, 3, 4, 6, 8, 12, 16)
SMALL_WIDTHS, SMALL_LAYERS = (16, 32, 48), (1, 2)
"""Shapes below the documented ranges, for a limit that allows no other."""
WIDTH_PER_LAYER = (16, 128)
"""Least and most width per layer of the shapes to consider."""
HEAD_SIZE = 32
SEQUENCES = (8, 16, 32, 64, 128, 256)
BATCHES = (8, 16, 32, 64, 128)
LEAST_WINDOWS = 8
"""Windows that the training text has to fill."""
LONG_SEQUENCE_TOKENS = 16_000_000
"""Tokens of training from which the context is 256: a guess, not measured."""
STEP_TOKENS = 1024
"""Tokens of a step in a run of `STEP_TOKENS_AT` tokens, and more in longer runs: a guess."""
STEP_TOKENS_AT = 16_000_000
LEARNING_RATE, RATE_TOKENS, RATE_WIDTH = 1.1e-3, 307_200, 64
"""Best rate of 300 steps of `STEP_TOKENS` in a model that wide (docs/dev/experiments.md)."""
RATES = (3e-4, 4e-3)
"""Least and greatest rate: the rule for the length was not measured beyond."""
MOST_DROPOUT = 0.3
FREE_EPOCHS = 8
"""Passes over the text that need no dropout: 16 of a model with 0.4 weights a character did not
overfit without it (tinyshakespeare, 2 layers of width 128)."""
WARMUP = 0.05
"""Share of a short run that warms up."""
MOST_WARMUP = 60
DECAY_FRACTION = 0.2
OVERFITTING = 0.02
"""Nats by which a long run may be expected worse than a shorter one: its best model is kept."""
LEAST_STEPS = 500
"""Steps that a run should have: a larger model that gets fewer has hardly begun to learn."""
ENOUGH_STEPS = 5_000
"""Steps that the shapes to choose from have, if one has twice as many. In 8 minutes of two cores
16,000 steps of 2 layers of width 128 reached 1.45 on tinyshakespeare, 3,000 of 3 layers of width
192 only 1.52."""


@dataclass(frozen=True)
class TextFacts:
    """Size of the text, as far as a plan depends on it."""

    characters: int
    """Characters of the training part."""
    vocabulary: int


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a run without its length."""

    model_dim: int
    num_layers: int
    num_heads: int
    max_seq_len: int
    batch_size: int
    learning_rate: float
    dropout: float
    weight_decay: float
    warmup_steps: int

    @property
    def settings(self) -> dict[str, Any]:
        """Return the hyperparameters that differ between recipes."""
        return asdict(self)

    @property
    def config(self) -> Config:
        """Return the configuration, with the schedule of all runs of a tuning."""
        return Config(**self.settings, **SCHEDULE)

    @property
    def tokens_per_step(self) -> int:
        """Return the tokens of an optimizer step."""
        return self.max_seq_len * self.batch_size

    @property
    def name(self) -> str:
        """Return the shape in words."""
        return shape_text(self.config)


SCHEDULE: Mapping[str, Any] = {
    "lr_schedule": "wsd",
    "decay_fraction": DECAY_FRACTION,
    "min_lr_ratio": 0.0,
}
"""A constant rate with a decay at the end: a longer run can reuse the constant part."""


@dataclass(frozen=True)
class Candidate:
    """A recipe, with the loss to expect from training it for a time."""

    recipe: Recipe
    steps: int
    loss: float


def shape_text(config: Config) -> str:
    """Return the shape of a model in words."""
    layers = f"{config.num_layers} layer{'s' if config.num_layers > 1 else ''}"
    return f"{layers} of width {config.model_dim}"


def parameters_of(recipe: Recipe, text: TextFacts) -> int:
    """Return the number of weights."""
    return parameter_count(recipe.config, text.vocabulary)


def candidates(
    text: TextFacts,
    law: Law,
    speed: Speed,
    seconds: float,
    *,
    max_parameters: int | None = None,
) -> list[Candidate]:
    """Return recipes with the loss that `law` expects after `seconds`, the best first.

    Each is trained with the length, batch and dropout that suit its own number of tokens.
    """
    found: list[Candidate] = []
    for widths, layers in ((WIDTHS, LAYERS), (SMALL_WIDTHS, SMALL_LAYERS)):
        shapes = _shapes(text, widths, layers)
        if found := _trained(shapes, text, law, speed, seconds, max_parameters):
            break
    most = max((each.steps for each in found), default=0)
    least = max(LEAST_STEPS, min(most / 2, ENOUGH_STEPS))
    enough = [each for each in found if each.steps >= least]
    if not enough and found:
        enough = [min(found, key=lambda each: speed.step_seconds(each.recipe.config, 1))]
    return sorted(enough, key=lambda each: each.loss)


def _trained(
    shapes: Iterable[Recipe],
    text: TextFacts,
    law: Law,
    speed: Speed,
    seconds: float,
    max_parameters: int | None,
) -> list[Candidate]:
    """Return those that the limits allow, with the loss to expect."""
    found: list[Candidate] = []
    for recipe in shapes:
        parameters = parameters_of(recipe, text)
        if max_parameters is not None and parameters > max_parameters:
            continue
        fitted = _fitted(recipe, text, law, speed, seconds)
        if not speed.fits(fitted.config):
            continue
        steps = _steps(fitted, text, law, speed, seconds)
        loss = law.loss(parameters, steps * fitted.tokens_per_step, text.characters)
        found.append(Candidate(fitted, steps, loss))
    return found


def _shapes(text: TextFacts, widths: Sequence[int], depths: Sequence[int]) -> Iterator[Recipe]:
    longest = max(1, (text.characters - 1) // LEAST_WINDOWS)
    sequence = max((each for each in SEQUENCES[:-1] if each <= longest), default=max(2, longest))
    for width in widths:
        for layers in depths:
            if WIDTH_PER_LAYER[0] <= width / layers <= WIDTH_PER_LAYER[1]:
                yield Recipe(
                    model_dim=width,
                    num_layers=layers,
                    num_heads=max(1, width // HEAD_SIZE),
                    max_seq_len=sequence,
                    batch_size=1,
                    learning_rate=LEARNING_RATE,
                    dropout=0.0,
                    weight_decay=0.1,
                    warmup_steps=MOST_WARMUP,
                )


def _fitted(recipe: Recipe, text: TextFacts, law: Law, speed: Speed, seconds: float) -> Recipe:
    """Return the recipe with the batch, context, dropout and rate for its number of tokens."""
    tokens = 1
    for _ in range(4):  # the tokens depend on the batch, a little
        tokens = _steps(recipe, text, law, speed, seconds) * recipe.tokens_per_step
        sequence = recipe.max_seq_len
        if tokens >= LONG_SEQUENCE_TOKENS and text.characters > LEAST_WINDOWS * SEQUENCES[-1]:
            sequence = SEQUENCES[-1]
        wanted = STEP_TOKENS * math.sqrt(tokens / STEP_TOKENS_AT)
        wanted = min(wanted, text.characters / 4)
        batch = min(BATCHES, key=lambda size: abs(math.log(size * sequence / wanted)))
        recipe = replace(recipe, max_seq_len=sequence, batch_size=batch)
    return for_length(recipe, text, tokens)


def for_length(recipe: Recipe, text: TextFacts, tokens: float) -> Recipe:
    """Return the recipe with the dropout and the learning rate for a run of `tokens`."""
    rate = scaled_learning_rate(
        LEARNING_RATE,
        batch_from=STEP_TOKENS,
        batch_to=recipe.tokens_per_step,
        tokens_from=RATE_TOKENS,
        tokens_to=tokens,
        width_from=RATE_WIDTH,
        width_to=recipe.model_dim,
    )
    return replace(
        recipe,
        dropout=dropout_for(
            tokens / text.characters, parameters_of(recipe, text) / text.characters
        ),
        learning_rate=bounded_rate(rate),
        warmup_steps=min(MOST_WARMUP, max(1, round(WARMUP * tokens / recipe.tokens_per_step))),
    )


def bounded_rate(rate: float) -> float:
    """Return a learning rate within `RATES`, rounded."""
    return float(f"{min(max(rate, RATES[0]), RATES[1]):.3g}")


def dropout_for(epochs: float, size: float) -> float:
    """Return the dropout to start from: more for a text that repeats, and a model that is large.

    Args:
        epochs: Passes over the training text.
        size: Weights of the model for each character of the text.
    """
    repeats = math.log2(max(epochs / FREE_EPOCHS, 1.0))
    return round(min(0.05 * repeats * min(size, 1.0), MOST_DROPOUT), 2)


def _steps(recipe: Recipe, text: TextFacts, law: Law, speed: Speed, seconds: float) -> int:
    """Return the steps that suit the recipe, and fit into the time."""
    affordable = max(1, int(seconds / speed.step_seconds(recipe.config, 1)))
    return steps_worth(recipe, text, law, affordable)


def steps_worth(recipe: Recipe, text: TextFacts, law: Law, affordable: int) -> int:
    """Return the affordable steps, or fewer if more would only memorize the text."""
    parameters = parameters_of(recipe, text)
    lengths = [affordable]
    while lengths[-1] >= 2 * LEAST_STEPS:
        lengths.append(lengths[-1] // 2)
    tokens = [steps * recipe.tokens_per_step for steps in lengths]
    losses = [law.loss(parameters, each, text.characters) for each in tokens]
    return next(
        steps
        for steps, loss in zip(lengths, losses, strict=True)
        if loss <= min(losses) + OVERFITTING
    )


def neighbors(found: Sequence[Candidate], text: TextFacts, factor: float) -> list[Candidate]:
    """Return the best candidate, and the best of those `factor` times smaller and larger."""
    best = found[0]
    size = parameters_of(best.recipe, text)
    chosen = [best]
    for low, high in ((0, size / factor), (size * factor, math.inf)):
        inside = (c for c in found if low <= parameters_of(c.recipe, text) <= high)
        chosen += [each for each in [next(inside, None)] if each is not None]
    return chosen
