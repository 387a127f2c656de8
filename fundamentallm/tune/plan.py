"""Plan of a tuning: the shape to train for a budget, and how to divide the budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from fundamentallm.config.hyperparameters import Config
from fundamentallm.model.size import parameter_count
from fundamentallm.scaling.fit import PRIOR
from fundamentallm.scaling.law import Law
from fundamentallm.training.lr_transfer import scaled_learning_rate
from fundamentallm.tune.budget import Speed

EXPECTED = replace(PRIOR, memorization=PRIOR.memorization / 5)
"""Law that a tuning starts from. A run that reads its text often has more weight decay than those
behind `PRIOR`, and memorizes a fifth as much (docs/dev/experiments.md)."""
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
LONG_SEQUENCE_TOKENS = 3_000_000
"""Tokens of a run that learns from a context of 256 rather than 128: at 4 million, 0.02 nats."""
STEP_TOKENS, STEP_TOKENS_AT = 2048, 4_000_000
"""Tokens of a step in a run of so many tokens. Steps grow as the square root of the tokens, and so
do the tokens of a step."""
LEARNING_RATE = 6.9e-4
RATE_TOKENS, RATE_STEP_TOKENS, RATE_WIDTH = 2_457_600, 1024, 64
"""Best rate of so many tokens and tokens a step in a model that wide (docs/dev/experiments.md)."""
RATES = (2e-4, 4e-3)
"""Least and greatest rate: the rule for the length was not measured beyond."""
MOST_DROPOUT = 0.3
FREE_EXPOSURE = 30.0
"""Epochs times weights a character that need no dropout beside weight decay. At 5 (12 epochs) a
tenth loses 0.013 nats; at 26 (16 epochs) it gains 0.15, but as much weight decay gains alone."""
LEAST_WEIGHT_DECAY, MOST_WEIGHT_DECAY = 0.1, 0.5
WEIGHT_DECAY_BY_EPOCHS = 0.04
"""Weight decay within these limits, for each epoch: after 12 epochs 0.5 gains 0.013 nats, after 4
it loses 0.03 (docs/dev/experiments.md)."""
WARMUP = 0.05
"""Share of a short run that warms up."""
MOST_WARMUP = 60
DECAY_FRACTION = 0.5
"""Loses nothing against a decay over the whole run, and 0.02 nats less than a fifth does; half of
the run can be continued."""
OVERFITTING = 0.02
"""Nats by which a long run may be expected worse than a shorter one: its best model is kept."""
LEAST_STEPS = 500
"""Steps that a run should have: a larger model that gets fewer has hardly begun to learn."""


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
        shapes = _shapes(widths, layers)
        if found := _trained(shapes, text, law, speed, seconds, max_parameters):
            break
    enough = [each for each in found if each.steps >= LEAST_STEPS]
    if not enough and found:
        enough = [max(found, key=lambda each: each.steps * each.recipe.tokens_per_step)]
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
        suited, affordable = for_time(recipe, text, speed, seconds)
        if not speed.fits(suited.config):
            continue
        suited, steps = worth(suited, text, law, affordable)
        loss = law.loss(parameters, steps * suited.tokens_per_step, text.characters)
        found.append(Candidate(suited, steps, loss))
    return found


def _shapes(widths: Sequence[int], depths: Sequence[int]) -> Iterator[Recipe]:
    """Yield recipes that `for_length` completes."""
    for width in widths:
        for layers in depths:
            if WIDTH_PER_LAYER[0] <= width / layers <= WIDTH_PER_LAYER[1]:
                yield Recipe(
                    model_dim=width,
                    num_layers=layers,
                    num_heads=max(1, width // HEAD_SIZE),
                    max_seq_len=2,
                    batch_size=1,
                    learning_rate=LEARNING_RATE,
                    dropout=0.0,
                    weight_decay=LEAST_WEIGHT_DECAY,
                    warmup_steps=MOST_WARMUP,
                )


def for_time(
    recipe: Recipe, text: TextFacts, speed: Speed, seconds: float, *, workers: int = 1
) -> tuple[Recipe, int]:
    """Return the recipe for a run of `seconds` beside others, and its steps."""
    return fitted(
        recipe, text, lambda each: int(seconds / speed.step_seconds(each.config, workers))
    )


def fitted(
    recipe: Recipe, text: TextFacts, steps: Callable[[Recipe], int], *, suited: float = 1.0
) -> tuple[Recipe, int]:
    """Return the recipe for the steps that it can take, and these steps, at least one.

    Args:
        recipe: Its shape.
        text: Training text.
        steps: Returns the steps that can be taken with a recipe: they depend on its batch, which
            depends on the number of tokens.
        suited: The length that the recipe is to suit, as a factor of these steps.
    """
    for _ in range(4):
        tokens = max(1, steps(recipe)) * recipe.tokens_per_step
        recipe = for_length(recipe, text, suited * tokens)
    return recipe, max(1, steps(recipe))


def for_length(recipe: Recipe, text: TextFacts, tokens: float) -> Recipe:
    """Return the recipe with all but its shape suited to a run of `tokens`."""
    longest = max(2, (text.characters - 1) // LEAST_WINDOWS)
    if tokens < LONG_SEQUENCE_TOKENS:
        longest = min(longest, SEQUENCES[-2])
    sequence = max((each for each in SEQUENCES if each <= longest), default=longest)
    wanted = STEP_TOKENS * math.sqrt(tokens / STEP_TOKENS_AT)
    wanted = min(wanted, text.characters / 4) / sequence
    batch = min(BATCHES, key=lambda size: abs(math.log(size / wanted)))
    return same_batch(replace(recipe, max_seq_len=sequence, batch_size=batch), text, tokens)


def same_batch(recipe: Recipe, text: TextFacts, tokens: float) -> Recipe:
    """Return the recipe with dropout, weight decay, learning rate and warm-up for `tokens`."""
    rate = scaled_learning_rate(
        LEARNING_RATE,
        batch_from=RATE_STEP_TOKENS,
        batch_to=recipe.tokens_per_step,
        tokens_from=RATE_TOKENS,
        tokens_to=tokens,
        width_from=RATE_WIDTH,
        width_to=recipe.model_dim,
    )
    epochs = tokens / text.characters
    return replace(
        recipe,
        dropout=dropout_for(epochs * parameters_of(recipe, text) / text.characters),
        weight_decay=weight_decay_for(epochs),
        learning_rate=bounded_rate(rate),
        warmup_steps=min(MOST_WARMUP, max(1, round(WARMUP * tokens / recipe.tokens_per_step))),
    )


def bounded_rate(rate: float) -> float:
    """Return a learning rate within `RATES`, rounded."""
    return float(f"{min(max(rate, RATES[0]), RATES[1]):.3g}")


def dropout_for(exposure: float) -> float:
    """Return the dropout to start from.

    Args:
        exposure: Passes over the training text, times the model's weights for each character of it:
            a text that is repeated often, or to a large model, is memorized.
    """
    doublings = math.log2(max(exposure / FREE_EXPOSURE, 1.0))
    return min(round(doublings) * 0.05, MOST_DROPOUT)


def weight_decay_for(epochs: float) -> float:
    """Return the weight decay to start from, by the passes over the training text."""
    decay = WEIGHT_DECAY_BY_EPOCHS * epochs
    return round(min(max(decay, LEAST_WEIGHT_DECAY), MOST_WEIGHT_DECAY), 2)


def worth(recipe: Recipe, text: TextFacts, law: Law, affordable: int) -> tuple[Recipe, int]:
    """Return the recipe and the affordable steps, or those of a shorter run that loses nothing."""
    steps = steps_worth(recipe, text, law, affordable)
    if steps == affordable:
        return recipe, steps
    tokens = steps * recipe.tokens_per_step
    recipe = for_length(recipe, text, tokens)
    return recipe, math.ceil(tokens / recipe.tokens_per_step)


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
