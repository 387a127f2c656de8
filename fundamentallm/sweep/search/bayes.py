"""Bayesian search: a model of the earlier runs suggests the next.

The model is a Gaussian process (gp_sampler.py), or Optuna's TPE (tpe_sampler.py) where that is
better. This module starts with the defaults, prepares the scores, and takes care that a suggestion
is possible and new. Measurements: docs/dev/search.md.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fundamentallm.sweep.file.distributions import Continuous
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.search.base import (
    OFF,
    Groups,
    IsPossible,
    PastRun,
    RandomSearch,
    ScoredRun,
    Values,
    key_of,
    keys_of,
)
from fundamentallm.sweep.search.tpe_sampler import TpeSampler

SAMPLERS = ("gp", "tpe")
GP_LONGEST = 200
"""Most runs for the Gaussian process; its time for a suggestion grows with their number."""
STARTS = 4
"""Runs before the Gaussian process, where nothing is known of the defaults."""


class Sampler(Protocol):
    """Model that suggests values."""

    def suggestions(self, runs: Sequence[ScoredRun], seed: int) -> Iterator[Values]:
        """Yield configurations, the best first; some may be impossible or known."""
        ...


class BayesSearch:
    """Bayesian search that makes its model anew for each suggestion, to earlier runs.

    So a resumed sweep suggests the same values as an uninterrupted one, with one run at a time;
    with several, it depends on which have ended.
    """

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        seed: int,
        is_possible: IsPossible,
        groups: Groups = (),
        defaults: Values | None = None,
        sampler: str = "gp",
        gp_longest: int | None = None,
        starts: int = STARTS,
        earlier: Sequence[PastRun] = (),
    ) -> None:
        """Set up the search.

        Args:
            parameters: All parameters of the sweep, with constants.
            seed: Seed of the sweep.
            is_possible: Test for values.
            groups: Result of `SearchSpace.together`.
            defaults: Values of the first run, if possible. The Gaussian process expects good values
                near them.
            sampler: One of SAMPLERS.
            gp_longest: Runs, earlier ones included, after which `tpe` replaces `gp`; None for
                never.
            starts: Runs before the Gaussian process: the defaults, and others at random.
            earlier: Runs of earlier sweeps, which count as those before the first run. Their values
                may be suggested again, so that this sweep's best can be as good as theirs.
        """
        self.starts, self.earlier = starts, earlier
        self.parameters, self.seed, self.is_possible = parameters, seed, is_possible
        self.groups, self.defaults = groups, defaults
        self.sampler, self.gp_longest = sampler, gp_longest
        self.fallback = RandomSearch(parameters, seed=seed, is_possible=is_possible)

    @property
    def size(self) -> int | None:
        """Return the number of configurations, if they can be listed."""
        return self.fallback.size

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the defaults first, unless an earlier run had them, then the sampler's choice."""
        if k == 0 and self.defaults is not None:
            is_known = key_of(self.defaults) in keys_of(self.earlier)
            if not is_known and self.is_possible(self.defaults):
                return self.defaults
        is_constant = all(parameter.is_constant for parameter in self.parameters)
        if is_constant or self.fallback.left(past_runs) == []:
            return self.fallback.suggest(k, past_runs)
        before, runs = keys_of(past_runs), scored([*self.earlier, *past_runs])
        first = None
        seed = random.Random(f"{self.seed}:{k}").getrandbits(32)
        for values in self.sampler_of(k).suggestions(runs, seed):
            if not self.is_possible(values):
                values = self._off_the_ends(values)
            if self.is_possible(values) and key_of(values) not in before:
                return values
            first = first or values
        near = self._nearest(first, before) if first else None
        return near if near is not None else self.fallback.suggest(k, past_runs)

    def sampler_of(self, k: int) -> Sampler:
        """Return the sampler of run `k`."""
        known = len(self.earlier) + k
        if self.sampler == "tpe" or (self.gp_longest is not None and known >= self.gp_longest):
            return TpeSampler(self.parameters, self.groups)
        # imports numpy, which `check` does not need
        from fundamentallm.sweep.search.gp_sampler import GpSampler

        return GpSampler(self.parameters, self.groups, self.defaults, self.starts)

    def _off_the_ends(self, values: Values) -> Values:
        """Move values at the end of a range slightly inside, for the end may be impossible."""
        moved = dict(values)
        for parameter in self.parameters:
            distribution = parameter.distribution
            if isinstance(distribution, Continuous):
                share = distribution.position(values[parameter.name])
                if not OFF <= share <= 1 - OFF:
                    moved[parameter.name] = distribution.quantile(min(max(share, OFF), 1 - OFF))
        return moved

    def _nearest(self, values: Values, before: Collection[Any]) -> Values | None:
        """Return new possible values that differ least from `values`, in one parameter.

        None if there are none. Values in `before` were tried: with the same seed, a run of the same
        values is the same run.
        """
        best: tuple[float, Mapping[str, Any]] | None = None
        for parameter in self.parameters:
            grid = parameter.distribution.grid()
            if parameter.is_constant or grid is None or len(grid) > 10_000:
                continue
            here = parameter.distribution.position(values[parameter.name])
            for value in grid:
                distance = abs(parameter.distribution.position(value) - here)
                if best is None or distance < best[0]:
                    changed = {**values, parameter.name: value}
                    if self.is_possible(changed) and key_of(changed) not in before:
                        best = distance, changed
        return best[1] if best is not None else None


def scored(past_runs: Sequence[PastRun]) -> list[ScoredRun]:
    """Return each run's values and score for the sampler; a failed run gets the worst score.

    If failed runs were left out, the sampler would suggest them again. With their own score, a loss
    of thousands would hide the differences of the others. It is used only if every run failed. A
    run in progress without a score has None.
    """
    good = [run.score for run in past_runs if run.score is not None and not run.failed]
    bad = [run.score for run in past_runs if run.score is not None and run.failed]
    worst = max(good or bad, default=None)
    scores: list[ScoredRun] = []
    for run in past_runs:
        if run.failed:
            if worst is not None:
                scores.append((run.values, worst))
        elif run.score is not None or run.running:
            scores.append((run.values, run.score))
    return scores
