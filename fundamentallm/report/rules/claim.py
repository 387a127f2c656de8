"""What a rule looks at, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from fundamentallm.metrics import score_text
from fundamentallm.report.effects import Surface, fit_surface
from fundamentallm.report.results import Results, RunResult
from fundamentallm.report.rung import Rung, at_rung, last_rung
from fundamentallm.report.significance import Noise, measure_noise
from fundamentallm.status import RunStatus

NO_NOISE = 1e-6
"""Of the range of all losses: what is less than this was not measured, but comes of rounding."""
FEWEST = 3
"""Runs of a sweep that a rule of curves needs."""


@dataclass(frozen=True)
class Claim:
    """A sentence or two, with the numbers that they stand on."""

    rule: str
    """The name of the function that says it."""
    verdict: str
    """What it comes to, in one word that a program can read: `matters`, `edge`, `falling`..."""
    says: str
    about: str = ""
    """The setting, if it is of one."""


class Evidence:
    """Everything that rules have in common, worked out once.

    Range tests are no evidence: their rate goes through everything.
    """

    def __init__(self, results: Results) -> None:
        runs = [run for run in results.runs if not run.is_range_test]
        self.results = results if len(runs) == len(results.runs) else replace(results, runs=runs)

    @cached_property
    def rung(self) -> Rung | None:
        """How far runs had come where their settings are compared; None for their end."""
        return last_rung(self.results)

    @cached_property
    def compared(self) -> Results:
        """The runs whose settings are compared, at the rung or at their end."""
        return self.results if self.rung is None else at_rung(self.results, self.rung)

    @cached_property
    def noise(self) -> Noise | None:
        """The spread between seeds of what is compared, if it was measured."""
        return measure_noise(self.compared)

    @cached_property
    def noise_at_the_end(self) -> Noise | None:
        """The same, of runs that went on to their end."""
        return self.noise if self.rung is None else measure_noise(self.results)

    @cached_property
    def surface(self) -> Surface | None:
        """The loss as a function of the settings, if there are runs enough."""
        return fit_surface(self.compared)

    @cached_property
    def sigma(self) -> float | None:
        """One noise, in nats: between seeds where that is known, else what the fit leaves over.

        None where that is nothing, or rounding: then the noise is not known.
        """
        sigma = self.surface.residual if self.surface is not None else 0.0
        if self.noise is not None:
            sigma = self.noise.sigma
        losses = [self.compared.loss(run) for run in self.compared.ranked]
        return sigma if losses and sigma > NO_NOISE * (losses[-1] - losses[0]) else None

    @property
    def sigma_is(self) -> str:
        """Where `sigma` comes from, in words."""
        if self.noise is not None:
            return f"the noise between seeds ({score_text(self.noise.sigma)})"
        return f"the residual of the fit ({score_text(self.sigma or 0)})"

    @cached_property
    def complete(self) -> list[RunResult]:
        """Runs that went on to their end, without those that blew up."""
        results = self.results
        return [
            r
            for r in results.observations
            if r.status == RunStatus.DONE and not results.is_capped(r)
        ]

    def better_half(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """Those that a decision would rest on, and `FEWEST` at least."""
        ranked = [run for run in self.results.ranked if run in runs]
        return ranked[: max(FEWEST, (len(ranked) + 1) // 2)]

    def judges(self, judged: Sequence[RunResult]) -> bool:
        """Whether these are enough to speak of: three of a sweep, or all that there are."""
        return len(judged) >= max(1, min(FEWEST, len(self.results.observations)))

    @property
    def metric(self) -> str:
        """The name of what runs are compared by."""
        return self.results.metric.name

    @property
    def when(self) -> str:
        """When settings are compared, if not at the end."""
        return self.compared.when


def counted(part: int, whole: int, noun: str = "run") -> str:
    """`6 of 8 runs`, or `the run`."""
    if part == whole == 1:
        return f"the {noun}"
    return f"{part} of {whole} {noun}{'' if whole == 1 else 's'}"
