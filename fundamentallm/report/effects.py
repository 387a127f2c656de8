"""Which settings moved the loss, by how much, and how sure that is.

A polynomial of up to the third degree in each number's position, a constant for each choice, and
products of two: terms enter one at a time, the most certain first, as long as the chance of
seeing such a fit by accident stays below `ALPHA` when every term that was looked at is
counted (F tests with Bonferroni's correction; Draper and Smith, Applied Regression Analysis).
Runs far above the best count less, because there the polynomial is only a caricature: the weight
is 1 / (1 + (TRUST * excess / residual)^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import fdtrc, stdtrit

from fundamentallm.report.factors import Factor, find_factors
from fundamentallm.report.results import Results, RunResult

ALPHA = 0.01
TRUST = 0.1
HIGHEST_DEGREE = 3
LEAST_FREEDOM = 3  # runs beyond the number of coefficients
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Noise:
    """How much runs of one configuration differ between seeds."""

    sigma: float
    freedom: int
    """Degrees of freedom that sigma stands on."""
    repeated: int
    """Configurations that were run more than once."""


@dataclass(frozen=True)
class Effect:
    """What one setting does, the others as they were."""

    factor: Factor
    p: float
    """The chance of such a fit if it did nothing, corrected for all that was looked at."""
    size: float
    """Loss at its worst less loss at its best, over what was tried; nats."""
    error: float
    """Half of the 95% interval of `size`."""
    share: float
    """Of the variance of the loss over the runs; a term of two is shared out."""
    best: Any
    """The value at which the fitted loss is least, the others averaged."""
    low_side: float
    high_side: float
    """How certain it is that the loss still falls towards the least and the largest value: a t
    value, positive if it falls."""


@dataclass(frozen=True)
class Surface:
    """The fitted loss."""

    runs: Sequence[RunResult]
    effects: Sequence[Effect]
    """Of the settings that matter for certain, the largest share first."""
    undecided: Sequence[Factor]
    """Those of which that cannot be said."""
    residual: float
    """Standard deviation of what the fit leaves over near the best; nats."""
    freedom: int
    fitted: Array
    """Of each run."""


def measure_noise(results: Results) -> Noise | None:
    """The spread between seeds, pooled over configurations; None if none was repeated."""
    squares, freedom, repeated = 0.0, 0, 0
    for runs in results.configurations:
        losses = np.array([results.loss(run) for run in runs])
        if len(losses) > 1:
            squares += float(((losses - losses.mean()) ** 2).sum())
            freedom += len(losses) - 1
            repeated += 1
    return Noise(float(np.sqrt(squares / freedom)), freedom, repeated) if freedom else None


@dataclass(frozen=True)
class _Term:
    """Columns of the design that enter together."""

    factors: tuple[int, ...]
    columns: Array


def fit_surface(results: Results) -> Surface | None:
    """Fit the ranked runs; None if nothing was varied or there are fewer than 5 runs."""
    runs = list(reversed(results.ranked))
    factors = find_factors(results, runs)
    if len(runs) < LEAST_FREEDOM + 2 or not factors:
        return None
    losses = np.array([results.loss(run) for run in runs])
    if float(np.ptp(losses)) == 0:
        return None
    return _Fitting(factors, runs, losses, measure_noise(results)).surface()


class _Fitting:
    """Forward selection over one set of runs."""

    def __init__(
        self, factors: list[Factor], runs: list[RunResult], losses: Array, noise: Noise | None
    ) -> None:
        self.factors, self.runs, self.losses, self.noise = factors, runs, losses, noise
        self.positions = [factor.positions(runs) for factor in factors]
        self.terms: list[_Term] = []
        self.degrees = [0] * len(factors)
        self.weights = np.ones(len(runs))

    def surface(self) -> Surface:
        """Add terms as long as they are certain."""
        while self._add_best() or self._add_in_company():
            for _ in range(3):
                self._reweigh()
        effects = [self._effect(i) for i in range(len(self.factors)) if self.degrees[i]]
        effects.sort(key=lambda effect: -effect.share)
        fitted, _, freedom = self._fit(self.terms)
        return Surface(
            self.runs,
            effects,
            [factor for i, factor in enumerate(self.factors) if not self.degrees[i]],
            self._residual(fitted, freedom),
            freedom,
            fitted,
        )

    # --- Terms ---

    def _candidates(self) -> list[tuple[_Term, tuple[int, int] | None]]:
        """Terms that could enter, with the factor and the degree that each brings."""
        found: list[tuple[_Term, tuple[int, int] | None]] = []
        for i, factor in enumerate(self.factors):
            have = self.degrees[i]
            if not factor.is_numeric:
                if not have:
                    columns = _dummies(self.positions[i], len(factor.levels))
                    found.append((_Term((i,), columns), (i, 1)))
                continue
            highest = min(HIGHEST_DEGREE, len(factor.levels) - 1)
            for degree in range(have + 1, highest + 1):
                powers = range(have + 1, degree + 1)
                columns = np.stack([_legendre(self.positions[i], k) for k in powers], 1)
                found.append((_Term((i,), columns), (i, degree)))
        inside = [i for i in range(len(self.factors)) if self.degrees[i]]
        there = {term.factors for term in self.terms}
        for a in inside:
            for b in inside:
                if a < b and (a, b) not in there:
                    found.append((_Term((a, b), self._product(a, b)), None))
        return found

    def _product(self, a: int, b: int) -> Array:
        first, second = (
            _legendre(self.positions[i], 1)[:, None]
            if self.factors[i].is_numeric
            else _dummies(self.positions[i], len(self.factors[i].levels))
            for i in (a, b)
        )
        return (first[:, :, None] * second[:, None, :]).reshape(len(self.runs), -1)

    def _add_best(self) -> bool:
        """Let the most certain term in; whether there was one."""
        candidates = self._candidates()
        if not candidates:
            return False
        tests = [self._test(self.terms, term) for term, _ in candidates]
        best = int(np.argmin(tests))
        if tests[best] * len(candidates) >= ALPHA:
            return False
        self._add(*candidates[best])
        return True

    def _add(self, term: _Term, raises: tuple[int, int] | None) -> None:
        self.terms.append(term)
        if raises is not None:
            self.degrees[raises[0]] = raises[1]

    def _add_in_company(self) -> bool:
        """Let a factor in that stands out only once all the others are allowed for."""
        simple = [
            (term, raises)
            for term, raises in self._candidates()
            if raises is not None and not self.degrees[raises[0]] and term.columns.shape[1] <= 3
        ]
        widest = {raises[0]: (term, raises) for term, raises in simple if raises and raises[1] <= 2}
        tests = {}
        for i, (term, _) in widest.items():
            others = [other for j, (other, _) in widest.items() if j != i]
            if others:
                tests[i] = self._test([*self.terms, *others], term)
        best = min(tests, key=lambda i: tests[i], default=None)
        if best is None or tests[best] * len(tests) >= ALPHA:
            return False
        self._add(*widest[best])
        return True

    def _test(self, terms: list[_Term], term: _Term) -> float:
        """The chance of such a gain from `term` if it did nothing."""
        _, before, free_before = self._fit(terms)
        _, after, free_after = self._fit([*terms, term])
        gained = free_before - free_after
        chances: list[float] = []
        if gained < 1:
            return 1.0
        if free_after >= LEAST_FREEDOM:
            if after <= 1e-12 * before:
                return 0.0
            chances.append(
                float(fdtrc(gained, free_after, (before - after) / gained / (after / free_after)))
            )
        noise = self.noise
        if noise is not None and noise.freedom >= LEAST_FREEDOM and noise.sigma > 0:
            ratio = (before - after) / gained / noise.sigma**2
            chances.append(float(fdtrc(gained, noise.freedom, ratio)))
        return min(1.0, min(chances, default=1.0) * len(chances))

    # --- Least squares ---

    def _design(self, terms: Sequence[_Term]) -> Array:
        return np.hstack([np.ones((len(self.runs), 1)), *(term.columns for term in terms)])

    def _fit(self, terms: Sequence[_Term]) -> tuple[Array, float, int]:
        """Fitted losses, the weighted sum of squares left over, and its degrees of freedom."""
        design, root = self._design(terms), np.sqrt(self.weights)
        solved, _, rank, _ = np.linalg.lstsq(design * root[:, None], self.losses * root, rcond=1e-9)
        fitted = design @ solved
        left = float((self.weights * (self.losses - fitted) ** 2).sum())
        return fitted, left, len(self.runs) - int(rank)

    def _residual(self, fitted: Array, freedom: int) -> float:
        squares = self.weights * (self.losses - fitted) ** 2
        return float(np.sqrt(squares.sum() / max(freedom, 1)))

    def _reweigh(self) -> None:
        fitted, _, freedom = self._fit(self.terms)
        residual = self._residual(fitted, freedom)
        if residual > 0:
            excess = np.maximum(fitted - fitted.min(), 0)
            self.weights = 1 / (1 + (TRUST * excess / residual) ** 2)

    # --- What a factor does ---

    def _effect(self, i: int) -> Effect:
        factor = self.factors[i]
        with_it = [term for term in self.terms if i in term.factors]
        without = [term for term in self.terms if i not in term.factors]
        p = self._test(without, _Term((i,), np.hstack([term.columns for term in with_it])))
        design, root = self._design(self.terms), np.sqrt(self.weights)
        weighted = design * root[:, None]
        solved = np.linalg.lstsq(weighted, self.losses * root, rcond=1e-9)[0]
        fitted, left, freedom = self._fit(self.terms)
        covariance = np.linalg.pinv(weighted.T @ weighted) * left / max(freedom, 1)
        grid, curves = self._curves(i, design)
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
        own = line[np.abs(grid[None, :] - self.positions[i][:, None]).argmin(1)]
        total = float(np.var(fitted)) + float(np.var(self.losses - fitted))
        best = factor.value(grid[low]) if factor.is_numeric else factor.levels[low]
        if factor.is_numeric and factor.is_listed:
            best = factor.levels[low]
        return Effect(
            factor,
            min(1.0, p * len(self.factors)),
            float(line[high] - line[low]),
            t * error(low, high),
            float(np.var(own)) / total,
            best,
            falls(0, step),
            falls(-1, -1 - step),
        )

    def _curves(self, i: int, design: Array) -> tuple[Array, Array]:
        """Positions of factor `i`, and the mean design row at each, the other factors averaged."""
        factor = self.factors[i]
        if factor.is_numeric and not factor.is_listed:
            grid = np.linspace(0, 1, 51)
        elif factor.is_numeric:
            grid = np.array([factor.position(level) for level in factor.levels])
        else:
            grid = np.arange(len(factor.levels), dtype=float)
        rows: list[Array] = []
        kept, self.positions[i] = self.positions[i], self.positions[i]
        for position in grid:
            self.positions[i] = np.full(len(self.runs), position)
            rows.append(self._rebuilt(i, design).mean(0))
        self.positions[i] = kept
        return grid, np.stack(rows)

    def _rebuilt(self, i: int, design: Array) -> Array:
        """The design with the columns of factor `i` made anew from its positions."""
        columns, at = design.copy(), 1
        for term in self.terms:
            width = term.columns.shape[1]
            if term.factors == (i,):
                columns[:, at : at + width] = self._own_columns(i, term, width)
            elif i in term.factors:
                columns[:, at : at + width] = self._product(*term.factors)
            at += width
        return columns

    def _own_columns(self, i: int, term: _Term, width: int) -> Array:
        if not self.factors[i].is_numeric:
            return _dummies(self.positions[i], len(self.factors[i].levels))
        first = 1
        for other in self.terms:
            if other is term:
                break
            first += other.columns.shape[1] if other.factors == (i,) else 0
        return np.stack([_legendre(self.positions[i], first + k) for k in range(width)], 1)


def _legendre(positions: Array, degree: int) -> Array:
    """Of a position in [0, 1]."""
    x = 2 * positions - 1
    return (x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2)[degree - 1]


def _dummies(positions: Array, levels: int) -> Array:
    """A column for each choice but the first: 1 where it is taken."""
    return (positions[:, None] == np.arange(1, levels)[None, :]).astype(float)
