"""W&B's own bayes and hyperband as a process that answers each line of JSON with one line.

Runs in an environment of its own (`pip install sweeps==0.3.0`): that package needs an older numpy.
Input: {"sweep": ..., "runs": [run, ...], "seed": n}; a run is [values, score or null], or
[values, scores, state]. Output: the next values. With "stop" in place of "seed": the indices of the
runs that hyperband stops.
"""

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

warnings.simplefilter("ignore")

import numpy as np
import yaml
from sweeps import RunState, SweepRun, next_run, stop_runs


def sweep_run(
    name: str, values: Mapping[str, Any], scores: Sequence[float], state: str
) -> SweepRun:
    """Return a run as W&B's search knows it."""
    return SweepRun(
        name=name,
        state=RunState(state),
        config={key: {"value": value} for key, value in values.items()},
        summary_metrics={"val_loss": scores[-1]} if scores else {},
        history=[{"val_loss": score} for score in scores],
    )


for line in sys.stdin:
    request = json.loads(line)
    runs: list[SweepRun] = []
    for values, score, *state in request["runs"]:
        scores = score if isinstance(score, list) else [] if score is None else [score]
        known = state[0] if state else "finished" if scores else "running"
        runs.append(sweep_run(str(len(runs)), values, scores, known))
    sweep = yaml.safe_load(request["sweep"])
    if "stop" in request:
        answer = [int(run.name) for run in stop_runs(sweep, runs)]
    else:
        np.random.seed(request["seed"])
        suggested = next_run(sweep, runs)
        answer = {name: entry["value"] for name, entry in suggested.config.items()}
    print(json.dumps(answer, default=lambda number: number.item()), flush=True)
