"""Prediction of a longer or wider run of a sweep's best configuration.

Losses are used only if they are fair among themselves: with a rate that decays to the end of a
run, the ends of runs of several lengths; at a constant rate, the points of a curve.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NoReturn

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.errors import FundamentallmError
from fundamentallm.metrics import runs_text, score_text
from fundamentallm.model.size import parameter_count
from fundamentallm.report.results import Results, RunResult, setting_key
from fundamentallm.scaling.fit import NOISE, PRIOR, Forecast, forecast
from fundamentallm.scaling.law import Law, Observation
from fundamentallm.significance import pooled_noise
from fundamentallm.status import RunStatus
from fundamentallm.sweep.store.records import why_unranked

LOSS = "val_loss"
DECAYING = ("linear", "cosine", "wsd")
"""Schedules that decay to the end of a run, whatever its length."""
LENGTH = ("epochs", "max_steps", "max_minutes", "warmup_steps")
SIZE = ("model_dim", "num_layers", "num_heads")
SAME_LOSS = ("seed", "eval_every", "early_stopping", "patience", "compile")
"""Settings that do not change what loss is to be expected."""
MIN_LENGTHS = 3
MIN_POINTS = 4
"""Points that a curve at a constant rate needs."""
LONGEST_SPAN = 4
"""Part of a curve that is used, as the ratio of its lengths: its beginning follows no law."""
APART = 1.2
"""Ratio from which two lengths count as different."""
MAX_BEYOND = 1.5
"""Largest factor beyond the runs, in units of the factor that they span."""
MAX_WIDTH = 0.25
"""Width in nats from which an interval says nothing."""
MAX_STRAIN = 4.0
"""Mean square of the deviations from the law, in variances, from which it does not hold."""
SURE = 2.0
"""Rise of a loss that counts as one, in standard deviations between seeds."""
USUAL_FREEDOM = 4
"""Degrees of freedom that the usual noise between seeds has beside the sweep's own."""
UNKNOWN_VOCABULARY = 100
UNKNOWN_CHARACTERS = 1e15


class UnpredictableError(FundamentallmError):
    """The runs do not tell; the message says why, and which runs would."""


@dataclass(frozen=True)
class Prediction:
    """Loss to expect of one run, and the runs that it comes from."""

    expected: Forecast
    best: str
    """Name of the run whose configuration it is about."""
    now: float
    """Its val_loss at its end."""
    config: Config
    """Configuration of the run to expect; its length is `tokens`."""
    parameters: int
    tokens: float
    basis: str
    """Runs that it comes from, in words."""

    @property
    def says(self) -> str:
        """The prediction in words."""
        low, high = score_text(self.expected.low), score_text(self.expected.high)
        return (
            f"{LOSS} {score_text(self.expected.loss)}, with 90% between {low} and {high}, for the "
            f"configuration of {self.best} (now {score_text(self.now)}) at model_dim "
            f"{self.config.model_dim} ({self.parameters:,} parameters) after "
            f"{self.tokens / 1e6:.3g} million tokens; from {self.basis}"
        )


def predict(
    results: Results, *, longer: float = 1.0, wider: float = 1.0, prior: Law = PRIOR
) -> Prediction:
    """Return the loss to expect of the best configuration, trained longer or made wider.

    Args:
        results: Runs of our trainer.
        longer: Factor of the best run's tokens, 1 or more.
        wider: Factor of its `model_dim`, 1 or more.
        prior: Law to start from; its coefficients move as far as the runs ask.

    Raises:
        UnpredictableError: The runs do not tell.
    """
    if results.is_foreign:
        raise UnpredictableError(
            f"{results.title}: runs of another program; only those of our trainer can be predicted"
        )
    if results.best is None:
        why = why_unranked(Counter(run.status for run in results.observations))
        why = why or f"no run has logged {results.metric.name}"
        raise UnpredictableError(f"{results.title}: {why}")
    family = _Family(results)
    if longer > 1:
        family.check_lengths(longer)
    if wider > 1:
        family.check_sizes(wider)
    best, config = family.best, _wider(family.best.config, wider)
    parameters, tokens = best.weights(config), longer * best.tokens
    expected = forecast(
        prior, family.observations, parameters, tokens, best.characters, noise=family.noise
    )
    if expected.strain > MAX_STRAIN:
        raise UnpredictableError(
            f"{results.title}: its losses follow no power law of length and size; short runs often "
            "do not, so train longer ones"
        )
    if expected.width > MAX_WIDTH:
        between = f"{score_text(expected.low)} and {score_text(expected.high)}"
        family.refuse(f"{LOSS} may be anything between {between}", longer, wider)
    return Prediction(
        expected, best.name, best.losses[-1], config, parameters, tokens, family.basis
    )


def _wider(config: Config, factor: float) -> Config:
    """Return the configuration with the nearest width that its heads divide."""
    heads = config.num_heads
    width = heads * max(1, round(factor * config.model_dim / heads))
    return replace(config, model_dim=width)


@dataclass(frozen=True)
class _FairRun:
    """A run with the losses that can be compared with those of other lengths."""

    name: str
    config: Config
    vocabulary: int
    characters: float
    """Characters of the training text, in tokens."""
    text: str
    steps: tuple[int, ...]
    losses: tuple[float, ...]

    @property
    def is_constant(self) -> bool:
        return self.config.lr_schedule == "constant"

    @property
    def tokens(self) -> float:
        return self.steps[-1] * self.config.tokens_per_step

    @property
    def parameters(self) -> int:
        return self.weights(self.config)

    def weights(self, config: Config) -> int:
        """Return the parameters of another shape on the same text."""
        return parameter_count(config, self.vocabulary)

    @property
    def observations(self) -> list[Observation]:
        per_step, run = self.config.tokens_per_step, self.name if self.is_constant else ""
        return [
            Observation(self.parameters, step * per_step, self.characters, loss, run)
            for step, loss in zip(self.steps, self.losses, strict=True)
        ]

    @property
    def configuration(self) -> str:
        """Text that is equal for runs that differ in length, size and seed alone."""
        left_out = {*LENGTH, *SIZE, *SAME_LOSS}
        settings = {n: getattr(self.config, n) for n in HYPERPARAMETERS if n not in left_out}
        return setting_key({**settings, "text": self.text})


def _fair_run(run: RunResult) -> _FairRun | None:
    """Return a run with its fair losses; None if it has none."""
    curve, known = run.curve(LOSS), HYPERPARAMETERS.keys() & run.settings.keys()
    if run.is_range_test or run.status == RunStatus.DIVERGED or not len(curve):
        return None
    try:
        config = Config(**{name: run.settings[name] for name in known})
    except ConfigError:
        return None
    points = list(zip(curve.steps, curve.values, strict=True))
    last = points[-1][0]
    if config.lr_schedule == "constant":
        first = max(2 * config.warmup_steps, last // LONGEST_SPAN)
        points = [point for point in points if point[0] >= first]
    elif config.lr_schedule in DECAYING and last == run.summary.get("total_steps"):
        points = points[-1:]
    else:
        return None
    epochs, characters = run.curve("epoch"), UNKNOWN_CHARACTERS
    if len(epochs) and epochs.values[-1] > 0:
        characters = epochs.steps[-1] * config.tokens_per_step / epochs.values[-1]
    vocabulary = int(run.summary.get("vocabulary_size", UNKNOWN_VOCABULARY))
    text = str(run.settings.get("data_sha256", run.settings.get("data")))
    steps, losses = zip(*points, strict=True)
    return _FairRun(run.name, config, vocabulary, characters, text, steps, losses)


class _Family:
    """Runs of the best configuration, at all lengths and sizes."""

    def __init__(self, results: Results) -> None:
        """Find them.

        Raises:
            UnpredictableError: The best has no fair losses.
        """
        self.title = results.title
        winners = [fair for run in results.contenders[0] if (fair := _fair_run(run)) is not None]
        if not winners:
            self._refuse_best(results.contenders[0][0])
        self.best = max(winners, key=lambda run: run.tokens)
        fair = (_fair_run(run) for run in results.observations)
        same = self.best.configuration
        self.runs = [run for run in fair if run is not None and run.configuration == same]

    def _refuse_best(self, best: RunResult) -> NoReturn:
        schedule = best.settings.get("lr_schedule", "constant")
        if schedule in DECAYING:
            why = "it ended before its rate had decayed; resume it to its end"
        else:
            why = f"lr_schedule {schedule} is not fair among lengths; train with linear or constant"
        raise UnpredictableError(f"{self.title}: {best.name} is the best, but {why}")

    @property
    def basis(self) -> str:
        """The runs in words."""
        lengths = f"{len(self.lengths)} {'points' if self.best.is_constant else 'lengths'}"
        sizes = f"{len(self.sizes)} sizes" if len(self.sizes) > 1 else "1 size"
        return f"{runs_text(len(self.runs))}: {lengths}, {sizes}"

    @cached_property
    def observations(self) -> list[Observation]:
        return [each for run in self.runs for each in run.observations]

    @cached_property
    def _ends(self) -> dict[tuple[int, float], list[float]]:
        """Losses at the ends of runs, by parameters and tokens."""
        ends: dict[tuple[int, float], list[float]] = defaultdict(list)
        for run in self.runs:
            ends[run.parameters, run.tokens].append(run.losses[-1])
        return ends

    @cached_property
    def lengths(self) -> dict[float, float]:
        """Mean loss of the best's size by tokens, rising; lengths that are nearly equal once."""
        losses: dict[float, list[float]] = defaultdict(list)
        for each in self.observations:
            if each.parameters == self.best.parameters:
                losses[each.tokens].append(each.loss)
        last, kept = 0.0, {}
        for tokens in sorted(losses):
            if self.best.is_constant or tokens >= APART * last:
                last = tokens
                kept[tokens] = statistics.fmean(losses[tokens])
        return kept

    @cached_property
    def sizes(self) -> list[int]:
        """Parameters of the models, rising."""
        return sorted({run.parameters for run in self.runs})

    @cached_property
    def noise(self) -> float:
        """Standard deviation between seeds: the family's own, beside the usual."""
        own = pooled_noise(sorted(self._ends.values(), key=statistics.fmean))
        if own is None:
            return NOISE
        squares = USUAL_FREEDOM * NOISE**2 + own.freedom * own.sigma**2
        return math.sqrt(squares / (USUAL_FREEDOM + own.freedom))

    def check_lengths(self, longer: float) -> None:
        """Check that the runs say how the loss falls with length.

        Raises:
            UnpredictableError: They do not.
        """
        tokens, losses = list(self.lengths), list(self.lengths.values())
        name, is_constant = self.best.name, self.best.is_constant
        if losses[-1] > min(losses) + SURE * self.noise:
            which = f"the val_loss of {name} rose" if is_constant else "longer runs did worse"
            raise UnpredictableError(
                f"{self.title}: {which}, from {score_text(min(losses))} to "
                f"{score_text(losses[-1])}; more text, more dropout or a smaller model would gain"
            )
        if len(losses) < (MIN_POINTS if is_constant else MIN_LENGTHS):
            count = f"{len(losses)} evaluation" if is_constant else f"{len(losses)} length"
            plural = "" if len(losses) == 1 else "s"
            self.refuse(f"{name}'s configuration has {count}{plural}", longer, 1)
        span, beyond = tokens[-1] / tokens[0], longer * self.best.tokens / tokens[-1]
        if beyond > MAX_BEYOND * span:
            what = f"its lengths span a factor of {span:.3g}, too little for {beyond:.3g} more"
            self.refuse(what, longer, 1)

    def check_sizes(self, wider: float) -> None:
        """Check that the runs say how the loss falls with size.

        Raises:
            UnpredictableError: They do not.
        """
        sizes, best = self.sizes, self.best
        if len(sizes) < 2:
            self.refuse(f"{best.name}'s configuration has 1 size", 1, wider)
        by_length: dict[float, dict[int, float]] = defaultdict(dict)
        for (size, tokens), losses in sorted(self._ends.items()):
            by_length[tokens][size] = statistics.fmean(losses)
        for losses in by_length.values():
            for (_, smaller), (size, larger) in pairwise(losses.items()):
                if larger > smaller + SURE * self.noise:
                    raise UnpredictableError(
                        f"{self.title}: {size:,} parameters did worse than fewer, "
                        f"{score_text(larger)} after {score_text(smaller)}; longer runs, more "
                        "dropout or another learning rate may change that"
                    )
        span, beyond = sizes[-1] / sizes[0], best.weights(_wider(best.config, wider)) / sizes[-1]
        if beyond > MAX_BEYOND * span:
            what = f"its sizes span a factor of {span:.3g}, too little for {beyond:.3g} more"
            self.refuse(what, 1, wider)

    def refuse(self, why: str, longer: float, wider: float) -> NoReturn:
        """Raise UnpredictableError with the runs that would tell."""
        steps, config, wanted = self.best.steps[-1], self.best.config, []
        if longer > 1 and self.best.is_constant:
            wanted.append("evaluate more often (eval_every), or train longer")
        elif longer > 1:
            lengths = {max(1, round(steps / factor)) for factor in (max(longer, 4), 2, 1)}
            wanted.append(f"train it with max_steps {', '.join(map(str, sorted(lengths)))}")
        if wider > 1:
            widths = {_wider(config, factor).model_dim for factor in (1 / wider, 1)}
            wanted.append(f"train it with model_dim {', '.join(map(str, sorted(widths)))}")
        raise UnpredictableError(f"{self.title}: {why}; {' and '.join(wanted)}")
