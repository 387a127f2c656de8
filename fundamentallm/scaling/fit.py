"""Fit of a law to observations, with a law that was measured before as its prior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from fundamentallm.scaling.law import Law, Observation, losses

PRIOR = Law(
    offset=1.2,
    size_scale=0.1,
    size_exponent=0.38,
    token_scale=0.22,
    token_exponent=0.62,
    repeats=15.0,
    memorization=0.003,
    overcapacity=0.9,
    repetition=1.1,
)
"""Law of our trainer on two English texts, with its default dropout: docs/dev/scaling.md."""

COMMON_SPREAD = 1.0
"""Standard deviation of the logarithm of a factor of all coefficients in nats: texts differ most
in how much there is to learn."""
SPREAD = Law(
    offset=0.2,
    size_scale=0.5,
    size_exponent=0.3,
    token_scale=0.3,
    token_exponent=0.2,
    repeats=0.3,
    memorization=0.7,
    overcapacity=0.2,
    repetition=0.2,
)
"""Standard deviation of the logarithm of each coefficient between texts and settings."""

_in_nats = ("offset", "size_scale", "token_scale", "memorization")
_scales = np.array([field.name in _in_nats for field in fields(Law)], float)
COVARIANCE = np.diag(np.exp(SPREAD.logs) ** 2) + COMMON_SPREAD**2 * np.outer(_scales, _scales)
"""Covariance of the logarithms of a law's coefficients."""
STEP = 1e-5
"""Difference of logarithms that slopes are taken over."""
ENOUGH = 1e-3
"""Gain in a round, as predicted, that is not worth it."""
NOISE = 0.012
"""Standard deviation of a run's loss between seeds, in nats."""
MISFIT = 0.006
"""Standard deviation of an expected loss from the law, in nats."""
MISFIT_SHARE = 0.06
"""The same as a share of the distance from the lowest loss: short runs follow the law less, and
it is less sure the farther it leads beyond them."""
SCATTER = 0.012
"""Standard deviation of a point of a curve at a constant rate."""
OUTLIER = 2.0
"""Standard deviations beyond which a residual counts by its size, no longer by its square."""
DRAWS = 400
ROUNDS = 40
MAX_STEP = 0.5
"""Largest change of a coefficient's logarithm in a round."""


@dataclass(frozen=True)
class Forecast:
    """Loss to expect from one more run."""

    loss: float
    low: float
    high: float
    """Ends of the interval, between which the loss of that run lies with 90%."""
    strain: float
    """Mean square of what the law has to explain by noise and by leaving the prior, an
    observation, in variances: about 1, and far above it where the losses follow no such law."""

    @property
    def width(self) -> float:
        """Width of the interval, in nats."""
        return self.high - self.low


def updated(law: Law, observations: Sequence[Observation], *, noise: float = NOISE) -> Law:
    """Return the law that explains `observations`, and departs from `law` no more than needed.

    From few runs it learns the scale of their text; exponents move only with many. One odd run
    moves it little. Give all observations with the prior, not the new ones with the last result.
    """
    if not observations:
        return law
    seen = _Seen(observations, noise)
    laws, _ = _fit(law.logs[None], seen, seen.losses[None])
    return Law.of_logs(laws[0])


def forecast(
    law: Law,
    observations: Sequence[Observation],
    parameters: float,
    tokens: float,
    characters: float,
    *,
    noise: float = NOISE,
    seed: int = 0,
) -> Forecast:
    """Return the loss to expect of one run, with an interval by a bootstrap over runs.

    Each draw gives every run the noise of another seed, and the prior `law` other coefficients.
    The interval is for a single run, so that the noise of this run is in it too.

    Args:
        law: The prior.
        observations: At least one.
        parameters: Weights of the run to expect.
        tokens: Tokens that it sees in training.
        characters: Characters of its training text.
        noise: Standard deviation between seeds, in nats.
        seed: Seed of the draws.
    """
    seen = _Seen(observations, noise)
    random = np.random.default_rng(seed)
    drawn = seen.losses + random.standard_normal((DRAWS, len(seen.losses))) @ seen.root.T
    priors = random.multivariate_normal(law.logs, COVARIANCE, DRAWS)
    target = np.array([[parameters, tokens, characters]], dtype=float)
    expected = losses(_fit(priors, seen, drawn)[0], target)[:, 0]
    own = noise**2 + MISFIT**2 + (MISFIT_SHARE * (expected - seen.losses.min())) ** 2
    own += SCATTER**2 * any(each.run for each in observations)
    drawn = expected + np.sqrt(own) * random.standard_normal(DRAWS)
    low, high = np.quantile(drawn, (0.05, 0.95))
    _, cost = _fit(law.logs[None], seen, seen.losses[None])
    strain = 2 * float(cost[0]) / len(observations)
    return Forecast(float(np.median(expected)), float(low), float(high), strain)


class _Seen:
    """Observations as arrays."""

    def __init__(self, observations: Sequence[Observation], noise: float) -> None:
        points = [(each.parameters, each.tokens, each.characters) for each in observations]
        self.points = np.array(points, float)
        self.losses = np.array([each.loss for each in observations])
        names = np.array([each.run or str(index) for index, each in enumerate(observations)])
        above = self.losses - self.losses.min()
        own = MISFIT**2 + (MISFIT_SHARE * above) ** 2
        own += [SCATTER**2 if each.run else 0 for each in observations]
        self.root = np.linalg.cholesky(noise**2 * (names[:, None] == names) + np.diag(own))


def _fit(priors: np.ndarray, seen: _Seen, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the most probable laws (K, 9), as logarithms, for losses (K, n), and their costs (K,).

    By the method of Levenberg and Marquardt, for all draws at once.
    """
    laws, precision = priors.copy(), np.linalg.inv(COVARIANCE)
    damping = np.full(len(laws), 1e-3)
    residuals, cost = _residuals(laws, priors, seen, drawn, precision)
    for _ in range(ROUNDS):
        slopes = _slopes(laws, seen)
        weights = 1 / np.sqrt(1 + (residuals / OUTLIER) ** 2)  # of pseudo-Huber's loss
        weighted = slopes * weights[..., None]
        hessian = np.swapaxes(weighted, -1, -2) @ slopes + precision
        gradient = np.einsum("knp,kn->kp", weighted, residuals) + (priors - laws) @ precision
        diagonal = np.einsum("kpp->kp", hessian)[..., None] * np.eye(laws.shape[-1])
        steps = np.linalg.solve(hessian + damping[:, None, None] * diagonal, gradient[..., None])
        steps = np.clip(steps[..., 0], -MAX_STEP, MAX_STEP)
        if np.all((steps * gradient).sum(-1) < ENOUGH):
            break
        tried = laws + steps
        then = _residuals(tried, priors, seen, drawn, precision)
        is_better = then[1] < cost
        laws = np.where(is_better[:, None], tried, laws)
        residuals = np.where(is_better[:, None], then[0], residuals)
        cost = np.where(is_better, then[1], cost)
        damping = np.where(is_better, damping / 3, damping * 5)
    return laws, cost


def _residuals(
    laws: np.ndarray, priors: np.ndarray, seen: _Seen, drawn: np.ndarray, precision: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the residuals (K, n), whitened, and the cost (K,) of each law."""
    residuals = np.linalg.solve(seen.root, (drawn - losses(laws, seen.points)).T).T
    away = laws - priors
    robust = OUTLIER**2 * (np.sqrt(1 + (residuals / OUTLIER) ** 2) - 1)
    return residuals, robust.sum(-1) + np.einsum("kp,pq,kq->k", away, precision, away) / 2


def _slopes(laws: np.ndarray, seen: _Seen) -> np.ndarray:
    """Return the slopes (K, n, 9) of the whitened losses, by differences."""
    here = losses(laws, seen.points)
    moved = losses(laws[:, None] + STEP * np.eye(laws.shape[-1]), seen.points)  # (K, 9, n)
    slopes = (moved - here[:, None]) / STEP
    return np.linalg.solve(seen.root, np.swapaxes(slopes, -1, -2))
