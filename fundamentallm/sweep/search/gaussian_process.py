"""Gaussian processes that learn scores from few runs.

A score is a trend plus a rest. The trend is a parabola in each number and a level for each
category. The rest is a Matern 5/2 process with a length scale of its own for each coordinate, so
that a parameter without effect drops out (Rasmussen & Williams, 2006, chapters 2 and 5). Length
scales, noise and amplitudes have their most probable values.

Before any run, the trend may be a bowl around the defaults.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fundamentallm.sweep.search.coordinates import Points, squared_distances

Vector = NDArray[np.float64]

LENGTH_SCALE = 0.2
"""Likely length scale, as a share of the range, times the root of the number of coordinates: the
more there are, the farther apart points lie."""
NOISE, REST, TREND = 0.1, 1.0, 0.7
"""Likely standard deviations of the noise, the rest and the trend; that of all scores is 1."""
SPREADS = 0.8, 1.0, 0.5, 0.7
"""Standard deviations of the logarithms of the length scales and of those three."""
BOUNDS = 4
"""Such standard deviations within which each is searched."""
MOST_STEPS = 60
"""Steps of that search."""
SPAN = 0.1
"""Mean square of a number's distance from the defaults, roughly; a range is 1 long."""
JITTER = 1e-6
"""Least variance of the noise, with which the matrices stay invertible."""


@dataclass(frozen=True)
class Trend:
    """Trend of the scores: its features are weighted, and the weights are unknown."""

    center: Points
    """Point around which the numbers are measured."""
    curvature: float
    """Curvature of the bowl around the center that is expected before any run; 0 for none."""
    is_category: NDArray[np.bool_]

    def mean(self, points: Points) -> Vector:
        """Return the trend that is expected before any run."""
        offsets = (points - self.center)[:, ~self.is_category]
        return self.curvature * (offsets**2 - SPAN).sum(1)

    def covariances(self, a: Points, b: Points) -> Points:
        """Return the covariances of the trend at `a` and `b`, in units of its variance."""
        same = a[:, None, self.is_category] == b[None, :, self.is_category]
        return self._features(a) @ self._features(b).T + same.sum(2) / len(self.is_category)

    def variances(self, points: Points) -> Vector:
        """Return the diagonal of `covariances(points, points)`."""
        return (self._features(points) ** 2).sum(1) + self.is_category.mean()

    def _features(self, points: Points) -> Points:
        """Return each number and its square, `(points, features)`."""
        offsets = 2 * (points - self.center)[:, ~self.is_category]
        return np.hstack([offsets, offsets**2]) / math.sqrt(max(offsets.shape[1], 1))


@dataclass(frozen=True)
class Fit:
    """Most probable parameters of a kernel."""

    logs: Vector
    """Logarithms of the length scales, then of the deviations of noise, rest and trend."""
    log_probability: float
    """Logarithm of the scores' probability density together with these parameters, up to a constant
    that all trends share."""

    @property
    def noise(self) -> float:
        """Return the variance of the noise."""
        return math.exp(2 * self.logs[-3]) + JITTER


@dataclass(frozen=True)
class KnownRuns:
    """Known runs, as the fit of a kernel needs them."""

    distances: Points
    """Squared distances by coordinate."""
    trend: Points
    """Covariances of the trend."""
    residuals: Vector
    """Scores less those expected before any run."""

    @classmethod
    def of(cls, points: Points, scores: Vector, trend: Trend) -> KnownRuns:
        """Return the runs at `points`."""
        distances = squared_distances(points, points, trend.is_category)
        return cls(distances, trend.covariances(points, points), scores - trend.mean(points))


class Kernel:
    """Covariances of scores by their points."""

    def __init__(self, trend: Trend) -> None:
        """Set up the kernel, which has the trend's coordinates."""
        self.trend, count = trend, len(trend.is_category)
        self.likely = np.log([*[LENGTH_SCALE * math.sqrt(count)] * count, NOISE, REST, TREND])
        self.spread = np.array([*[SPREADS[0]] * count, *SPREADS[1:]])

    def fit(self, points: Points, scores: Vector) -> Fit:
        """Return the most probable parameters, given standardized scores."""
        from scipy.optimize import minimize

        reach = BOUNDS * self.spread
        found = minimize(
            partial(self.negative_log_posterior, KnownRuns.of(points, scores, self.trend)),
            self.likely,
            jac=True,
            method="L-BFGS-B",
            bounds=np.stack([self.likely - reach, self.likely + reach], axis=1),
            options={"maxiter": MOST_STEPS},
        )
        return Fit(found.x, -float(found.fun))

    def negative_log_posterior(self, data: KnownRuns, logs: Vector) -> tuple[float, Vector]:
        """Return minus the logarithm of the parameters' probability, and its gradient."""
        rest, slopes = _matern(data.distances, logs)
        trend = math.exp(2 * logs[-1]) * data.trend
        noise = math.exp(2 * logs[-3])
        covariances = rest + trend + (noise + JITTER) * np.eye(len(rest))
        inverse = np.linalg.inv(covariances)
        weights = inverse @ data.residuals
        away = (logs - self.likely) / self.spread
        value = 0.5 * (data.residuals @ weights + away @ away + np.linalg.slogdet(covariances)[1])
        change = 0.5 * (inverse - np.outer(weights, weights))
        gradient = away / self.spread
        gradient[:-3] += np.exp(-2 * logs[:-3]) * np.tensordot(data.distances, change * slopes)
        gradient[-3] += 2 * noise * change.trace()
        gradient[-2] += 2 * (change * rest).sum()
        gradient[-1] += 2 * (change * trend).sum()
        return value, gradient

    def covariances(self, a: Points, b: Points, fit: Fit) -> Points:
        """Return the covariances of the scores at `a` and `b` without noise."""
        rest, _ = _matern(squared_distances(a, b, self.trend.is_category), fit.logs)
        return rest + math.exp(2 * fit.logs[-1]) * self.trend.covariances(a, b)

    def variances(self, points: Points, fit: Fit) -> Vector:
        """Return the variances of the scores without noise."""
        rest, trend = np.exp(2 * fit.logs[-2:])
        return rest + trend * self.trend.variances(points)


def _matern(distances: Points, logs: Vector) -> tuple[Points, Points]:
    """Return the covariances of the rest, and their common slope.

    The derivative by the logarithm of a length scale is the slope times the squared distance in
    that coordinate, measured in length scales.
    """
    total = np.tensordot(np.exp(-2 * logs[:-3]), distances, axes=1)
    root = np.sqrt(5 * total)
    decay = math.exp(2 * logs[-2]) * np.exp(-root)
    return decay * (1 + root + root**2 / 3), decay * (1 + root) * 5 / 3


class GaussianProcess:
    """Scores given some runs: one function, or several that differ in what runs in progress get."""

    def __init__(self, kernel: Kernel, fit: Fit, points: Points, scores: Points) -> None:
        """Condition the process.

        Args:
            kernel: Kernel of the process.
            fit: Parameters of the kernel.
            points: Points of the known runs.
            scores: Standardized scores, `(functions, points)`.
        """
        self.kernel, self.fit, self.points, self.scores = kernel, fit, points, scores
        covariances = kernel.covariances(points, points, fit)
        self.inverse = np.linalg.inv(covariances + fit.noise * np.eye(len(points)))
        self.weights = (scores - kernel.trend.mean(points)) @ self.inverse

    def predict(self, points: Points) -> tuple[Points, Vector]:
        """Return the means, `(functions, points)`, and standard deviations, both without noise."""
        covariances = self.kernel.covariances(points, self.points, self.fit)
        explained = ((covariances @ self.inverse) * covariances).sum(1)
        variances = self.kernel.variances(points, self.fit) - explained
        means = self.kernel.trend.mean(points) + self.weights @ covariances.T
        return means, np.sqrt(np.maximum(variances, JITTER))

    def with_fantasies(
        self, running: Points, count: int, rng: np.random.Generator
    ) -> GaussianProcess:
        """Return the process with `count` draws of the scores of runs in progress.

        So each run in progress counts as known, but no single guess of its score is believed.
        """
        covariances = self.kernel.covariances(running, self.points, self.fit)
        left = self.kernel.covariances(running, running, self.fit)
        left -= covariances @ self.inverse @ covariances.T
        left += self.fit.noise * np.eye(len(running))
        variances, directions = np.linalg.eigh(left)  # rounding may leave it no Cholesky factor
        root = directions * np.sqrt(np.maximum(variances, 0))
        means, _ = self.predict(running)
        draws = means + rng.normal(size=(count, len(running))) @ root.T
        known = np.repeat(self.scores, count, axis=0)
        points = np.vstack([self.points, running])
        return GaussianProcess(self.kernel, self.fit, points, np.hstack([known, draws]))
