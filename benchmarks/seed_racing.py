"""Regret of one seed a configuration, of always several, and of a race, at equal runs.

    python benchmarks/seed_racing.py --landscapes 40 [--runs 30 60] [--noise 0.01 0.03 0.1]

Each searches simulated trainings (simulated_training.py), one run after another, with noise between
seeds as given, in nats. Chosen is the configuration with the best mean, as in the report. Regret is
its loss minus the best possible one, without noise. Flattery is how much better its mean looks than
its loss without noise. Intervals are 95% of a paired bootstrap over
landscapes of the ratio of mean regrets to one seed each.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

from simulated_training import SimulatedTraining

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search, Values
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.racing import configurations_of, contenders
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace

SEEDS = 3
ONE, ALWAYS, RACE = "one seed each", f"always {SEEDS} seeds", f"race up to {SEEDS} seeds"


class Always:
    """Search that gives every configuration all seeds, one after another."""

    size = None

    def __init__(self, search: Search, space: SeededSpace) -> None:
        self.search, self.space = search, space

    def suggest(self, k: int, past_runs: Sequence[PastRun]) -> Values | None:
        """Return the next seed of the last configuration, or a new one."""
        name, (index, seed) = self.space.repeats_by, divmod(k, SEEDS)
        if seed:
            return {**past_runs[-1].values, name: seed}
        seen = [PastRun({**run.values, name: 0}, run.score, failed=run.failed) for run in past_runs]
        return self.search.suggest(index, seen)


def search_of(policy: str, sampler: str, runs: int, seed: int) -> tuple[Search, str]:
    """Return a search, and the name of the parameter that repeats a configuration."""
    text = SimulatedTraining.sweep.replace("run_cap: 30", f"run_cap: {runs}")
    space = SeededSpace(SearchSpace(parse_sweep(text, "simulated"), {}), SEEDS)
    if policy == RACE:
        return choose_search(space, seed=seed, sampler=sampler).search, space.repeats_by
    search = choose_search(space.one_seed, seed=seed, sampler=sampler).search
    return (search if policy == ONE else Always(search, space)), space.repeats_by


def study(policy: str, sampler: str, runs: int, noise: float, seed: int) -> tuple[float, ...]:
    """Return regret, flattery and seeds of the chosen configuration, and how many were tried."""
    landscape = SimulatedTraining(seed)
    search, name = search_of(policy, sampler, runs, seed)
    done: list[PastRun] = []
    for k in range(runs):
        values = search.suggest(k, done)
        if values is None:
            break
        if landscape.diverges(values):
            done.append(PastRun(values, landscape.train(values, k), failed=True))
        else:
            chance = random.Random(f"{seed} {sorted(values.items())}").gauss(0, noise)
            done.append(PastRun(values, landscape.loss(values) + chance))
    known = configurations_of(done, name)
    chosen = contenders(known)[0]
    flattery = landscape.loss(chosen.values) - chosen.mean
    return landscape.regret(chosen.values), flattery, len(chosen.losses), len(known)


def ratio_interval(ours: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the 95% interval of the ratio of means, bootstrapped over pairs of landscapes."""
    rng, ratios = random.Random(0), list[float]()
    for _ in range(2000):
        drawn = rng.choices(range(len(ours)), k=len(ours))
        ratios.append(sum(ours[i] for i in drawn) / sum(base[i] for i in drawn))
    ratios.sort()
    return ratios[50], ratios[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--landscapes", type=int, default=40)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--runs", type=int, nargs="+", default=[30, 60])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.01, 0.03, 0.1])
    parser.add_argument("--samplers", nargs="+", default=["gp", "random"])
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.landscapes)
    start = time.time()
    print("| search | runs | noise | policy | regret | ratio | flattery | seeds | tried |")
    print("| -- | -- | -- | -- | -- | -- | -- | -- | -- |")
    with ProcessPoolExecutor(arguments.processes) as pool:
        for sampler, runs, noise in product(arguments.samplers, arguments.runs, arguments.noise):
            base: list[float] = []
            for policy in (ONE, ALWAYS, RACE):
                found = list(pool.map(partial(study, policy, sampler, runs, noise), seeds))
                regrets = [each[0] for each in found]
                base = base or regrets
                low, high = ratio_interval(regrets, base)
                mean = statistics.fmean(regrets)
                ratio = f"{mean / statistics.fmean(base):.2f} ({low:.2f}-{high:.2f})"
                flattery, repeats, tried = (
                    statistics.fmean(each[i] for each in found) for i in (1, 2, 3)
                )
                print(
                    f"| {sampler} | {runs} | {noise} | {policy} | {mean:.3f} | "
                    f"{'' if policy == ONE else ratio} | {flattery:.3f} | {repeats:.1f} | "
                    f"{tried:.1f} |",
                    flush=True,
                )
    print(f"\n{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
