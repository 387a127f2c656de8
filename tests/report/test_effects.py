"""The fit selects settings that have an effect, and hardly ever one that has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import pytest

from fundamentallm.report.effects import Surface, fit_surface
from fundamentallm.report.results import EMPTY, Results, RunResult
from fundamentallm.sweep.file.sweep_file import Metric

Loss = Callable[[np.ndarray], float]
LEARNING_RATE, OTHERS = "learning_rate", ("dropout", "weight_decay", "warmup", "beta2")


def swept(
    dice: np.random.Generator, runs: int, names: Sequence[str], loss: Loss, noise: float, again: int
) -> Surface | None:
    """Random runs of settings in [0, 1], the best one `again` times more; what is made of them."""
    points = [dice.random(len(names)) for _ in range(runs)]
    scores = [loss(point) + noise * dice.normal() for point in points]
    for _ in range(again):
        points.append(points[int(np.argmin(scores[:runs]))])
        scores.append(loss(points[-1]) + noise * dice.normal())
    found = []
    for number, (point, score) in enumerate(zip(points, scores, strict=True)):
        settings = dict(zip(names, map(float, point), strict=True)) | {"seed": number}
        if LEARNING_RATE in settings:
            settings[LEARNING_RATE] = 10 ** (4 * settings[LEARNING_RATE] - 5)
        curves = {"val_loss": EMPTY}
        found.append(RunResult(f"run-{number}", "done", settings, score, curves))
    return fit_surface(Results("x", Metric("val_loss"), found))


def claimed(surface: Surface | None) -> list[str]:
    if surface is not None:
        assert all(effect.p < 0.05 for effect in surface.effects)
    return [] if surface is None else [effect.factor.name for effect in surface.effects]


def nothing(_: np.ndarray) -> float:
    return 2.0


def cliff(size: float) -> Loss:
    """A rate that is too low learns little by little less, one that is too high nothing."""

    def loss(point: np.ndarray) -> float:
        at = float(point[0])
        return 2 + size / (1 + math.exp(12 * (at - 0.35))) + (size if at > 0.85 else 0)

    return loss


def bowl(size: float, dropout: float = 0.0) -> Loss:
    def loss(point: np.ndarray) -> float:
        return 1.5 + size * (2 * float(point[0]) - 1) ** 2 + dropout * float(point[1])

    return loss


def walled(point: np.ndarray, *, best: float, slope: float, wall: float, height: float) -> float:
    """Ever less up to the best, a little more beyond, and much more behind the wall."""
    over = float(point[0]) - best
    return 1.5 + (slope * -over if over < 0 else over**2) + height * (over > wall)


def nulls() -> Iterator[object]:
    for runs, settings in [(5, 1), (5, 3), (6, 2), (7, 3), (9, 4), (10, 4), (20, 4)]:
        names = OTHERS[:settings]
        yield pytest.param(runs, names, nothing, 0, id=f"{runs} runs of {settings}, no effect")
    names = (LEARNING_RATE, *OTHERS)
    for runs in (16, 30):
        for size in (0.43, 1.44):
            yield pytest.param(runs, names, bowl(size), 0, id=f"{runs} runs, a bowl of {size}")
    for size in (0.45, 1.5):
        yield pytest.param(30, names, cliff(size), 3, id=f"a cliff of {size}, seeds repeated")


@pytest.mark.parametrize(("runs", "names", "loss", "again"), list(nulls()))
def test_settings_without_effect_seldom_matter(
    runs: int, names: Sequence[str], loss: Loss, again: int
) -> None:
    dice = np.random.default_rng(0)
    sweeps = [swept(dice, runs, names, loss, 0.01, again) for _ in range(30)]
    false = sum(any(name in OTHERS for name in claimed(surface)) for surface in sweeps)
    assert false <= 3  # of 30; ALPHA is 1% of a sweep


@pytest.mark.parametrize(("runs", "least"), [(16, 8), (30, 16)])
def test_settings_with_an_effect_are_found(runs: int, least: int) -> None:
    dice = np.random.default_rng(1)
    names = (LEARNING_RATE, *OTHERS)
    sweeps = [swept(dice, runs, names, bowl(0.43, dropout=0.06), 0.01, 0) for _ in range(20)]
    assert sum(LEARNING_RATE in claimed(surface) for surface in sweeps) == 20
    assert sum("dropout" in claimed(surface) for surface in sweeps) >= least
    noises = [surface.residual for surface in sweeps if surface is not None]
    assert 0.006 < np.median(noises) < 0.014  # 0.01


def test_the_named_best_value_is_supported_by_runs() -> None:
    """10 to 16 runs, of which those beyond a wall are far worse: no polynomial follows that."""
    dice = np.random.default_rng(3)
    far = named = 0
    for _ in range(60):
        best, slope = dice.uniform(0.35, 0.65), dice.uniform(0.5, 2.5)
        wall, height = dice.uniform(0.05, 0.2), dice.uniform(0.3, 2.7)

        truth = partial(walled, best=best, slope=slope, wall=wall, height=height)
        surface = swept(dice, int(dice.integers(10, 17)), (LEARNING_RATE,), truth, 0.01, 0)
        if surface is None or not surface.effects:
            continue
        effect, runs = surface.effects[0], surface.runs
        named += 1
        place = (math.log10(effect.best) + 5) / 4
        own = min(run.score or 0 for run in runs)
        far += truth(np.array([place])) > own + max(0.1, 1.5 * effect.margin)
        rates = [run.settings[LEARNING_RATE] for run in runs if (run.score or 0) <= own + 0.02]
        assert effect.near_values[0] <= min(rates) * 1.001
        assert effect.near_values[1] >= max(rates) * 0.999
    assert named > 40
    assert far <= 1


def test_rounding_is_no_effect() -> None:
    dice = np.random.default_rng(2)

    def steps(point: np.ndarray) -> float:
        return 1.0 if point[0] < 0.5 else 2.0

    for _ in range(10):
        points = [(float(i % 2), *dice.random(2)) for i in range(12)]
        runs = [
            RunResult(
                f"run-{i}",
                "done",
                {"mixed_precision": bool(point[0]), "dropout": point[1], "beta2": point[2]},
                steps(np.array(point)),
                {},
            )
            for i, point in enumerate(points)
        ]
        assert claimed(fit_surface(Results("x", Metric("val_loss"), runs))) == ["mixed_precision"]
