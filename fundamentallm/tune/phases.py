"""Plans of the phases: how many runs of which length each has, for its share of the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from typing import Any

from fundamentallm.scaling.law import Law
from fundamentallm.training.lr_schedules import decay_start
from fundamentallm.training.lr_transfer import scaled_learning_rate
from fundamentallm.tune.budget import Speed
from fundamentallm.tune.plan import (
    DECAY_FRACTION,
    Candidate,
    Recipe,
    TextFacts,
    bounded_rate,
    candidates,
    for_length,
    neighbors,
    parameters_of,
    steps_worth,
)

SHAPES_SHARE = 0.1
SEARCH_SHARE = 0.25
"""Shares of the budget for the phases before the last."""
SIZE_RATIO = 1.7
"""Least ratio of the parameters of two shapes that are compared."""
SHORT_RUN_STEPS = 100
"""Steps from which a short run says anything about a longer one."""
CONFIGURATIONS: Mapping[int, int] = {16: 500, 12: 350, 8: 200, 4: SHORT_RUN_STEPS}
"""Numbers of configurations to search, and the steps of the shortest runs that each asks for."""
FACTOR = 4
"""Successive halving: one of so many runs is trained so many times longer."""
SEEDS_COST = 0.012
"""Nats that a second seed may cost by taking time: the noise between seeds."""
MOST_SEEDS = 3
EVALUATIONS = 20
"""Most evaluations of a run of the last phase."""
SCORING_SHARE = 0.1
"""Most share of its time that they take, but for one."""
DEFAULT_EPOCHS = 20


@dataclass(frozen=True)
class PlannedRun:
    """A run of the comparison of shapes."""

    recipe: Recipe
    steps: int


@dataclass(frozen=True)
class ShapesPlan:
    """Comparison of shapes; without runs, it is left out."""

    runs: tuple[PlannedRun, ...]
    workers: int
    seconds: float
    """Time to expect; for a budget of runs, that of the nominal machine."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ShapesPlan:
        """Read what `asdict` returned."""
        runs = (PlannedRun(Recipe(**run["recipe"]), run["steps"]) for run in stored["runs"])
        return cls(**{**stored, "runs": tuple(runs)})


@dataclass(frozen=True)
class SearchPlan:
    """Search by successive halving; without lengths, it is left out."""

    center: Recipe
    configurations: int
    lengths: tuple[int, ...]
    """Steps of the runs, rising."""
    workers: int
    seconds: float

    @property
    def runs(self) -> int:
        """Return the number of runs of all lengths."""
        return self.configurations + self.configurations // FACTOR

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> SearchPlan:
        """Read what `asdict` returned."""
        center, lengths = Recipe(**stored["center"]), tuple(stored["lengths"])
        return cls(**{**stored, "center": center, "lengths": lengths})


@dataclass(frozen=True)
class TrainPlan:
    """Training of the best configuration, for `steps` and `minutes`, whichever end first."""

    recipe: Recipe
    steps: int
    """0 for all that the time allows."""
    minutes: float
    """0 for a budget of runs."""
    expected_steps: int
    eval_every: int
    seeds: tuple[int, ...]
    workers: int
    seconds: float
    budget: str
    """Budget that it spends; a larger one is another round of training."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> TrainPlan:
        """Read what `asdict` returned."""
        recipe, seeds = Recipe(**stored["recipe"]), tuple(stored["seeds"])
        return cls(**{**stored, "recipe": recipe, "seeds": seeds})

    @property
    def expected_tokens(self) -> int:
        """Return the tokens that each run should see."""
        return self.expected_steps * self.recipe.tokens_per_step


@dataclass(frozen=True)
class Found:
    """A configuration, and the length, in tokens, at which it is best; 0 if it was not searched."""

    recipe: Recipe
    tokens: int

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Found:
        """Read what `asdict` returned."""
        return cls(Recipe(**stored["recipe"]), stored["tokens"])


@dataclass(frozen=True)
class Planner:
    """Plans the phases for a text and a machine."""

    facts: TextFacts
    speed: Speed
    max_parameters: int | None = None

    def candidates(self, law: Law, seconds: float) -> list[Candidate]:
        """Return shapes with the loss to expect after `seconds`, the best first."""
        return candidates(self.facts, law, self.speed, seconds, max_parameters=self.max_parameters)

    def shapes(self, found: Sequence[Candidate], total: float) -> ShapesPlan:
        """Plan to compare the best candidate with a smaller and a larger one, for equal times."""
        tried = [each.recipe for each in neighbors(found, self.facts, SIZE_RATIO)]
        while len(tried) > 1:
            workers = min(self.speed.best_workers(tried[0].config), len(tried))
            each = SHAPES_SHARE * total / math.ceil(len(tried) / workers)
            runs = [self._short_run(recipe, each, workers) for recipe in tried]
            enough = [run.steps >= SHORT_RUN_STEPS for run in runs]
            if all(enough):
                return ShapesPlan(tuple(runs), workers, SHAPES_SHARE * total)
            tried = list(compress(tried, enough)) if enough[0] else []
        return ShapesPlan((), 1, 0.0)

    def _short_run(self, recipe: Recipe, seconds: float, workers: int) -> PlannedRun:
        step = self.speed.step_seconds(recipe.config, workers)
        steps = max(1, int((seconds - self._overhead(recipe, workers)) / step))
        return PlannedRun(for_length(recipe, self.facts, steps * recipe.tokens_per_step), steps)

    def search(self, recipe: Recipe, total: float) -> SearchPlan:
        """Plan to search around `recipe`, with as many configurations as can be trained enough."""
        workers = self.speed.best_workers(recipe.config)
        step = self.speed.step_seconds(recipe.config, workers)
        scoring = self.speed.scoring_seconds(recipe.config, workers)
        for count, least in CONFIGURATIONS.items():
            short, long = math.ceil(count / workers), math.ceil(count / FACTOR / workers)
            # A promoted run reuses the constant part of the shorter one.
            rounds = short + long * (FACTOR - (1 - DECAY_FRACTION))
            overhead = (short + long) * self.speed.setup_seconds + (short + long * FACTOR) * scoring
            steps = int((SEARCH_SHARE * total - overhead) / step / rounds)
            if steps >= least:
                lengths = (steps, FACTOR * steps)
                between = math.sqrt(lengths[0] * lengths[-1])
                center = for_length(recipe, self.facts, between * recipe.tokens_per_step)
                center = replace(center, warmup_steps=min(center.warmup_steps, steps // 10))
                return SearchPlan(center, count, lengths, workers, rounds * steps * step)
        return SearchPlan(recipe, 0, (), 1, 0.0)

    def training(
        self,
        found: Found,
        law: Law,
        seconds: float,
        *,
        is_time: bool,
        budget: str,
        first_seed: int,
        before: TrainPlan | None = None,
    ) -> TrainPlan:
        """Plan the last phase.

        Args:
            found: The configuration.
            law: Loss to expect, which says how much more seeds would cost.
            seconds: Time that is left.
            is_time: Whether the budget is a time.
            budget: The budget in words.
            first_seed: Seed of the first run.
            before: Earlier round, whose runs are continued.
        """
        recipe = found.recipe if before is None else before.recipe
        reused = 0 if before is None else decay_start(recipe.config, before.expected_steps)
        options = [
            self._steps(recipe, seconds, seeds, is_time=is_time)
            for seeds in range(1, MOST_SEEDS + 1)
        ]
        parameters = parameters_of(recipe, self.facts)
        losses = [
            law.loss(parameters, steps * recipe.tokens_per_step, self.facts.characters)
            for steps, _ in options
        ]
        seeds = max(
            n
            for n, (loss, (steps, _)) in enumerate(zip(losses, options, strict=True), 1)
            if n == 1 or (loss <= losses[0] + SEEDS_COST and steps >= SHORT_RUN_STEPS)
        )
        affordable, each = options[seeds - 1]
        steps = steps_worth(recipe, self.facts, law, reused + affordable)
        is_limited = steps < reused + affordable
        if before is None:
            recipe = self._for_training(found, steps * recipe.tokens_per_step)
        workers = min(seeds, self.speed.best_workers(recipe.config))
        earlier = 0.0 if before is None else before.minutes  # a continued run counts them too
        evaluations = self._evaluations(recipe, workers, each)
        return TrainPlan(
            recipe=recipe,
            steps=steps if is_limited or not is_time else 0,
            minutes=round(each / 60 + earlier, 3) if is_time else 0.0,
            expected_steps=steps,
            eval_every=before.eval_every if before else max(1, math.ceil(steps / evaluations)),
            seeds=tuple(range(first_seed, first_seed + seeds)),
            workers=workers,
            seconds=seconds,
            budget=budget,
        )

    def _for_training(self, found: Found, tokens: int) -> Recipe:
        """Return the configuration for a run of `tokens`: with its rate, and its dropout."""
        suited = for_length(found.recipe, self.facts, tokens)
        if not found.tokens:
            return suited
        step_tokens = found.recipe.tokens_per_step
        rate = scaled_learning_rate(
            found.recipe.learning_rate,
            batch_from=step_tokens,
            batch_to=step_tokens,
            tokens_from=found.tokens,
            tokens_to=tokens,
        )
        # A short run wants less dropout, since it repeats the text less: keep the difference.
        planned = for_length(found.recipe, self.facts, found.tokens)
        dropout = found.recipe.dropout + suited.dropout - planned.dropout
        return replace(
            found.recipe,
            learning_rate=bounded_rate(rate),
            dropout=round(min(max(dropout, 0.0), 0.5), 3),
            warmup_steps=suited.warmup_steps,
        )

    def _steps(
        self, recipe: Recipe, seconds: float, seeds: int, *, is_time: bool
    ) -> tuple[int, float]:
        """Return the steps of each run if so many seeds share the time, and the time of each."""
        workers = min(seeds, self.speed.best_workers(recipe.config))
        step = self.speed.step_seconds(recipe.config, workers)
        share = seconds / (math.ceil(seeds / workers) if is_time else seeds / workers)
        each = max(share - self._overhead(recipe, workers), share / 4)
        scoring = self.speed.scoring_seconds(recipe.config, workers)
        scoring *= self._evaluations(recipe, workers, each)
        return max(1, int((each - scoring) / step)), each

    def _evaluations(self, recipe: Recipe, workers: int, seconds: float) -> int:
        """Return the number of evaluations of a run, which take a small share of its time."""
        scoring = self.speed.scoring_seconds(recipe.config, workers)
        most = SCORING_SHARE * seconds / scoring if scoring else EVALUATIONS
        return max(1, min(EVALUATIONS, int(most)))

    def _overhead(self, recipe: Recipe, workers: int) -> float:
        """Return the seconds of a run beside its steps and its early evaluations."""
        return self.speed.setup_seconds + self.speed.scoring_seconds(recipe.config, workers)

    def epochs(self, tokens: float) -> int:
        """Return a number of epochs that is not reached before `tokens`."""
        return max(DEFAULT_EPOCHS, math.ceil(2 * tokens / self.facts.characters))


def stored(plan: ShapesPlan | SearchPlan | TrainPlan | Found) -> dict[str, Any]:
    """Return a plan as JSON."""
    return asdict(plan)
