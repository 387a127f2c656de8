"""Effects of settings on the loss: their size and certainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.regression import (
    MIN_FREEDOM,
    Array,
    ForwardSelection,
    Term,
    deviation,
    dummies,
    legendre,
)
from fundamentallm.report.results import Results, RunResult

MAX_P = 0.05
"""Largest p of an effect; runs may have been reweighted since it was accepted."""
MIN_RUNS_TO_FIT = MIN_FREEDOM + 2  # runs: a mean and one coefficient


NEAR_SHARE = 0.05
"""Share of an effect's size; a run worse by less, or by twice the noise, is near the best."""
MIN_DISTINCT = 3
"""Distinct values a curve needs to be told from others."""


@dataclass(frozen=True)
class Effect:
    """Effect of one setting, the others held as they were."""

    factor: Factor
    p: float
    """Chance of such a fit if it had no effect, times the number of settings."""
    size: float
    """Loss at its worst minus loss at its best, over the values tried; nats."""
    error: float
    """Half of the 95% interval of `size`. It ignores that the fit was chosen, so `size`
    tends to be overstated."""
    share: float
    """Share of the variance of the loss over the runs; a term of two is split."""
    curve: tuple[tuple[float, float], ...]
    """Fitted loss along it, the others averaged: positions or indices of levels, and nats."""
    optimum: Any
    """Value at which the fitted loss is lowest, the others averaged; of a choice, its winner."""
    winner: Any
    """Value of the best run, adjusted for the others; of a list, the one whose runs are best."""
    near_values: tuple[Any, Any]
    """Smallest and largest value of the runs within `margin` of it."""
    near: int
    """Number of these runs."""
    margin: float
    """Distance from the best run that counts as nearly as good; nats."""
    low_edge_t: float
    high_edge_t: float
    """Certainty that the loss still falls towards the smallest and the largest value: a t
    value, positive if it falls."""

    @property
    def is_supported(self) -> bool:
        """Return whether runs on both sides of the fitted optimum are nearly as good as the best.

        A polynomial has no corner: where the loss rises suddenly its least may lie far off.
        """
        low, high = self.near_values
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
    """Effects of the settings that matter, the largest share first."""
    together: Sequence[tuple[Effect, Sequence[Factor]]]
    """Effects that may be those of other settings, which changed along with it."""
    undecided: Sequence[Factor]
    """Settings without a certain effect."""
    residual: float
    """Standard deviation of the residual near the best; nats."""
    fitted: Array
    """Fitted loss of each run; nats."""


def fit_surface(results: Results) -> Surface | None:
    """Fit the ranked runs; None if nothing was varied or there are too few runs."""
    factors, runs = find_factors(results, list(reversed(results.comparable)))
    if len(runs) < MIN_RUNS_TO_FIT or not factors:
        return None
    losses = np.array([results.loss(run) for run in runs])
    if float(np.ptp(losses)) == 0:
        return None
    positions = [factor.positions(runs) for factor in factors]
    fit = ForwardSelection(factors, positions, losses, results.noise, _repeats(results, runs))
    fit.select()
    found = {i: _effect(fit, i) for i in range(len(factors)) if fit.degrees[i]}
    found = {i: effect for i, effect in found.items() if effect.p < MAX_P}
    others = {i: fit.confounded_with(i) for i in found}
    together = [(found[i], [factors[j] for j in those]) for i, those in others.items() if those]
    effects = [effect for i, effect in found.items() if not others[i]]
    effects.sort(key=lambda effect: -effect.share)
    fitted, residual_squares, freedom = fit.fit(fit.terms)
    named = set(found) | {j for those in others.values() for j in those}
    undecided = [factor for i, factor in enumerate(factors) if i not in named]
    return Surface(runs, effects, together, undecided, deviation(residual_squares, freedom), fitted)


def _repeats(results: Results, runs: Sequence[RunResult]) -> int:
    """Count runs with the same curve as another: their differing settings had no effect.

    Shorter curves may agree by chance and are left out.
    """
    curves = [run.curve(results.metric.name).values for run in runs]
    long_enough = [values for values in curves if len(set(values)) >= MIN_DISTINCT]
    return len(long_enough) - len(set(long_enough))


def _effect(fit: ForwardSelection, i: int) -> Effect:
    factor = fit.factors[i]
    with_it = [term for term in fit.terms if i in term.factors]
    without = [term for term in fit.terms if i not in term.factors]
    p = fit.test(without, Term((i,), np.hstack([term.columns for term in with_it])))
    design, root = fit.design(fit.terms), np.sqrt(fit.weights)
    weighted = design * root[:, None]
    solved = np.linalg.lstsq(weighted, fit.losses * root, rcond=1e-9)[0]
    fitted, residual_squares, freedom = fit.fit(fit.terms)
    inverse, scores = np.linalg.pinv(weighted.T @ weighted), design * fit.weights[:, None]
    covariance = inverse @ scores.T @ scores @ inverse * deviation(residual_squares, freedom) ** 2
    grid, curves = _curves(fit, i, design)
    curve = curves @ solved
    low, high = int(curve.argmin()), int(curve.argmax())
    t = float(stdtrit(max(freedom, 1), 0.975))

    def error(first: int, second: int) -> float:
        difference = curves[first] - curves[second]
        return float(np.sqrt(max(difference @ covariance @ difference, 0)))

    def falls(end: int, inner: int) -> float:
        if not factor.is_numeric:
            return 0.0
        return float((curve[inner] - curve[end]) / max(error(end, inner), 1e-12))

    step = 1 if factor.is_listed else max(1, len(grid) // 5)
    own = np.interp(fit.positions[i], grid, curve)
    total = float(np.var(fitted)) + float(np.var(fit.losses - fitted))
    size, is_range = float(curve[high] - curve[low]), factor.is_numeric and not factor.is_listed
    margin = max(NEAR_SHARE * size, 2 * fit.noise.sigma if fit.noise is not None else 0.0)
    winner, near_values, near = _where_best(fit, i, own + fit.losses - fitted, margin)
    return Effect(
        factor,
        min(1.0, p * len(fit.factors)),
        size,
        t * error(low, high),
        float(np.var(own)) / total,
        tuple(zip(grid.tolist(), curve.tolist(), strict=True)),
        factor.value(grid[low]) if is_range else factor.levels[low],
        winner,
        near_values,
        near,
        margin,
        falls(0, step),
        falls(-1, -1 - step),
    )


def _where_best(
    fit: ForwardSelection, i: int, losses: Array, margin: float
) -> tuple[Any, tuple[Any, Any], int]:
    """`Effect.winner`, `near_values` and `near`, from each run's adjusted loss."""
    factor, positions = fit.factors[i], fit.positions[i]
    at = [factor.position(v) if factor.is_numeric else n for n, v in enumerate(factor.levels)]
    if factor.is_listed or not factor.is_numeric:
        means = [float(losses[np.isclose(positions, position)].mean()) for position in at]
        best = factor.levels[int(np.argmin(means))]
        return best, (best, best), int(np.isclose(positions, at[int(np.argmin(means))]).sum())
    near = [factor.levels[int(np.abs(np.array(at) - position).argmin())]
            for position in positions[losses <= losses.min() + margin]]  # fmt: skip
    best = factor.levels[int(np.abs(np.array(at) - positions[losses.argmin()]).argmin())]
    return best, (min(near), max(near)), len(near)


def _curves(fit: ForwardSelection, i: int, design: Array) -> tuple[Array, Array]:
    """Return positions of factor `i` and the mean design row at each, other factors averaged."""
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


def _rebuilt(fit: ForwardSelection, i: int, design: Array) -> Array:
    """Return the design with the columns of factor `i` rebuilt from its positions."""
    columns, at = design.copy(), 1
    for term in fit.terms:
        width = term.columns.shape[1]
        if term.factors == (i,):
            columns[:, at : at + width] = _single_columns(fit, i, term, width)
        elif i in term.factors:
            columns[:, at : at + width] = fit.product(*term.factors)
        at += width
    return columns


def _single_columns(fit: ForwardSelection, i: int, term: Term, width: int) -> Array:
    if not fit.factors[i].is_numeric:
        return dummies(fit.positions[i], len(fit.factors[i].levels))
    first = 1
    for other in fit.terms:
        if other is term:
            break
        first += other.columns.shape[1] if other.factors == (i,) else 0
    return np.stack([legendre(fit.positions[i], first + k) for k in range(width)], 1)
