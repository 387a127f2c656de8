"""Which settings moved the loss, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.regression import (
    LEAST_FREEDOM,
    Array,
    Fitting,
    Term,
    deviation,
    dummies,
    legendre,
)
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.significance import measure_noise

CERTAIN = 0.05
"""The chance of an effect by accident, at most; weights that came after it may have raised it."""
FEWEST_TO_FIT = LEAST_FREEDOM + 2  # runs: a mean and one coefficient


NEARLY = 0.05
"""Of an effect's size: a run that is worse by less, or by two noises, is nearly as good."""
FEWEST_VALUES = 3
"""Different ones of a curve, by which it is told from others."""


@dataclass(frozen=True)
class Effect:
    """What one setting does, the others as they were."""

    factor: Factor
    p: float
    """The chance of such a fit if it did nothing, times the number of settings."""
    size: float
    """Loss at its worst less loss at its best, over what was tried; nats."""
    error: float
    """Half of the 95% interval of `size`, as of a fit that had not been chosen: what was chosen
    because it stood out is rather too large than too small."""
    share: float
    """Of the variance of the loss over the runs; a term of two is shared out."""
    line: tuple[tuple[float, float], ...]
    """The fitted loss along it, the others averaged: positions, or indices of levels, and nats."""
    optimum: Any
    """The value at which the fitted loss is least, the others averaged; of a choice, its winner."""
    winner: Any
    """The value of the best run, the others allowed for; of a list, the one whose runs are best."""
    among: tuple[Any, Any]
    """The least and the largest value of the runs within `margin` of it."""
    near: int
    """How many runs that are."""
    margin: float
    """How much worse than the best run counts as nearly as good; nats."""
    low_side: float
    high_side: float
    """How certain it is that the loss still falls towards the least and the largest value: a t
    value, positive if it falls."""

    @property
    def is_supported(self) -> bool:
        """Whether runs on both sides of the fitted optimum are nearly as good as the best.

        A polynomial has no corner: where the loss rises suddenly its least may lie far off.
        """
        low, high = self.among
        return low != high and low <= self.optimum <= high

    @property
    def best(self) -> Any:
        """The fitted optimum where runs support it, else the value of the best run."""
        return self.optimum if self.is_supported else self.winner


@dataclass(frozen=True)
class Surface:
    """The fitted loss."""

    runs: Sequence[RunResult]
    effects: Sequence[Effect]
    """Of the settings that matter for certain, the largest share first."""
    together: Sequence[tuple[Effect, Sequence[Factor]]]
    """Effects that may as well be those of other settings, which changed along with it."""
    undecided: Sequence[Factor]
    """Those of which that cannot be said."""
    residual: float
    """Standard deviation of what the fit leaves over near the best; nats."""
    fitted: Array
    """Of each run."""


def fit_surface(results: Results) -> Surface | None:
    """Fit the ranked runs; None if nothing was varied or there are too few runs."""
    factors, runs = find_factors(results, list(reversed(results.comparable)))
    if len(runs) < FEWEST_TO_FIT or not factors:
        return None
    losses = np.array([results.loss(run) for run in runs])
    if float(np.ptp(losses)) == 0:
        return None
    positions = [factor.positions(runs) for factor in factors]
    fit = Fitting(factors, positions, losses, measure_noise(results), _repeats(results, runs))
    fit.select()
    found = {i: _effect(fit, i) for i in range(len(factors)) if fit.degrees[i]}
    found = {i: effect for i, effect in found.items() if effect.p < CERTAIN}
    others = {i: fit.along_with(i) for i in found}
    together = [(found[i], [factors[j] for j in those]) for i, those in others.items() if those]
    effects = [effect for i, effect in found.items() if not others[i]]
    effects.sort(key=lambda effect: -effect.share)
    fitted, left, freedom = fit.fit(fit.terms)
    named = set(found) | {j for those in others.values() for j in those}
    undecided = [factor for i, factor in enumerate(factors) if i not in named]
    return Surface(runs, effects, together, undecided, deviation(left, freedom), fitted)


def _repeats(results: Results, runs: Sequence[RunResult]) -> int:
    """How many runs went as another did at every step: what they differ in was of no account.

    Told by curves of a few values at least, in which two that are not the same would differ.
    """
    curves = [run.curve(results.metric.name).values for run in runs]
    told = [values for values in curves if len(set(values)) >= FEWEST_VALUES]
    return len(told) - len(set(told))


def _effect(fit: Fitting, i: int) -> Effect:
    factor = fit.factors[i]
    with_it = [term for term in fit.terms if i in term.factors]
    without = [term for term in fit.terms if i not in term.factors]
    p = fit.test(without, Term((i,), np.hstack([term.columns for term in with_it])))
    design, root = fit.design(fit.terms), np.sqrt(fit.weights)
    weighted = design * root[:, None]
    solved = np.linalg.lstsq(weighted, fit.losses * root, rcond=1e-9)[0]
    fitted, left, freedom = fit.fit(fit.terms)
    inverse, again = np.linalg.pinv(weighted.T @ weighted), design * fit.weights[:, None]
    covariance = inverse @ again.T @ again @ inverse * deviation(left, freedom) ** 2
    grid, curves = _curves(fit, i, design)
    line = curves @ solved
    low, high = int(line.argmin()), int(line.argmax())
    t = float(stdtrit(max(freedom, 1), 0.975))

    def error(first: int, second: int) -> float:
        difference = curves[first] - curves[second]
        return float(np.sqrt(max(difference @ covariance @ difference, 0)))

    def falls(end: int, inner: int) -> float:
        if not factor.is_numeric:
            return 0.0
        return float((line[inner] - line[end]) / max(error(end, inner), 1e-12))

    step = 1 if factor.is_listed else max(1, len(grid) // 5)
    own = np.interp(fit.positions[i], grid, line)
    total = float(np.var(fitted)) + float(np.var(fit.losses - fitted))
    size, is_range = float(line[high] - line[low]), factor.is_numeric and not factor.is_listed
    margin = max(NEARLY * size, 2 * fit.noise.sigma if fit.noise is not None else 0.0)
    winner, among, near = _where_best(fit, i, own + fit.losses - fitted, margin)
    return Effect(
        factor,
        min(1.0, p * len(fit.factors)),
        size,
        t * error(low, high),
        float(np.var(own)) / total,
        tuple(zip(grid.tolist(), line.tolist(), strict=True)),
        factor.value(grid[low]) if is_range else factor.levels[low],
        winner,
        among,
        near,
        margin,
        falls(0, step),
        falls(-1, -1 - step),
    )


def _where_best(
    fit: Fitting, i: int, losses: Array, margin: float
) -> tuple[Any, tuple[Any, Any], int]:
    """`Effect.winner`, `among` and `near`, from the loss of each run, the others allowed for."""
    factor, places = fit.factors[i], fit.positions[i]
    at = [factor.position(v) if factor.is_numeric else n for n, v in enumerate(factor.levels)]
    if factor.is_listed or not factor.is_numeric:
        means = [float(losses[np.isclose(places, place)].mean()) for place in at]
        best = factor.levels[int(np.argmin(means))]
        return best, (best, best), int(np.isclose(places, at[int(np.argmin(means))]).sum())
    near = [factor.levels[int(np.abs(np.array(at) - place).argmin())]
            for place in places[losses <= losses.min() + margin]]  # fmt: skip
    best = factor.levels[int(np.abs(np.array(at) - places[losses.argmin()]).argmin())]
    return best, (min(near), max(near)), len(near)


def _curves(fit: Fitting, i: int, design: Array) -> tuple[Array, Array]:
    """Positions of factor `i`, and the mean design row at each, the other factors averaged."""
    factor = fit.factors[i]
    if factor.is_numeric and not factor.is_listed:
        grid = np.linspace(0, 1, 51)
    elif factor.is_numeric:
        grid = np.array([factor.position(level) for level in factor.levels])
    else:
        grid = np.arange(len(factor.levels), dtype=float)
    rows: list[Array] = []
    kept = fit.positions[i]
    for position in grid:
        fit.positions[i] = np.full(len(fit.losses), position)
        rows.append(_rebuilt(fit, i, design).mean(0))
    fit.positions[i] = kept
    return grid, np.stack(rows)


def _rebuilt(fit: Fitting, i: int, design: Array) -> Array:
    """The design with the columns of factor `i` made anew from its positions."""
    columns, at = design.copy(), 1
    for term in fit.terms:
        width = term.columns.shape[1]
        if term.factors == (i,):
            columns[:, at : at + width] = _own_columns(fit, i, term, width)
        elif i in term.factors:
            columns[:, at : at + width] = fit.product(*term.factors)
        at += width
    return columns


def _own_columns(fit: Fitting, i: int, term: Term, width: int) -> Array:
    if not fit.factors[i].is_numeric:
        return dummies(fit.positions[i], len(fit.factors[i].levels))
    first = 1
    for other in fit.terms:
        if other is term:
            break
        first += other.columns.shape[1] if other.factors == (i,) else 0
    return np.stack([legendre(fit.positions[i], first + k) for k in range(width)], 1)
