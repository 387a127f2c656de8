"""The next point to try: the one of which the largest improvement is expected.

Expected improvements are compared by their logarithms, which do not vanish where little is expected
(Ament et al., arXiv 2310.20708).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fundamentallm.sweep.search.coordinates import Coordinates, Points
from fundamentallm.sweep.search.gaussian_process import GaussianProcess, Vector

AT_RANDOM = 600
"""Candidates from the whole space."""
BEST_RUNS, AROUND_EACH, DISTANCE = 5, 60, 0.15
"""Best runs around which there are candidates, how many around each, and how far away."""
ROUNDS, KEPT, MOVES, STEP, SHRINKAGE = 6, 6, 25, 0.1, 0.7
"""Rounds that move the best candidates, how many they move, how often and how far each, and the
next round's distance as a share of the last one's."""
FARTHEST = 1e4
"""Standard deviations above the best score beyond which the improvement is not told apart."""


class ExpectedImprovement:
    """Improvement over the best known score that several processes expect."""

    def __init__(self, processes: Sequence[GaussianProcess]) -> None:
        """Weight the processes by their probabilities."""
        self.processes = processes
        known = [process.predict(process.points)[0] for process in processes]
        self.best_scores = [means.min(axis=1, keepdims=True) for means in known]
        likeliest = int(np.argmax([process.fit.log_probability for process in processes]))
        order = np.argsort(known[likeliest].mean(axis=0), kind="stable")
        self.best_runs = processes[likeliest].points[order[:BEST_RUNS]]

    def log(self, points: Points) -> Vector:
        """Return the logarithm of the expected improvement, up to a constant."""
        logs: list[Points] = []
        for process, best in zip(self.processes, self.best_scores, strict=True):
            means, deviations = process.predict(points)
            each = np.log(deviations) + log_improvement((best - means) / deviations)
            logs.append(each + process.fit.log_probability)
        every = np.vstack(logs)
        highest = every.max(axis=0)
        return highest + np.log(np.exp(every - highest).sum(axis=0))


def log_improvement(z: Points) -> Points:
    """Return log E[max(z + x, 0)] for a standard normal x, exact also where it is tiny."""
    from scipy.special import erfcx, ndtr

    above, below = np.maximum(z, -1), np.clip(z, -FARTHEST, -1)
    density = np.exp(-(above**2) / 2) / math.sqrt(2 * math.pi)
    ratio = np.log1p(below * math.sqrt(math.pi / 2) * erfcx(-below / math.sqrt(2)))
    tail = ratio - below**2 / 2 - 0.5 * math.log(2 * math.pi)
    return np.where(z > -1, np.log(density + above * ndtr(above)), tail)


def best_first(
    improvement: ExpectedImprovement, coordinates: Coordinates, rng: np.random.Generator
) -> Points:
    """Return many points, the most promising first."""
    near = coordinates.neighbors(improvement.best_runs, AROUND_EACH, DISTANCE, rng)
    points = np.vstack([coordinates.draw(AT_RANDOM, rng), near])
    values = improvement.log(points)
    for round_ in range(ROUNDS):
        best = points[np.argsort(-values, kind="stable")[:KEPT]]
        moved = coordinates.neighbors(best, MOVES, STEP * SHRINKAGE**round_, rng)
        points = np.vstack([points, moved])
        values = np.append(values, improvement.log(moved))
    return points[np.argsort(-values, kind="stable")]
