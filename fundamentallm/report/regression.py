"""Regression of the loss: a polynomial in the settings, with terms chosen by F tests.

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
from scipy.special import fdtrc

from fundamentallm.report.factors import Factor
from fundamentallm.significance import Noise

ALPHA = 0.01
TRUST = 0.1
MAX_DEGREE = 3
MIN_FREEDOM = 3  # runs beyond the number of coefficients
ROUNDING = 1e-20  # of the variance of all losses: what an exact fit leaves over
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Term:
    """Design columns that enter together."""

    factors: tuple[int, ...]
    columns: Array


class ForwardSelection:
    """Forward selection of terms."""

    def __init__(
        self,
        factors: Sequence[Factor],
        positions: list[Array],
        losses: Array,
        noise: Noise | None,
        repeats: int = 0,
    ) -> None:
        """Prepare; `select` fits.

        Args:
            factors: Settings that were varied.
            positions: Positions of all runs, for each factor.
            losses: Losses of all runs; nats.
            noise: Noise between seeds, if measured; terms may be tested against it.
            repeats: Runs with the same outcome as another in spite of other settings: they tell
                nothing of chance, and are no degrees of freedom.
        """
        self.factors, self.positions, self.losses, self.noise = factors, positions, losses, noise
        self.repeats = repeats
        self.terms: list[Term] = []
        self.degrees = [0] * len(factors)
        self.weights = np.ones(len(losses))

    def select(self) -> None:
        """Add terms while they are significant."""
        while self._add_best() or self._add_jointly():
            for _ in range(3):
                self._reweigh()

    # --- Terms ---

    def _candidates(self) -> list[tuple[Term, tuple[int, int] | None]]:
        """Return terms that could enter, with the factor and degree of each."""
        found: list[tuple[Term, tuple[int, int] | None]] = []
        for i, factor in enumerate(self.factors):
            have = self.degrees[i]
            if not factor.is_numeric:
                if not have:
                    columns = dummies(self.positions[i], len(factor.levels))
                    found.append((Term((i,), columns), (i, 1)))
                continue
            highest = min(MAX_DEGREE, len(factor.levels) - 1)
            for degree in range(have + 1, highest + 1):
                powers = range(have + 1, degree + 1)
                columns = np.stack([legendre(self.positions[i], k) for k in powers], 1)
                found.append((Term((i,), columns), (i, degree)))
        included = [i for i in range(len(self.factors)) if self.degrees[i]]
        there = {term.factors for term in self.terms}
        for a in included:
            for b in included:
                if a < b and (a, b) not in there:
                    found.append((Term((a, b), self.product(a, b)), None))
        return found

    def product(self, a: int, b: int) -> Array:
        """Return the columns of an interaction."""
        first, second = (
            legendre(self.positions[i], 1)[:, None]
            if self.factors[i].is_numeric
            else dummies(self.positions[i], len(self.factors[i].levels))
            for i in (a, b)
        )
        return (first[:, :, None] * second[:, None, :]).reshape(len(self.losses), -1)

    def _add_best(self) -> bool:
        """Add the most significant term; return whether there was one."""
        candidates = self._candidates()
        if not candidates:
            return False
        tests = [self.test(self.terms, term) for term, _ in candidates]
        best = int(np.argmin(tests))
        if tests[best] * len(candidates) >= ALPHA:
            return False
        self._add(*candidates[best])
        return True

    def _add(self, term: Term, raises: tuple[int, int] | None) -> None:
        self.terms.append(term)
        if raises is not None:
            self.degrees[raises[0]] = raises[1]

    def _add_jointly(self) -> bool:
        """Add a factor that is significant only after adjusting for all others."""
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
                tests[i] = self.test([*self.terms, *others], term)
        best = min(tests, key=lambda i: tests[i], default=None)
        if best is None or tests[best] * len(tests) >= ALPHA:
            return False
        self._add(*widest[best])
        return True

    def test(self, terms: list[Term], term: Term) -> float:
        """Return p of the gain from `term`; 1 if it cannot be tested.

        The gain is tested against the residual, and against the noise between seeds where
        that is larger. Seeds alone would not do: where the polynomial does not fit, the
        residual is more than noise, and any term fits some of it.
        """
        _, before, free_before = self.fit(terms)
        _, after, free_after = self.fit([*terms, term])
        gained = round(free_before - free_after)
        if gained < 1 or before <= ROUNDING * float(np.var(self.losses)):
            return 1.0
        p_values: list[float] = []
        left = after / free_after if free_after > 0 else 0.0
        if free_after >= MIN_FREEDOM:
            if after <= 1e-12 * before:
                return 0.0
            p_values.append(float(fdtrc(gained, free_after, (before - after) / gained / left)))
        noise = self.noise
        if noise is not None and noise.freedom >= MIN_FREEDOM and noise.sigma > 0:
            ratio = (before - after) / gained / max(left, noise.sigma**2)
            p_values.append(float(fdtrc(gained, noise.freedom, ratio)))
        return min(1.0, min(p_values) * len(p_values)) if p_values else 1.0

    def confounded_with(self, i: int) -> list[int]:
        """Return other factors that changed along with factor `i` and may explain its effect.

        With so few configurations, or a plan so poor, that what they add is in the fit already; or,
        where the configurations are fewer than the factors, any.
        """
        others = [j for j in range(len(self.factors)) if not self.degrees[j]]
        configurations = len(np.unique(np.stack(self.positions, 1).round(9), axis=0))
        if configurations <= len(self.factors):
            return others
        there = np.linalg.matrix_rank(self.design(self.terms))
        return [
            j
            for j in others
            if np.linalg.matrix_rank(self.design([*self.terms, self._linear_term(j)])) == there
        ]

    def _linear_term(self, i: int) -> Term:
        """Return the linear term of a factor."""
        if self.factors[i].is_numeric:
            return Term((i,), legendre(self.positions[i], 1)[:, None])
        return Term((i,), dummies(self.positions[i], len(self.factors[i].levels)))

    # --- Least squares ---

    def design(self, terms: Sequence[Term]) -> Array:
        """Return the design: a row per run of 1 and the columns of `terms`."""
        return np.hstack([np.ones((len(self.losses), 1)), *(term.columns for term in terms)])

    def fit(self, terms: Sequence[Term]) -> tuple[Array, float, float]:
        """Return fitted losses, the weighted residual sum of squares, and its degrees of freedom.

        Runs that count less are less than a run each: all together are worth (sum w)^2 / sum w^2
        (Kish, Survey Sampling, 1965), and squares are scaled to as many. With weights of 1 both
        are what they always are.
        """
        design, root = self.design(terms), np.sqrt(self.weights)
        solved, _, rank, _ = np.linalg.lstsq(design * root[:, None], self.losses * root, rcond=1e-9)
        fitted = design @ solved
        scale = float(self.weights.sum() / (self.weights**2).sum())
        left = scale * float((self.weights * (self.losses - fitted) ** 2).sum())
        return fitted, left, scale * float(self.weights.sum()) - int(rank) - self.repeats

    def _reweigh(self) -> None:
        fitted, left, freedom = self.fit(self.terms)
        residual = deviation(left, freedom)
        if residual > 1e-9 * np.ptp(self.losses):  # else it is rounding, and weights would be too
            excess = np.maximum(fitted - fitted.min(), 0)
            before, self.weights = self.weights, 1 / (1 + (TRUST * excess / residual) ** 2)
            if self.fit(self.terms)[2] < MIN_FREEDOM:  # too few would count to judge by
                self.weights = before


def deviation(left: float, freedom: float) -> float:
    """Return the standard deviation of a residual sum of squares; nats."""
    return float(np.sqrt(left / max(freedom, 1.0)))


def legendre(positions: Array, degree: int) -> Array:
    """Return the Legendre polynomial of that degree, over positions in [0, 1]."""
    x = 2 * positions - 1
    return (x, (3 * x**2 - 1) / 2, (5 * x**3 - 3 * x) / 2)[degree - 1]


def dummies(positions: Array, levels: int) -> Array:
    """Return a column for each choice but the first: 1 where it was taken."""
    return (positions[:, None] == np.arange(1, levels)[None, :]).astype(float)
