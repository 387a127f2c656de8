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
    fitted,
    for_time,
    neighbors,
    parameters_of,
    same_batch,
    steps_worth,
    worth,
)

SHAPES_SHARE = 0.08
SEARCH_SHARE = 0.15
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
WEIGHT_DECAYS = (0.03, 1.0)
DROPOUTS = (0.0, 0.3)
"""Ranges of the search; a long run may get more dropout than the search tries."""
EVALUATIONS = 12
"""Most evaluations of a run of the last phase."""
SCORING_SHARE = 0.05
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
class TrainOption:
    """Run of the last phase that a number of seeds allows each."""

    recipe: Recipe
    steps: int
    seconds: float

    @property
    def tokens(self) -> int:
        """Return the tokens that each run would see."""
        return self.steps * self.recipe.tokens_per_step


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
        left = max(seconds - self._overhead(recipe, workers), 0.0)
        return PlannedRun(*for_time(recipe, self.facts, self.speed, left, workers=workers))

    def search(self, recipe: Recipe, total: float) -> SearchPlan:
        """Plan to search around `recipe`, with as many configurations as can be trained enough."""
        for count, least in CONFIGURATIONS.items():
            plan = self._search_of(count, recipe, total)
            if plan.lengths[0] >= least:
                return plan
        return SearchPlan(recipe, 0, (), 1, 0.0)

    def _search_of(self, count: int, recipe: Recipe, total: float) -> SearchPlan:
        workers = self.speed.best_workers(recipe.config)
        short, long = math.ceil(count / workers), math.ceil(count / FACTOR / workers)
        # A promoted run reuses the constant part of the shorter one.
        rounds = short + long * (FACTOR - (1 - DECAY_FRACTION))

        def affordable(recipe: Recipe) -> int:
            scoring = self.speed.scoring_seconds(recipe.config, workers)
            overhead = (short + long) * self.speed.setup_seconds + (short + long * FACTOR) * scoring
            step = self.speed.step_seconds(recipe.config, workers)
            return int((SEARCH_SHARE * total - overhead) / step / rounds)

        # The best rate is to suit both lengths.
        center, steps = fitted(recipe, self.facts, affordable, suited=math.sqrt(FACTOR))
        center = replace(center, warmup_steps=max(1, min(center.warmup_steps, steps // 10)))
        seconds = rounds * steps * self.speed.step_seconds(center.config, workers)
        return SearchPlan(center, count, (steps, FACTOR * steps), workers, seconds)

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
        shape = found.recipe if before is None else before.recipe
        options = [
            self._option(shape, self._share(shape, seconds, n, is_time=is_time), n, before)
            for n in range(1, MOST_SEEDS + 1)
        ]
        parameters = parameters_of(shape, self.facts)
        losses = [law.loss(parameters, each.tokens, self.facts.characters) for each in options]
        # A round is not shorter than the one before: seeds that cannot be as long are not added.
        least = SHORT_RUN_STEPS if before is None else before.expected_steps
        seeds = max(
            n
            for n, (loss, option) in enumerate(zip(losses, options, strict=True), 1)
            if n == 1 or (loss <= losses[0] + SEEDS_COST and option.steps >= least)
        )
        option = options[seeds - 1]
        if before is None:
            recipe, steps = worth(option.recipe, self.facts, law, option.steps)
            recipe = self._for_training(found, recipe, steps * recipe.tokens_per_step)
        else:
            recipe = option.recipe
            steps = max(least, steps_worth(recipe, self.facts, law, option.steps))
        is_limited = steps * recipe.tokens_per_step < option.tokens
        earlier = 0.0 if before is None else before.minutes  # a continued run counts them too
        workers = min(seeds, self.speed.best_workers(recipe.config))
        evaluations = self._evaluations(recipe, workers, option.seconds)
        return TrainPlan(
            recipe=recipe,
            steps=steps if is_limited or not is_time else 0,
            minutes=round(option.seconds / 60 + earlier, 3) if is_time else 0.0,
            expected_steps=steps,
            eval_every=before.eval_every if before else max(1, math.ceil(steps / evaluations)),
            seeds=tuple(range(first_seed, first_seed + seeds)),
            workers=workers,
            seconds=seconds,
            budget=budget,
        )

    def _for_training(self, found: Found, suited: Recipe, tokens: int) -> Recipe:
        """Return `suited` for a run of `tokens` with what was found about rate and dropout."""
        if not found.tokens:
            return suited
        rate = scaled_learning_rate(
            found.recipe.learning_rate,
            batch_from=found.recipe.tokens_per_step,
            batch_to=suited.tokens_per_step,
            tokens_from=found.tokens,
            tokens_to=tokens,
        )
        # A short run wants less of both, since it repeats the text less: keep the differences.
        planned = same_batch(found.recipe, self.facts, found.tokens)
        dropout = found.recipe.dropout + suited.dropout - planned.dropout
        weight_decay = found.recipe.weight_decay * suited.weight_decay / planned.weight_decay
        return replace(
            suited,
            learning_rate=bounded_rate(rate),
            dropout=round(min(max(dropout, 0.0), 0.5), 3),
            weight_decay=float(f"{min(weight_decay, WEIGHT_DECAYS[1]):.2g}"),
        )

    def _option(
        self, shape: Recipe, seconds: float, seeds: int, before: TrainPlan | None
    ) -> TrainOption:
        """Return what each of so many seeds can be trained in `seconds`."""
        workers = min(seeds, self.speed.best_workers(shape.config))
        left = max(seconds - self._overhead(shape, workers), seconds / 4)

        def steps(recipe: Recipe) -> int:
            scoring = self.speed.scoring_seconds(recipe.config, workers)
            scoring *= self._evaluations(recipe, workers, left)
            return int((left - scoring) / self.speed.step_seconds(recipe.config, workers))

        if before is None:
            return TrainOption(*fitted(shape, self.facts, steps), left)
        reused = decay_start(shape.config, before.expected_steps)
        if seeds > len(before.seeds):  # another seed has nothing to continue
            reused = 0
        return TrainOption(shape, reused + max(1, steps(shape)), left)

    def _share(self, shape: Recipe, seconds: float, seeds: int, *, is_time: bool) -> float:
        """Return the time of each run if so many seeds share `seconds`."""
        workers = min(seeds, self.speed.best_workers(shape.config))
        return seconds / (math.ceil(seeds / workers) if is_time else seeds / workers)

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
