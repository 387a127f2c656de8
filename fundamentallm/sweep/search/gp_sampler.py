"""Suggestions of Gaussian processes: scores in, configurations out, the best first.

Two processes share the work: one expects a bowl around the defaults, the other expects nothing.
Each counts by its probability given the runs, and the bowl flattens as runs come in. So good
defaults save runs, and poor ones cost few.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.acquisition import ExpectedImprovement, best_first
from fundamentallm.sweep.search.base import Groups, ScoredRun, Values
from fundamentallm.sweep.search.coordinates import Coordinates, Points
from fundamentallm.sweep.search.gaussian_process import GaussianProcess, Kernel, Trend, Vector

CURVATURE, HALVED_AFTER = 2.0, 10
"""Curvature of the bowl before any run, and the runs that halve it."""
MIDDLE = 0.5
"""Center of the trend without a bowl."""
LEAST_WEIGHT = -8.0
"""Logarithm of the probability, relative to the other, below which a process is left out."""
WORST = 3.0
"""Distance from the best score beyond which all count as equal, in median distances."""
FANTASIES = 16
"""Draws of the scores of runs in progress."""


class GpSampler:
    """Gaussian processes, fitted anew for each suggestion."""

    def __init__(
        self,
        parameters: Sequence[Parameter],
        groups: Groups,
        defaults: Values | None,
        starts: int,
    ) -> None:
        """Set up the coordinates; arguments as of `BayesSearch`."""
        self.coordinates, self.starts = Coordinates(parameters, groups), starts
        self.defaults: Points | None = None
        if defaults is not None:
            with suppress(ValueError):  # defaults may lie outside the lists of the sweep
                self.defaults = self.coordinates.of(defaults)

    def suggestions(self, runs: Sequence[ScoredRun], seed: int) -> Iterator[Values]:
        """Yield configurations, the best first; one at random while little is known."""
        rng = np.random.default_rng(seed)
        for point in self._points(runs, rng):
            yield self.coordinates.values(point, rng)

    def _points(self, runs: Sequence[ScoredRun], rng: np.random.Generator) -> Points:
        """Return points, the best first."""
        if not self.coordinates.each:
            return np.empty((0, 0))
        points: list[Points] = []
        scores: list[float | None] = []
        for values, score in runs:
            try:
                points.append(self.coordinates.of(values))
            except ValueError:
                continue  # the file no longer has a value of this run
            scores.append(score)
        known = [score for score in scores if score is not None]
        if not known or len(scores) < self.starts:
            return self.coordinates.draw(1, rng)
        is_known = np.array([score is not None for score in scores])
        processes = self._fit(np.array(points)[is_known], standardized(known))
        if len(known) < len(scores):
            running = np.array(points)[~is_known]
            processes = [each.with_fantasies(running, FANTASIES, rng) for each in processes]
        return best_first(ExpectedImprovement(processes), self.coordinates, rng)

    def _fit(self, points: Points, scores: Vector) -> list[GaussianProcess]:
        """Return the processes that are probable given the runs."""
        is_category = self.coordinates.is_category
        trends = [Trend(np.full(len(is_category), MIDDLE), 0.0, is_category)]
        if self.defaults is not None:
            curvature = CURVATURE * HALVED_AFTER / (HALVED_AFTER + len(points))
            trends.append(Trend(self.defaults, curvature, is_category))
        kernels = [Kernel(trend) for trend in trends]
        fits = [kernel.fit(points, scores) for kernel in kernels]
        least = max(fit.log_probability for fit in fits) + LEAST_WEIGHT
        return [
            GaussianProcess(kernel, fit, points, scores[None])
            for kernel, fit in zip(kernels, fits, strict=True)
            if fit.log_probability >= least
        ]


def standardized(scores: Sequence[float]) -> Vector:
    """Return the scores with mean 0 and deviation 1, the worst of them cut off.

    How bad a bad run is does not help to find a good one, and a loss of thousands would hide the
    differences of the others.
    """
    distances = np.array(scores) - min(scores)
    if not distances.any():
        return distances
    cut = np.minimum(distances, WORST * np.median(distances[distances > 0]))
    return (cut - cut.mean()) / cut.std()
