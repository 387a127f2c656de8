"""Input and output of rules: evidence and claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fundamentallm.metrics import score_text
from fundamentallm.report.effects import Surface, fit_surface
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rung import Rung, at_rung, last_rung
from fundamentallm.significance import Noise
from fundamentallm.status import RunStatus

ROUNDING = 1e-6
"""Share of the range of all losses that may be rounding."""
MIN_RUNS = 3
"""Runs that a rule about curves needs."""


@dataclass(frozen=True)
class Claim:
    """A sentence or two, with numbers."""

    rule: str
    """Name of the rule's function."""
    verdict: str
    """One word for programs: `matters`, `edge`, `falling`..."""
    says: str
    about: str = ""
    """Setting that it is about, if any."""


class Evidence:
    """Quantities that rules share, computed once.

    Range tests are left out.
    """

    def __init__(self, results: Results) -> None:
        runs = [run for run in results.runs if not run.is_range_test]
        self.results = results if len(runs) == len(results.runs) else replace(results, runs=runs)

    @cached_property
    def rung(self) -> Rung | None:
        """Rung at which settings are compared; None for the end of runs."""
        return last_rung(self.results)

    @cached_property
    def compared(self) -> Results:
        """Runs whose settings are compared, at the rung or at their end."""
        return self.results if self.rung is None else at_rung(self.results, self.rung)

    @cached_property
    def noise(self) -> Noise | None:
        """Spread between seeds of the compared runs, if measured."""
        return self.compared.noise

    @cached_property
    def noise_at_the_end(self) -> Noise | None:
        """Spread between seeds at the end of runs."""
        return self.noise if self.rung is None else self.results.noise

    @cached_property
    def surface(self) -> Surface | None:
        """Loss as a function of the settings, if there are enough runs."""
        return fit_surface(self.compared)

    @cached_property
    def sigma(self) -> float | None:
        """Standard deviation of a run, in nats: between seeds if known, else the fit's residual.

        None if it is 0 or rounding: the noise is unknown.
        """
        sigma = self.surface.residual if self.surface is not None else 0.0
        if self.noise is not None:
            sigma = self.noise.sigma
        losses = [self.compared.loss(run) for run in self.compared.ranked]
        return sigma if losses and sigma > ROUNDING * (losses[-1] - losses[0]) else None

    @property
    def sigma_source(self) -> str:
        """Source of `sigma`, in words."""
        if self.noise is not None:
            return f"the noise between seeds ({score_text(self.noise.sigma)})"
        return f"the residual of the fit ({score_text(self.sigma or 0)})"

    @cached_property
    def complete(self) -> list[RunResult]:
        """Runs that reached their end, without blow-ups."""
        results = self.results
        return [
            r
            for r in results.observations
            if r.status == RunStatus.DONE and not results.is_capped(r)
        ]

    def better_half(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """Return the better half of `runs`, at least `MIN_RUNS`."""
        ranked = [run for run in self.results.ranked if run in runs]
        return ranked[: max(MIN_RUNS, (len(ranked) + 1) // 2)]

    def are_enough(self, judged: Sequence[RunResult]) -> bool:
        """Return whether there are enough runs: three of a sweep, or all of fewer."""
        return len(judged) >= max(1, min(MIN_RUNS, len(self.results.observations)))

    @property
    def metric(self) -> str:
        """Name of the metric that compares runs."""
        return self.results.metric.name

    @property
    def when(self) -> str:
        """Words for when settings are compared, if not at the end."""
        return self.compared.when


def count_text(part: int, whole: int, noun: str = "run") -> str:
    """Return `6 of 8 runs`, or `the run`."""
    if part == whole == 1:
        return f"the {noun}"
    return f"{part} of {whole} {noun}{'' if whole == 1 else 's'}"
