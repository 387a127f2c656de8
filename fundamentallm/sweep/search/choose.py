"""Which search a sweep asks for. A new method or sampler is one file, and a line here."""

from __future__ import annotations

from dataclasses import dataclass

from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.search.base import RandomSearch, Search, grid_search
from fundamentallm.sweep.search.bayes import GP_LONGEST, SAMPLERS, BayesSearch
from fundamentallm.sweep.search.space import SearchSpace

CHOICES = ("auto", *SAMPLERS, "random")


@dataclass(frozen=True)
class ChosenSearch:
    """How a sweep's values are chosen."""

    search: Search
    label: str
    """grid, random, gp, tpe, or list."""
    left_out: int = 0
    """Points of the grid that cannot exist."""

    def used_up_before(self, run_cap: int | None) -> str:
        """A line that says so if a search that draws runs out of points; else nothing."""
        size = self.search.size
        if (
            self.label in ("grid", "list")
            or size is None
            or (run_cap is not None and run_cap <= size)
        ):
            return ""
        before = f"before its run_cap of {run_cap}" if run_cap else "although it has no run_cap"
        return f"only {size} runs are possible that differ; the sweep ends after them, {before}"


def choose_search(points: SearchSpace, *, seed: int, sampler: str = "auto") -> ChosenSearch:
    """The search for `points.sweep`.

    Args:
        points: The sweep, and which values go together.
        seed: Of random and bayes.
        sampler: One of CHOICES; `auto` is the file's own method, and for bayes the Gaussian
            process, or TPE where it does better: with early termination, or many runs.

    Raises:
        SweepError: The sampler does not go with a grid, or no point is possible.
    """
    sweep = points.sweep
    if sweep.method == "grid":
        if sampler != "auto":
            raise SweepError(f"--sampler {sampler}: the sweep is a grid; leave it out")
        search, left_out = grid_search(sweep.parameters, is_possible=points.is_possible)
        return ChosenSearch(search, "grid", left_out)
    groups = points.together()
    for names, possible in groups:
        if possible == []:
            raise SweepError(
                f"no values of {' and '.join(names)} that the sweep has can be a run together"
            )
    if sampler == "random" or (sampler == "auto" and sweep.method == "random"):
        search = RandomSearch(sweep.parameters, seed=seed, is_possible=points.is_possible)
        return ChosenSearch(search, "random")
    gp_longest = None
    if sampler == "auto":
        long = (sweep.run_cap or 0) > GP_LONGEST
        sampler = "tpe" if sweep.hyperband is not None or long else "gp"
        gp_longest = GP_LONGEST  # a sweep without run_cap may become as long
    search = BayesSearch(
        sweep.parameters,
        seed=seed,
        is_possible=points.is_possible,
        groups=groups,
        defaults=points.defaults(),
        sampler=sampler,
        gp_longest=gp_longest,
    )
    return ChosenSearch(search, sampler)
