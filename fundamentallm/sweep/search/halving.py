"""Asynchronous successive halving: many short runs, and the best of them again, longer.

Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934, 2020.
There a promoted run continues; here it is a run of its own, and every run is compared only with
runs of its length. Whoever makes the jobs may let it continue from the shorter run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fundamentallm.sweep.search.base import PastRun, Search, Values, key_of


class SuccessiveHalving:
    """Search that promotes the best `1 / factor` of the runs of each length to the next length.

    It promotes as soon as enough runs of a length have ended, and never waits for all of them.
    """

    def __init__(
        self,
        search: Search,
        *,
        length: str,
        lengths: Sequence[int],
        factor: int,
        configurations: int,
    ) -> None:
        """Set up the search.

        Args:
            search: Suggests new configurations, without `length`; it sees the shortest runs.
            length: Name of the parameter that sets the length of a run.
            lengths: Its values, rising.
            factor: At each length, the best of so many runs is promoted.
            configurations: Runs of the shortest length.
        """
        self.search, self.length, self.lengths = search, length, tuple(lengths)
        self.factor, self.configurations = factor, configurations

    @property
    def size(self) -> int:
        """Return the most runs that there can be."""
        return sum(self.configurations // self.factor**rung for rung, _ in enumerate(self.lengths))

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return a run to promote, or a new configuration; None while neither is possible."""
        promoted = self._next_to_promote(past_runs)
        if promoted is not None:
            return promoted
        shortest = self._of_length(past_runs, 0)
        if len(shortest) >= self.configurations:
            return None
        values = self.search.suggest(len(shortest), shortest)
        return None if values is None else {**values, self.length: self.lengths[0]}

    def shorter(self, values: Values) -> Values | None:
        """Return the values of the run from which a run was promoted; None for the shortest."""
        rung = self.lengths.index(values[self.length])
        return {**values, self.length: self.lengths[rung - 1]} if rung else None

    def _next_to_promote(self, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the longest run that may be promoted now, at its next length."""
        for rung in reversed(range(len(self.lengths) - 1)):
            ended = [
                run
                for run in self._of_length(past_runs, rung)
                if run.failed or (run.score is not None and not run.running)
            ]
            allowed = len(ended) // self.factor
            longer = {key_of(run.values) for run in self._of_length(past_runs, rung + 1)}
            best = sorted((run for run in ended if not run.failed), key=lambda run: run.score or 0)
            for run in best[:allowed]:
                # An early promotion that was overtaken keeps its place, so the budget holds.
                if key_of(run.values) not in longer and len(longer) < allowed:
                    return {**run.values, self.length: self.lengths[rung + 1]}
        return None

    def _of_length(self, past_runs: Sequence[PastRun], rung: int) -> list[PastRun]:
        """Return the runs of a length, without it in their values."""
        found: list[PastRun] = []
        for run in past_runs:
            if run.values[self.length] == self.lengths[rung]:
                values = {name: each for name, each in run.values.items() if name != self.length}
                found.append(replace(run, values=values))
        return found
