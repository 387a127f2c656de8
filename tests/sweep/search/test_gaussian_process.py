"""The Gaussian process, and what it suggests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.acquisition import log_improvement
from fundamentallm.sweep.search.base import ScoredRun, Values
from fundamentallm.sweep.search.bayes import STARTS
from fundamentallm.sweep.search.coordinates import Coordinates
from fundamentallm.sweep.search.gaussian_process import GaussianProcess, Kernel, KnownRuns, Trend
from fundamentallm.sweep.search.gp_sampler import GpSampler, standardized
from fundamentallm.sweep.search.space import SearchSpace

SWEEP = """\
program: theirs.py
method: bayes
metric: {name: loss}
parameters:
  a: {min: 0.0, max: 1.0}
  b: {distribution: log_uniform_values, min: 0.01, max: 100.0}
  kind: {values: [x, y, z]}
  nothing: {min: 0.0, max: 1.0}
  list: {values: [8, 32, 16]}
  seed: {values: [0, 1, 2, 3]}
"""
PARAMETERS = parse_sweep(SWEEP, "s.yaml").parameters
MIDDLE: Values = {"a": 0.5, "b": 1.0, "kind": "x", "nothing": 0.5, "list": 16, "seed": 0}


def loss(values: Values) -> float:
    """Least at a = 0.7, b = 1.0, kind z, list 32."""
    numbers = (values["a"] - 0.7) ** 2 + 0.1 * math.log10(values["b"]) ** 2
    return 1 + numbers + "zyx".index(values["kind"]) / 10 - math.log2(values["list"]) / 50


def at_random(count: int, seed: int = 0) -> list[Values]:
    rng = np.random.default_rng(seed)
    coordinates = Coordinates(PARAMETERS)
    return [coordinates.values(point, rng) for point in coordinates.draw(count, rng)]


def fitted(points: np.ndarray, scores: np.ndarray) -> GaussianProcess:
    coordinates = Coordinates(PARAMETERS)
    middle = np.full(len(coordinates.each), 0.5)
    kernel = Kernel(Trend(middle, 0.0, coordinates.is_category))
    return GaussianProcess(kernel, kernel.fit(points, scores), points, scores[None])


def first(runs: Sequence[ScoredRun], seed: int = 0, defaults: Values | None = None) -> Values:
    return next(GpSampler(PARAMETERS, (), defaults, STARTS).suggestions(runs, seed))


def test_coordinates_are_those_of_the_values() -> None:
    coordinates = Coordinates(PARAMETERS)
    point = coordinates.of(
        {"a": 0.25, "b": 1.0, "kind": "y", "nothing": 1.0, "list": 16, "seed": 3}
    )
    assert point == pytest.approx([0.25, 0.5, 1, 0.5, 1.0])  # the seed is noise
    values = coordinates.values(point, np.random.default_rng(0))
    assert {**values, "seed": 3} == {
        "a": 0.25, "b": 1.0, "kind": "y", "nothing": 1.0, "list": 16, "seed": 3,
    }  # fmt: skip
    assert values["seed"] in (0, 1, 2, 3)
    with pytest.raises(ValueError, match="'w' is none of the values"):
        coordinates.of({**values, "kind": "w"})


def test_neighbors_of_a_point_differ_and_are_near() -> None:
    text = SWEEP.replace("theirs.py", "train.py").partition("parameters:")[0] + "parameters:\n"
    text += "  model_dim: {values: [48, 64, 96]}\n  num_heads: {values: [2, 3, 4, 6]}\n"
    text += "  dropout: {min: 0.0, max: 0.5}\n"
    space = SearchSpace(parse_sweep(text, "s.yaml"), {})
    coordinates = Coordinates(space.sweep.parameters, space.together())
    rng = np.random.default_rng(0)
    points = coordinates.draw(20, rng)
    moved = coordinates.neighbors(points, 10, 0.05, rng)
    assert all(space.is_possible(coordinates.values(point, rng)) for point in moved)
    offsets = abs(moved - np.repeat(points, 10, axis=0))
    assert (offsets.max(axis=1) > 0).all()
    assert offsets[:, 0].max() < 0.3  # dropout


def test_the_process_recovers_a_function() -> None:
    coordinates = Coordinates(PARAMETERS)
    known, new = at_random(40), at_random(40, seed=1)
    scores, truth = (np.array([loss(values) for values in each]) for each in (known, new))
    points = np.array([coordinates.of(values) for values in known])
    process = fitted(points, (scores - scores.mean()) / scores.std())
    means, deviations = process.predict(np.array([coordinates.of(values) for values in new]))
    assert abs(means[0] * scores.std() + scores.mean() - truth).mean() < 0.1 * truth.std()
    assert deviations.max() < 0.5


def test_repeats_tell_the_noise() -> None:
    rng = np.random.default_rng(0)
    coordinates = Coordinates(PARAMETERS)
    points = np.repeat([coordinates.of(values) for values in at_random(6)], 4, axis=0)
    truth = np.repeat(np.linspace(-1, 1, 6), 4)
    noises = [
        fitted(points, truth + noise * rng.normal(size=24)).fit.logs[-3] for noise in (0.02, 0.5)
    ]
    assert math.exp(noises[0]) < 0.08
    assert math.exp(noises[1]) == pytest.approx(0.5, rel=0.5)


def test_the_slope_that_the_fit_follows_is_that_of_the_likelihood() -> None:
    coordinates, known = Coordinates(PARAMETERS), at_random(20)
    points = np.array([coordinates.of(values) for values in known])
    scores = standardized([loss(values) for values in known])
    trend = Trend(coordinates.of(MIDDLE), 2.0, coordinates.is_category)
    kernel, data = Kernel(trend), KnownRuns.of(points, scores, trend)
    logs = kernel.likely + 0.3 * np.random.default_rng(0).normal(size=len(kernel.likely))
    steps = 1e-5 * np.eye(len(logs))
    ends = [[kernel.negative_log_posterior(data, logs + s)[0] for s in (-e, e)] for e in steps]
    slopes = [(above - below) / 2e-5 for below, above in ends]
    assert kernel.negative_log_posterior(data, logs)[1] == pytest.approx(slopes, abs=1e-5)


def test_expected_improvement_is_exact_where_it_is_tiny() -> None:
    z = np.array([-30.0, -5.0, -1.001, -0.999, 3.0])
    x = np.linspace(-40, 40, 800_001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    integrals = [(np.maximum(each + x, 0) * density).sum() * 1e-4 for each in z]
    assert log_improvement(z) == pytest.approx(np.log(integrals), abs=1e-3)
    falling = log_improvement(np.array([-1e3, -1e4, -1e9]))
    assert np.isfinite(falling).all()
    assert falling[0] > falling[1] >= falling[2]


def test_runs_in_progress_spread_the_suggestions() -> None:
    done: list[ScoredRun] = [(values, loss(values)) for values in at_random(12)]
    alone = first(done)
    running = [*done, (alone, None)]
    coordinates = Coordinates(PARAMETERS)
    a, b = coordinates.of(alone), coordinates.of(first(running))
    assert abs(a - b).max() > 0.02
    assert first(running) == first(running)


def test_defaults_attract_until_runs_say_otherwise() -> None:
    """Distance from the defaults, of suggestions after a few runs that are equal or that tell."""
    coordinates = Coordinates(PARAMETERS)
    corner = {**MIDDLE, "a": 0.1, "b": 0.03, "nothing": 0.9}
    center = coordinates.of(corner)

    def distance(score: bool, defaults: Values | None, count: int) -> float:
        far = []
        for seed in range(4):
            runs = [(v, loss(v) if score else 1.0) for v in (corner, *at_random(count, seed))]
            point = coordinates.of(first(runs, seed, defaults))
            far.append(abs(point - center)[[0, 1]].mean())
        return float(np.median(far))

    assert distance(False, corner, 4) < distance(False, None, 4)
    values = first([(v, loss(v)) for v in (corner, *at_random(25))], 0, corner)
    assert loss(values) < 1.03


@pytest.mark.parametrize("blow_up", [7.0, 70.0, 1e9])
def test_blow_ups_do_not_spoil_the_search(blow_up: float) -> None:
    """They are finite, and nothing marks them as failures."""
    runs: list[ScoredRun] = []
    for k, values in enumerate(at_random(20)):
        suggested = values if k < 8 else first(runs, k)
        runs.append((suggested, blow_up if suggested["b"] > 3 else loss(suggested)))
    assert sum(score == blow_up for _, score in runs[:8]) > 2
    assert sum(score == blow_up for _, score in runs[8:]) <= 3
    assert min(loss(values) for values, _ in runs[8:]) < 0.92
    assert standardized([1, 1.1, 1.2, 50]) == pytest.approx(standardized([1, 1.1, 1.2, blow_up]))
