"""Several seeds a configuration: which run is next, a new configuration or a further seed.

The first part of a sweep tries each configuration with one seed. The rest is a race: a further seed
goes to the configuration with the best mean, until it has all of its seeds, and then to the one
that is likeliest to be better. Whoever is worse than the best by more than chance is out of the
race, as in t-race: Birattari, Stützle, Paquete and Varrentrapp, A racing algorithm for configuring
metaheuristics, GECCO 2002; López-Ibáñez et al., The irace package, Operations Research Perspectives
3 (2016). The test is the one by which `explain` judges the winner.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from fundamentallm.significance import judge_winner, pooled_noise
from fundamentallm.sweep.search.base import PastRun, Search, Values, key_of
from fundamentallm.sweep.search.seeds import SeededSpace

FIRST_TRIED = 0.75
"""Share of the runs that each try a new configuration before the race."""


@dataclass(frozen=True)
class Configuration:
    """A configuration with its runs, which differ in the seed alone."""

    values: Values
    """Values without the seed."""
    runs: tuple[PastRun, ...]
    positions: tuple[int, ...]
    """Positions of its runs among all past runs."""

    @property
    def scored(self) -> list[int]:
        """Return the positions of the runs that ended with a score."""
        pairs = zip(self.positions, self.runs, strict=True)
        return [position for position, run in pairs if _has_score(run)]

    @property
    def losses(self) -> list[float]:
        """Return the scores of the runs that ended with one; lower is better."""
        return [run.score for run in self.runs if _has_score(run) and run.score is not None]

    @property
    def mean(self) -> float:
        """Return the mean of the losses, of which there is at least one."""
        losses = self.losses
        return sum(losses) / len(losses)

    @property
    def has_diverged(self) -> bool:
        """Return whether a run diverged. One that failed by an error has no score."""
        return any(run.failed and run.score is not None for run in self.runs)


def _has_score(run: PastRun) -> bool:
    return run.score is not None and not run.running and not run.failed


def configurations_of(past_runs: Sequence[PastRun], seed: str) -> list[Configuration]:
    """Return the configurations of past runs, in the order of their first runs.

    Args:
        past_runs: All runs.
        seed: Name of the parameter that only repeats a configuration.
    """
    positions: dict[str, list[int]] = {}
    for position, run in enumerate(past_runs):
        positions.setdefault(key_of(_without(run.values, seed)), []).append(position)
    return [
        Configuration(
            _without(past_runs[found[0]].values, seed),
            tuple(past_runs[position] for position in found),
            tuple(found),
        )
        for found in positions.values()
    ]


def _without(values: Values, name: str) -> Values:
    return {each: value for each, value in values.items() if each != name}


def contenders(configurations: Sequence[Configuration]) -> list[Configuration]:
    """Return the configurations with a score that never diverged, the best mean first.

    If each diverged with a seed, all count. `Results.contenders` has the same rule.
    """
    scored = [each for each in configurations if each.losses]
    safe = [each for each in scored if not each.has_diverged] or scored
    return sorted(safe, key=lambda each: (each.mean, min(each.losses)))


def next_in_race(
    configurations: Sequence[Configuration], seeds: int, left: float
) -> Configuration | None:
    """Return the configuration that gets a further seed; None if none can change the ranking.

    Args:
        configurations: All configurations so far.
        seeds: Most runs of a configuration.
        left: Runs that are left. One may begin to overtake only if all of its seeds can follow.
    """
    ranked = contenders(configurations)
    if ranked and len(ranked[0].runs) < seeds:
        return ranked[0]
    rivals = (each for each in _rivals(ranked, configurations) if len(each.runs) < seeds)
    return next((each for each in rivals if seeds - len(each.runs) <= left), None)


def _rivals(
    ranked: Sequence[Configuration], configurations: Sequence[Configuration]
) -> Iterator[Configuration]:
    """Yield the configurations that may be better than the best, the likeliest first."""
    by_mean = sorted((each for each in configurations if each.losses), key=lambda each: each.mean)
    noise = pooled_noise([each.losses for each in by_mean])
    if noise is None:  # anyone may
        yield from ranked[1:]
    elif ranked:
        judged = judge_winner([each.losses for each in ranked], noise)
        for index in sorted(judged.inseparable, key=lambda i: -judged.p_values[i]):
            yield ranked[index + 1]


class SeededSearch:
    """Search that gives the configurations of another search further seeds.

    It keeps no state, as every search: past runs decide, also those in progress.
    """

    def __init__(self, search: Search, space: SeededSpace) -> None:
        """Set up the search.

        Args:
            search: Suggests configurations of `space.one_seed`.
            space: Search space with the seeds.
        """
        self.search, self.run_cap, self.seeds = search, space.sweep.run_cap, space.seeds
        self.name, self.each_seed = space.repeats_by, space.each_seed

    @property
    def size(self) -> int | None:
        """Return the most runs that there can be."""
        return None if self.search.size is None else self.seeds * self.search.size

    def tried_first(self, k: int) -> int:
        """Return how many configurations are tried before the race, as seen at run `k`.

        Without a run_cap they keep their share of the runs so far, unless all can be tried.
        """
        size, further = self.search.size, self.seeds - 1
        if size is not None and (self.run_cap is None or size + further <= self.run_cap):
            return size
        runs = self.run_cap or k + 1
        share = int(FIRST_TRIED * runs)
        return max(1, share if self.run_cap is None else min(share, runs - further))

    def left_untried(self) -> str:
        """Return a notice if `run_cap` does not allow every configuration of a list; else ""."""
        size = self.search.size
        if size is None or self.run_cap is None or (first := self.tried_first(0)) == size:
            return ""
        return (
            f"run_cap counts further seeds too: with {self.run_cap} runs, {first} of {size} "
            "configurations are tried before further seeds; raise or remove it to try all"
        )

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return a new configuration with the first seed, or a known one with its next seed."""
        known = configurations_of(past_runs, self.name)
        left = math.inf if self.run_cap is None else self.run_cap - k
        if len(known) < self.tried_first(k) and (values := self._new(known, past_runs)):
            return values
        if (found := next_in_race(known, self.seeds, left)) is not None:
            return self._next_seed(found)
        if left >= self.seeds:
            return self._new(known, past_runs)
        # Too few for another configuration: the closest to the best that has not all of its seeds.
        others = (each for each in contenders(known) if len(each.runs) < self.seeds)
        return next(map(self._next_seed, others), None)

    def _next_seed(self, configuration: Configuration) -> Values:
        taken = {run.values[self.name] for run in configuration.runs}
        seed = next(each for each in self.each_seed if each not in taken)
        names = configuration.runs[0].values  # in the order of the parameters
        return {n: seed if n == self.name else value for n, value in names.items()}

    def _new(self, known: Sequence[Configuration], past_runs: Sequence[PastRun]) -> Values | None:
        """Return a new configuration; None if there is none left.

        The search sees every run, as if repeats had the same seed: they show it the noise. To stay
        away from a configuration that diverged with a seed, it sees all of its runs as failed.
        """
        if self.search.size is not None and len(known) >= self.search.size:
            return None
        risky = {position for each in known if each.has_diverged for position in each.positions}
        seen = [
            replace(
                run,
                values={**run.values, self.name: self.each_seed[0]},
                failed=run.failed or position in risky,
            )
            for position, run in enumerate(past_runs)
        ]
        return self.search.suggest(len(known), seen)
