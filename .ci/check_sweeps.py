"""Compares the bundled sweeps and our reading of the format with W&B's own `sweeps` package.

.ci/run runs it in an environment of its own: the package needs an older numpy than we do. Compares
the schema of every bundled file, the quantiles of every distribution, the order of a grid, and
hyperband's decisions on random histories. Then compares which files fail, warn or pass.
"""

import random
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).parent.parent))
warnings.simplefilter("ignore")  # pydantic warns about the package

from sweeps import (
    RunState,
    SweepRun,
    next_runs,
    schema_violations_from_proposed_config,
    stop_runs,
)
from sweeps.grid_search import grid_search_next_runs
from sweeps.hyperband_stopping import hyperband_stop_runs
from sweeps.params import HyperParameter

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.hyperband import Reached, read_hyperband
from fundamentallm.sweep.file.parameters import read_distribution, read_parameters
from fundamentallm.sweep.file.scheduler import check_scheduler
from fundamentallm.sweep.file.schema import DISTRIBUTIONS
from fundamentallm.sweep.file.sweep_file import examine_sweep
from fundamentallm.sweep.search.base import Grid

EXAMPLES = {
    "value": 7, "values": [3, "a", True], "probabilities": [0.2, 0.5, 0.3],
    "min": 2, "max": 9, "mu": 0.5, "sigma": 1.5, "a": 2.0, "b": 3.0,
}  # fmt: skip
checked = 0
mismatches: list[str] = []


def compare(subject: str, ours: object, theirs: object) -> None:
    global checked
    checked += 1
    if ours != theirs:
        mismatches.append(f"{subject}: ours {ours}, W&B's {theirs}")


files = sorted(Path("sweeps").glob("*.yaml"))
for file in files:
    violations = schema_violations_from_proposed_config(yaml.safe_load(file.read_text()))
    compare(f"{file}", [], violations)

for kind, (fields, _) in DISTRIBUTIONS.items():
    for q in (None, 2, 0.5) if "q" in fields else (None,):
        entry = {name: EXAMPLES[name] for name in fields if name in EXAMPLES}
        entry |= {"distribution": kind} | ({} if q is None else {"q": q})
        ours = read_distribution(entry, (), Diagnostics("x"))
        theirs = HyperParameter("p", dict(entry))
        for u in np.linspace(0.0005, 0.9995, 370).tolist():
            value, expected = ours.quantile(u), theirs.ppf(u)
            if isinstance(expected, np.ndarray | np.generic):
                expected = expected.item()
            same = value == expected if isinstance(expected, str) else np.isclose(value, expected)
            same &= isinstance(value, int) == isinstance(expected, int)
            compare(f"{entry} at {u}", True, bool(same) or (value, expected))

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
    configurations = Grid(read_parameters(parameters, Diagnostics("x")))
    their_runs = grid_search_next_runs([], {"method": "grid", "parameters": parameters}, n=10_000)
    theirs = []
    for run in their_runs[:-1] if their_runs[-1] is None else their_runs:
        flat: dict[str, object] = {}
        for name, entry in run.config.items():
            nested = entry["value"]
            inner = parameters[name].get("parameters")
            flat |= {f"{name}.{k}": v for k, v in nested.items()} if inner else {name: nested}
        theirs.append(repr(sorted(flat.items())))
    compare(f"grid {parameters}", [repr(sorted(each.items())) for each in configurations], theirs)

rng = random.Random(0)
for _ in range(3000):
    rule = {"type": "hyperband", "strict": rng.random() < 0.5, "eta": rng.choice([2, 3, 1.7, 49])}
    if rng.random() < 0.5:
        rule["min_iter"] = rng.randint(1, 4)
    else:
        rule |= {"max_iter": rng.randint(2, 30), "s": rng.randint(1, 4)}
    goal = rng.choice(["minimize", "maximize"])
    histories = [[rng.choice([1, 2, 3, 4.5]) for _ in range(rng.randint(0, 12))]
                 for _ in range(rng.randint(1, 9))]  # fmt: skip
    hyperband = read_hyperband(rule, Diagnostics("x"))
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
    reached = Reached(hyperband)
    for history in signed:
        reached.change([], history)
    ours = [str(i) for i, history in enumerate(signed) if hyperband.stops(history, reached)]
    compare(f"hyperband {rule} {goal} {histories}", ours, theirs)

HYPERBANDS = [
    "min_iter: 3", "max_iter: 27, s: 2", "max_iter: 27, s: 2.0", "max_iter: 27, s: 2.5",
    "max_iter: 27", "max_iter: 27.0, s: 2", "max_iter: 26.5, s: 2", "max_iter: 27, s: true",
    "min_iter: 3.0", "min_iter: 1.5", "min_iter: 0", "min_iter: true", "min_iter: 3, s: 2",
    "min_iter: 3, s: 2.5", "min_iter: 3, max_iter: 27", "min_iter: 3, max_iter: 27, s: 2",
    "min_iter: 1, eta: 1", "min_iter: 1, eta: '3'", "min_iter: 1, eta: 5000", "extra: 1",
    "min_iter: 1, eta: 5000.0", "min_iter: 1, eta: 1.0e+300", "min_iter: 1, extra: 1",
    "min_iter: 1, strict: 1", "max_iter: 2, s: 1", "max_iter: 27, s: 0",
]  # fmt: skip
METRICS = [
    "{name: m}", "m", "{goal: minimize}", "{name: m, goal: max}", "{name: m, impute: mean}",
    "{name: m, impute_while_running: mean}", "{name: m, impute_while_running: false}",
    "{name: m, target: best}", "{name: m, target: null}", "{name: m, unit: nats}",
]  # fmt: skip
PARAMETERS = [
    "+lr: {value: 1}", "a/b: {value: 1}", "^x: {values: [1, 2]}", "9x: {value: 1}", "7: {value: 1}",
    "x: {values: [1], note: 2}", "x: {min: 1, max: 5, step: 2}", "x: {min: true, max: 5}",
    "x: {min: 5, max: 1}", "x: {min: 5, max: 5}", "x: {values: []}", "x: {values: 3}",
    "x: {value: 1}", "x: {values: [3]}", "x: {values: [1, 1]}", "x: {value: 1}, x: {value: 2}",
    "x: {distribution: uniform, min: 0, max: 0.5}",
    "x: {distribution: int_uniform, min: 1.0, max: 3}",
    "x: {distribution: log_uniform_values, min: 0, max: 1}",
    "x: {distribution: q_uniform, min: 1, max: 3, q: 0}", "x: {distribution: normal, sigma: -1}",
    "a: {parameters: {x: {min: 0, max: 0.5}}}", "a: {parameters: {x: {value: 1}}, note: 1}",
]  # fmt: skip
SCHEDULERS = [
    "engine: optuna", "engine: ax", "engine: wandb", "engine: hyperopt", "",
    "engine: optuna, source: 3", "engine: optuna, optimizer: f", "engine: optuna, search_space: f",
    "engine: optuna, source: a.py, optimiser: f", "engine: optuna, terminator: f",
]  # fmt: skip
BESIDE_SCHEDULERS = [
    "{}", "early_terminate: {type: hyperband, min_iter: 1}",
    "controller: {type: local}", "controller: {type: cloud}",
]  # fmt: skip
START, METHOD = "program: train.py\nrun_cap: 5\n", "metric: {name: m}\nmethod: random\n"
RANGE = "parameters: {x: {min: 1, max: 9}}\n"
FILES = [f"{START}{METHOD}early_terminate: {{type: hyperband, {e}}}\n{RANGE}" for e in HYPERBANDS]
FILES += [f"{START}{METHOD}early_terminate: {e}\n{RANGE}" for e in ("null", "x", "{min_iter: 3}")]
for method in ("random", "bayes", "grid"):
    head = f"{START}method: {method}\n"
    FILES += [f"{head}metric: {metric}\n{RANGE}" for metric in METRICS]
    FILES += [f"{head}metric: {{name: m}}\nparameters: {{{each}}}\n" for each in PARAMETERS]
    FILES += [f"{head}{RANGE}", f"{head}metric: {{name: m}}\n"]
    stop = "early_terminate: {type: hyperband, min_iter: 1}\n"
    FILES += [f"{head}metric: {metric}\n{stop}{RANGE}" for metric in METRICS]
for top in ("count: 3", "settings: {a: 1}", "name: 3", "metrics: [{name: a}, {name: b}]"):
    FILES.append(f"{START}{METHOD}{top}\n{RANGE}")
FILES += [f"{START}method: {method}\n{RANGE}" for method in ("custom", "Random", "null")]
FILES.append(START + RANGE)

RUNS = [
    SweepRun(name=str(i), state=RunState.running, history=[{"m": float(i)}] * 30) for i in range(9)
]


def their_verdict(content: dict[str, object]) -> str:
    try:
        violations = schema_violations_from_proposed_config(content)
    except (ValueError, AssertionError, TypeError):
        violations = ["cannot be validated"]
    try:
        next_runs(content, [], n=1)
        if content.get("early_terminate") is not None:
            stop_runs(content, RUNS)
    except Exception:
        return "fails"
    return "warns" if violations else "runs"


for text in FILES:
    file = Path(tempfile.mkdtemp()) / "s.yaml"
    file.write_text(text)
    diagnostics = examine_sweep(file).diagnostics
    ours = "fails" if diagnostics.errors else "warns" if diagnostics.warnings else "runs"
    theirs = their_verdict(yaml.safe_load(text))
    # We may warn about files that W&B accepts silently.
    compare(text, ours, ours if (ours, theirs) == ("warns", "runs") else theirs)

ours = "engine: optuna, source: a.py, optimizer: bayes, search_space: configuration"
for fields in (ours, *SCHEDULERS):
    for method in ("custom", "bayes"):
        for beside in BESIDE_SCHEDULERS:
            text = f"method: {method}\nscheduler: {{{fields}}}\n"
            content = yaml.safe_load(f"{START}metric: {{name: m}}\n{RANGE}{text}")
            content |= yaml.safe_load(beside)
            found = Diagnostics("x", {})
            check_scheduler(content, found)
            violations = schema_violations_from_proposed_config(content)
            compare(f"{content}", bool(found.errors), bool(violations))

print(
    *mismatches[:20],
    f"{len(files)} sweep files; {checked} comparisons, {len(mismatches)} differ",
    sep="\n",
)
sys.exit(bool(mismatches or not files))
