"""Holds the bundled sweeps, and our reading of the format, against W&B's own `sweeps` package.

Run by .ci/run in an environment of its own, because that package needs an older numpy than we
do: the schema on every bundled file; every distribution's quantiles; the order of a grid; and
hyperband's decisions on random histories.
"""

import random
import sys
import warnings
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
warnings.simplefilter("ignore")  # pydantic's, about the package

from sweeps import RunState, SweepRun, schema_violations_from_proposed_config
from sweeps.grid_search import grid_search_next_runs
from sweeps.hyperband_stopping import hyperband_stop_runs
from sweeps.params import HyperParameter

from fundamentallm.sweep.findings import Findings
from fundamentallm.sweep.format import DISTRIBUTIONS
from fundamentallm.sweep.parameters import read_distribution, read_parameters
from fundamentallm.sweep.search import GridPoints
from fundamentallm.sweep.stopping import read_hyperband

EXAMPLES = {
    "value": 7, "values": [3, "a", True], "probabilities": [0.2, 0.5, 0.3],
    "min": 2, "max": 9, "mu": 0.5, "sigma": 1.5, "a": 2.0, "b": 3.0,
}  # fmt: skip
checked = 0
wrong: list[str] = []


def compare(what: str, ours: object, theirs: object) -> None:
    global checked
    checked += 1
    if ours != theirs:
        wrong.append(f"{what}: ours {ours}, W&B's {theirs}")


files = sorted(Path("sweeps").glob("*.yaml"))
for file in files:
    violations = schema_violations_from_proposed_config(yaml.safe_load(file.read_text()))
    compare(f"{file}", [], violations)

for kind, (fields, _) in DISTRIBUTIONS.items():
    for q in (None, 2, 0.5) if "q" in fields else (None,):
        entry = {name: EXAMPLES[name] for name in fields if name in EXAMPLES}
        entry |= {"distribution": kind} | ({} if q is None else {"q": q})
        ours = read_distribution(entry, (), Findings("x"))
        theirs = HyperParameter("p", dict(entry))
        for u in np.linspace(0.0005, 0.9995, 370).tolist():
            got, expected = ours.quantile(u), theirs.ppf(u)
            if isinstance(expected, np.ndarray | np.generic):
                expected = expected.item()
            same = got == expected if isinstance(expected, str) else np.isclose(got, expected)
            same &= isinstance(got, int) == isinstance(expected, int)
            compare(f"{entry} at {u}", True, bool(same) or (got, expected))

GRIDS = [
    {"b": {"values": [1, 2]}, "a": {"values": ["x", "y", "z"]}, "c": {"value": 0}},
    {"a": {"min": 1, "max": 4},
     "q": {"distribution": "q_uniform", "min": 0.1, "max": 0.7, "q": 0.1}},
    {"a": {"values": [1, 2, 1.0, True]}, "b": {"values": [[1, 2], {"k": 1}, None]}},
    {"m": {"parameters": {"z": {"values": [1, 2]}, "b": {"values": [3, 4]}}},
     "a": {"values": [5, 6]}},
    {"a": {"distribution": "q_uniform", "min": 0, "max": 9, "q": 2}},
]  # fmt: skip
for parameters in GRIDS:
    findings = Findings("x")
    points = GridPoints(read_parameters(parameters, findings))
    found = grid_search_next_runs([], {"method": "grid", "parameters": parameters}, n=10_000)
    theirs = []
    for run in found[:-1] if found[-1] is None else found:
        flat: dict[str, object] = {}
        for name, entry in run.config.items():
            nested = entry["value"]
            inner = parameters[name].get("parameters")
            flat |= {f"{name}.{k}": v for k, v in nested.items()} if inner else {name: nested}
        theirs.append(repr(sorted(flat.items())))
    compare(f"grid {parameters}", [repr(sorted(p.items())) for p in points], theirs)

dice = random.Random(0)
for _ in range(3000):
    rule = {"type": "hyperband", "strict": dice.random() < 0.5, "eta": dice.choice([2, 3, 1.7, 49])}
    if dice.random() < 0.5:
        rule["min_iter"] = dice.randint(1, 4)
    else:
        rule |= {"max_iter": dice.randint(2, 30), "s": dice.randint(1, 4)}
    goal = dice.choice(["minimize", "maximize"])
    histories = [[dice.choice([1, 2, 3, 4.5]) for _ in range(dice.randint(0, 12))]
                 for _ in range(dice.randint(1, 9))]  # fmt: skip
    hyperband = read_hyperband(rule, Findings("x"))
    if hyperband is None:
        continue
    config = {"method": "random", "metric": {"name": "m", "goal": goal}, "early_terminate": rule}
    runs = [
        SweepRun(name=str(i), state=RunState.running, history=[{"m": value} for value in history])
        for i, history in enumerate(histories)
    ]
    theirs = [run.name for run in hyperband_stop_runs(runs, config)]
    sign = 1 if goal == "minimize" else -1
    signed = [[sign * value for value in history] for history in histories]
    ours = [str(i) for i, history in enumerate(signed) if hyperband.stops(history, signed)]
    compare(f"hyperband {rule} {goal} {histories}", ours, theirs)

print(
    *wrong[:20], f"{len(files)} sweep files; {checked} comparisons, {len(wrong)} differ", sep="\n"
)
sys.exit(bool(wrong or not files))
