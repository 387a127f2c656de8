"""W&B's own bayes as a process that answers each line of JSON with one line.

Runs in an environment of its own (`pip install sweeps==0.3.0`): that package needs an older numpy.
Input: {"sweep": ..., "runs": [[values, score or null], ...], "seed": n}. Output: the values.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np
import yaml
from sweeps import RunState, SweepRun, next_run

for line in sys.stdin:
    request = json.loads(line)
    np.random.seed(request["seed"])
    runs = [
        SweepRun(
            state=RunState.running if score is None else RunState.finished,
            config={name: {"value": value} for name, value in values.items()},
            summary_metrics={} if score is None else {"val_loss": score},
            history=[] if score is None else [{"val_loss": score}],
        )
        for values, score in request["runs"]
    ]
    suggested = next_run(yaml.safe_load(request["sweep"]), runs)
    values = {name: entry["value"] for name, entry in suggested.config.items()}
    print(json.dumps(values, default=lambda number: number.item()), flush=True)
