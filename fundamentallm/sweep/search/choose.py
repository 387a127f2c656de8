"""Choice of the search for a sweep. A new method or sampler is one file and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import PastRun, RandomSearch, Search, grid_search
from fundamentallm.sweep.search.bayes import GP_LONGEST, SAMPLERS, BayesSearch
from fundamentallm.sweep.search.racing import SeededSearch
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace

CHOICES = ("auto", *SAMPLERS, "random")


@dataclass(frozen=True)
class ChosenSearch:
    """Search of a sweep, with its name."""

    search: Search
    label: str
    """grid, random, gp, tpe, or list."""
    left_out: int = 0
    """Invalid configurations of the grid that are left out."""

    def used_up_before(self, run_cap: int | None) -> str:
        """Return a notice if the search has fewer configurations than `run_cap`; else ""."""
        size = self.search.size
        if isinstance(self.search, SeededSearch):
            return self.search.left_untried()
        if (
            self.label in ("grid", "list")
            or size is None
            or (run_cap is not None and run_cap <= size)
        ):
            return ""
        before = f"before its run_cap of {run_cap}" if run_cap else "although it has no run_cap"
        return f"only {size} different configurations exist; the sweep ends after them, {before}"


def is_bayes(sweep: SweepFile, sampler: str) -> bool:
    """Return whether the search that `sampler`, one of CHOICES, makes learns from runs."""
    if sweep.method == "grid" or sampler == "random":
        return False
    return sampler != "auto" or sweep.method == "bayes"


def choose_search(
    space: SearchSpace, *, seed: int, sampler: str = "auto", earlier: Sequence[PastRun] = ()
) -> ChosenSearch:
    """Return the search for `space.sweep`, which may give a configuration several seeds.

    Args:
        space: Search space of the sweep.
        seed: Seed of random and bayes.
        sampler: One of CHOICES; `auto` is the file's own method. For bayes it is a Gaussian
            process, or TPE where that is better: with early termination, or many runs.
        earlier: Runs of earlier sweeps that bayes learns from, in the parameters of this one.

    Raises:
        SweepError: A sampler is given for a grid, or no configuration is possible.
    """
    if isinstance(space, SeededSpace):
        first = {space.repeats_by: space.each_seed[0]}  # the only seed that the inner search knows
        known = [replace(run, values={**run.values, **first}) for run in earlier]
        chosen = choose_search(space.one_seed, seed=seed, sampler=sampler, earlier=known)
        return replace(chosen, search=SeededSearch(chosen.search, space))
    sweep = space.sweep
    if sweep.method == "grid":
        if sampler != "auto":
            raise SweepError(
                f"--sampler {sampler}: the sweep is a grid, which takes no sampler; remove the flag"
            )
        search, left_out = grid_search(sweep.parameters, is_possible=space.is_possible)
        return ChosenSearch(search, "grid", left_out)
    groups = space.together()
    for names, possible in groups:
        if possible == []:
            raise SweepError(
                f"no values of {' and '.join(names)} in the sweep are possible together"
            )
    if not is_bayes(sweep, sampler):
        search = RandomSearch(sweep.parameters, seed=seed, is_possible=space.is_possible)
        return ChosenSearch(search, "random")
    gp_longest = None
    if sampler == "auto":
        long = len(earlier) + (sweep.run_cap or 0) > GP_LONGEST
        sampler = "tpe" if sweep.hyperband is not None or long else "gp"
        gp_longest = GP_LONGEST  # a sweep without run_cap may exceed it
    search = BayesSearch(
        sweep.parameters,
        seed=seed,
        is_possible=space.is_possible,
        groups=groups,
        defaults=space.defaults(),
        sampler=sampler,
        gp_longest=gp_longest,
        earlier=earlier,
    )
    return ChosenSearch(search, sampler)
