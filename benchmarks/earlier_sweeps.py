"""Regret of a search that knows an earlier sweep, and of one that does not.

    python benchmarks/earlier_sweeps.py --seeds 30

The earlier sweep is random, on the same simulated training (simulated_training.py). Regret is the
loss of the run that the new sweep picks minus the best possible loss, in nats, without noise.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from simulated_training import SimulatedTraining

from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import PastRun, Search
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace

EARLIER = 20
SHOWN = (5, 10, 20)


def simulated(search: Search, landscape: SimulatedTraining, count: int) -> list[PastRun]:
    """Return the runs of a sweep on a landscape."""
    runs: list[PastRun] = []
    for k in range(count):
        values = search.suggest(k, runs)
        assert values is not None
        score = landscape.train(values, k)
        failed = score >= landscape.guess
        runs.append(PastRun(values, min(score, landscape.guess), failed=failed))
    return runs


def regret(runs: Sequence[PastRun], landscape: SimulatedTraining) -> float:
    """Return the regret of the run with the best score."""
    return landscape.regret(min(runs, key=lambda run: run.score or 0.0).values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=30)
    found: dict[str, list[list[float]]] = {}
    for seed in range(parser.parse_args().seeds):
        landscape = SimulatedTraining(seed)
        space = SearchSpace(parse_sweep(landscape.sweep, "simulated"), {})
        random = choose_search(space, seed=1, sampler="random").search
        earlier = simulated(random, landscape, EARLIER)
        found.setdefault("the earlier sweep", []).append([regret(earlier, landscape)])
        for sampler in ("gp", "tpe"):
            for label, known in (("alone", ()), ("with the earlier sweep", earlier)):
                search = choose_search(space, seed=2, sampler=sampler, earlier=known).search
                runs = simulated(search, landscape, max(SHOWN))
                each = [regret(runs[:n], landscape) for n in SHOWN]
                found.setdefault(f"{sampler}, {label}", []).append(each)
    print(f"| search | {' | '.join(f'@{n}' for n in SHOWN)} |\n|---|---|---|---|")
    for label, regrets in found.items():
        medians = [statistics.median(values) for values in zip(*regrets, strict=True)]
        print(f"| {label} | {' | '.join(f'{each:.3f}' for each in medians)} |")


if __name__ == "__main__":
    main()
