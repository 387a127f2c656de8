"""How much of a difference between runs is chance: what their seeds make of one configuration."""

from __future__ import annotations

from dataclasses import dataclass

from fundamentallm.report.results import Results
from fundamentallm.report.significance import pooled_noise


@dataclass(frozen=True)
class Noise:
    """How much runs of one configuration differ between seeds."""

    sigma: float
    freedom: int
    """Degrees of freedom that sigma stands on."""
    repeated: int
    """Configurations that were run more than once."""


def measure_noise(results: Results) -> Noise | None:
    """The spread between seeds, pooled; None if no configuration was repeated."""
    groups = [[results.loss(run) for run in runs] for runs in results.configurations]
    sigma, freedom, repeated = pooled_noise(groups)
    return Noise(sigma, freedom, repeated) if freedom else None
