"""Regret of each search after a number of runs, on simulated training.

    python benchmarks/search_quality.py --seeds 30 [--family training|programs|classics]
        [--wandb-python ENV/bin/python] [--json FILE]

Every method makes 30 runs on each of many landscapes: simulated trainings with good defaults
(simulated_training.py), or simulated programs with poor ones or classic functions, the middle first
(simulated_programs.py). Regret is the loss of the run that it picks minus the best possible loss,
in nats, without noise. Intervals are 95% of a
paired bootstrap over landscapes of the ratio to W&B's own bayes, or to random search without it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from simulated_programs import ClassicFunction, SimulatedProgram
from simulated_training import SimulatedTraining

from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.bayes import BayesSearch
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, Trial, past_runs

RUNS = 30
SHOWN = (10, 20, 30)
Suggest = Callable[[int, Sequence[Trial]], Values | None]
Landscape = SimulatedTraining | SimulatedProgram | ClassicFunction
FAMILIES: dict[str, Callable[[int], Landscape]] = {
    "training": SimulatedTraining,
    "programs": SimulatedProgram,
    "classics": ClassicFunction,
}
Make = Callable[[Landscape, int, bool], Suggest]
"""Returns a search for a landscape with a seed, and whether the defaults come first."""


def space_of(landscape: Landscape) -> SearchSpace:
    return SearchSpace(parse_sweep(landscape.sweep, "simulated"), {}, is_ours=landscape.is_ours)


def ours(sampler: str, landscape: Landscape, seed: int, defaults: bool) -> Suggest:
    """Return our search. It sees the runs as our storage has them, diverged ones included."""
    space = space_of(landscape)
    metric = space.sweep.ranks_by
    search = choose_search(space, seed=seed, sampler=sampler).search
    if isinstance(search, BayesSearch) and not defaults:
        search.defaults = None

    def suggest(k: int, trials: Sequence[Trial]) -> Values | None:
        return search.suggest(k, past_runs([Run(each.run, (each,)) for each in trials], metric))

    return suggest


def optuna_default(landscape: Landscape, seed: int, defaults: bool) -> Suggest:
    """Return TPE as on Optuna's first page, with `values` as categories."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    fields = parse_sweep(landscape.sweep, "simulated").content["parameters"]

    def suggest(k: int, trials: Sequence[Trial]) -> Values:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed * 1000 + k))
        space = {}
        for name, entry in fields.items():
            if "values" in entry:
                space[name] = optuna.distributions.CategoricalDistribution(entry["values"])
            elif type(entry["min"]) is int:
                space[name] = optuna.distributions.IntDistribution(entry["min"], entry["max"])
            else:
                log = "distribution" in entry
                space[name] = optuna.distributions.FloatDistribution(
                    entry["min"], entry["max"], log=log
                )
        for run in trials:
            state = optuna.trial.TrialState.RUNNING if run.status == "running" else None
            study.add_trial(
                optuna.create_trial(
                    params=dict(run.values), distributions=space, value=run.score,
                    state=state or optuna.trial.TrialState.COMPLETE,
                )
            )  # fmt: skip
        return study.ask(fixed_distributions=space).params

    return suggest


def wandb_bayes(python: str, landscape: Landscape, seed: int, defaults: bool) -> Suggest:
    script = Path(__file__).with_name("wandb_bayes.py")
    process = subprocess.Popen(
        [python, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    pipe_in, pipe_out = process.stdin, process.stdout

    def suggest(k: int, trials: Sequence[Trial]) -> Values:
        runs = [[dict(run.values), run.score] for run in trials]
        print(
            json.dumps({"sweep": landscape.sweep, "runs": runs, "seed": seed * 1000 + k}),
            file=pipe_in, flush=True,
        )  # fmt: skip
        return json.loads(pipe_out.readline())

    return suggest


def study(make: Make, family: str, workers: int, defaults: bool, seed: int) -> list[float]:
    """Return the regret of the picked run after each of RUNS runs."""
    landscape = FAMILIES[family](seed)
    suggest = make(landscape, seed, defaults)
    first = space_of(landscape).defaults()
    clock = random.Random(f"durations {seed}")
    trials: list[Trial] = []
    in_flight: list[tuple[float, int]] = []  # end, run
    now, best, regrets = 0.0, (math.inf, math.inf), []
    while len(regrets) < RUNS:
        while len(in_flight) < workers and len(trials) < RUNS:
            k = len(trials)
            values = first if defaults and k == 0 else suggest(k, trials)
            assert values is not None
            trials.append(Trial(k, k, values, RunStatus.RUNNING, ""))
            in_flight.append((now + clock.uniform(0.8, 1.2), k))
        now, k = min(in_flight)
        in_flight.remove((now, k))
        values = trials[k].values
        score = landscape.train(values, k)
        status = RunStatus.DIVERGED if score >= landscape.guess else RunStatus.DONE
        guess = landscape.guess if landscape.is_ours else None
        trials[k] = replace(trials[k], status=status, score=score, guess=guess)
        best = min(best, (score, landscape.regret(values)))
        regrets.append(best[1])
    return regrets


def ratio_interval(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Return the 95% interval of the ratio of medians, bootstrapped over pairs of landscapes."""
    rng = random.Random(0)
    ratios = []
    for _ in range(2000):
        drawn = rng.choices(range(len(ours)), k=len(ours))
        medians = (statistics.median([each[i] for i in drawn]) for each in (ours, theirs))
        ratios.append(next(medians) / next(medians))
    ratios.sort()
    return ratios[50], ratios[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--family", choices=list(FAMILIES), default="training")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--wandb-python", help="a Python with sweeps==0.3.0")
    parser.add_argument("--only", help="methods whose name contains this")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", dest="json_file")
    arguments = parser.parse_args()
    makers: dict[str, tuple[Make, int]] = {
        "ours, gp": (partial(ours, "gp"), 1),
        "ours, gp, 4 workers": (partial(ours, "gp"), 4),
        "ours, tpe": (partial(ours, "tpe"), 1),
        "Optuna's default": (optuna_default, 1),
        "random": (partial(ours, "random"), 1),
    }
    if arguments.wandb_python:
        makers["W&B's bayes"] = (partial(wandb_bayes, arguments.wandb_python), 1)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    results: dict[str, list[list[float]]] = {}
    for name, (make, workers) in makers.items():
        if arguments.only and arguments.only not in name:
            continue
        for defaults in (True, False):
            start = time.time()
            study_of_seed = partial(study, make, arguments.family, workers, defaults)
            with ProcessPoolExecutor(arguments.processes) as pool:
                label = f"{name}, defaults first" if defaults else name
                results[label] = list(pool.map(study_of_seed, seeds))
            print(f"# {label}: {time.time() - start:.0f} s", flush=True)
    landscapes = [FAMILIES[arguments.family](seed) for seed in seeds]
    defaults_regret = [each.regret(space_of(each).defaults()) for each in landscapes]
    peer = "W&B's bayes" if "W&B's bayes" in results else "random"
    report(results, defaults_regret, peer, len(seeds))
    if arguments.json_file:
        content: dict[str, Any] = {
            "regret": results,
            "defaults": defaults_regret,
            "seeds": list(seeds),
        }
        Path(arguments.json_file).write_text(json.dumps(content))


def report(
    results: dict[str, list[list[float]]], defaults_regret: list[float], peer: str, count: int
) -> None:
    print(f"\nMedian regret in nats over {count} landscapes.\n")
    print(f"| search | @10 | @20 | @30 | @30, ratio to {peer} (95%) |\n|---|---|---|---|---|")
    print(f"| the defaults, one run | {statistics.median(defaults_regret):.3f} | | | |")
    for name, studies in results.items():
        cells = [f"{statistics.median([each[n - 1] for each in studies]):.3f}" for n in SHOWN]
        ratio = ""
        if peer in results:
            last = [[each[-1] for each in group] for group in (studies, results[peer])]
            low, high = ratio_interval(last[0], last[1])
            medians = [statistics.median(each) for each in last]
            ratio = f"{medians[0] / medians[1]:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {name} | {' | '.join(cells)} | {ratio} |")


if __name__ == "__main__":
    main()
