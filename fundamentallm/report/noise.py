"""How much of a difference between runs is chance: what their seeds make of one configuration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fundamentallm.report.results import Results


@dataclass(frozen=True)
class Noise:
    """How much runs of one configuration differ between seeds."""

    sigma: float
    freedom: int
    """Degrees of freedom that sigma stands on."""
    repeated: int
    """Configurations that were run more than once."""


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
