"""W&B's own bayes as a process: a line of JSON in, one out.

Runs in an environment of its own (`pip install sweeps==0.3.0`), because that package needs an
older numpy. In: {"sweep": ..., "runs": [[values, score or null], ...], "seed": n}; out: values.
"""

import json
import sys
import warnings

warnings.simplefilter("ignore")

import numpy as np
import yaml
from sweeps import RunState, SweepRun, next_run

for line in sys.stdin:
    asked = json.loads(line)
    np.random.seed(asked["seed"])
    runs = [
        SweepRun(
            state=RunState.running if score is None else RunState.finished,
            config={name: {"value": value} for name, value in values.items()},
            summary_metrics={} if score is None else {"val_loss": score},
            history=[] if score is None else [{"val_loss": score}],
        )
        for values, score in asked["runs"]
    ]
    suggested = next_run(yaml.safe_load(asked["sweep"]), runs)
    values = {name: entry["value"] for name, entry in suggested.config.items()}
    print(json.dumps(values, default=lambda number: number.item()), flush=True)
