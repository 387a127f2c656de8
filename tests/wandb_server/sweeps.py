"""Commands for agents: start a run with the next configuration, stop a run, or exit.

A sweep with a `scheduler` gets its configurations from `wandb sweep-scheduler`.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import time
from typing import Any

from wandb_server.store import Agent, Run, Search, Store, Sweep, new_name

UNFINISHED = ("running", "pending")


def commands(
    store: Store, agent: Agent, alive: set[str], *, timeout: float
) -> list[dict[str, Any]]:
    """Return the answer to an agent's heartbeat.

    `alive` names the runs whose process still exists. The agent stops a run that was asked to stop
    and still runs after `timeout` seconds.
    """
    sweep = agent.sweep
    for run in agent.runs:
        if run.name not in alive and run.state == "pending":
            run.state = "crashed"  # its process ended without a report
    stop_early(sweep, store.search)
    overdue = [
        run
        for run in sweep.runs
        if run.name in alive and run.stopped and time.monotonic() - run.stopped_at > timeout
    ]
    if overdue or alive:
        return [{"type": "stop", "run_id": run.name, "logs": []} for run in overdue]
    if sweep.state in ("FINISHED", "CANCELED"):
        return [{"type": "exit", "logs": []}]
    if sweep.state == "PAUSED":
        return []
    sweep.state = "RUNNING"
    if sweep.queue:
        run = sweep.queue.pop(0)
        run.state, run.preempting, run.exit_code = "pending", False, None
        configuration = dict(run.config)  # with W&B's own entries
    elif "scheduler" in sweep.config:
        return []  # the scheduler may enqueue more
    else:
        suggested = store.search.suggest(sweep) if store.search else suggest(sweep)
        if suggested is None:
            if any(run.state in (*UNFINISHED, "preempting") for run in sweep.runs):
                return []  # a running one may be preempted and queued
            sweep.state = "FINISHED"
            return [{"type": "exit", "logs": []}]
        configuration = suggested
        run = store.run_or_new(sweep.project, new_name())
        run.sweep = sweep.name
        run.config = dict(configuration)
        sweep.runs.append(run)
    agent.runs.append(run)
    program = sweep.config.get("program")
    return [
        {"type": "run", "run_id": run.name, "program": program, "args": configuration, "logs": []}
    ]


def suggest(sweep: Sweep) -> dict[str, Any] | None:
    """Return the next configuration, `{name: {"value": ...}}`, or None at the end."""
    config = sweep.config
    if config.get("run_cap") and len(sweep.runs) >= config["run_cap"]:
        return None
    number = len(sweep.runs)
    if config["method"] == "grid":
        following = itertools.islice(grid(config["parameters"]), number, number + 1)
        values = next(following, None)
    else:  # bayes needs no model here: it may suggest any configuration
        rng = random.Random(f"{sweep.name}-{number}")
        values = {name: draw(spec, rng) for name, spec in config["parameters"].items()}
    return values and {name: {"value": value} for name, value in values.items()}


def enqueue(store: Store, sweep: Sweep, config: dict[str, Any], display_name: str | None) -> Run:
    """Add a run with a configuration that a scheduler has chosen; the next free agent starts it."""
    run = store.run_or_new(sweep.project, new_name())
    run.sweep, run.config, run.display_name = sweep.name, config, display_name or run.name
    sweep.runs.append(run)
    sweep.queue.append(run)
    return run


def grid(parameters: dict[str, Any]) -> Any:
    """Yield every configuration of a grid, in the order of the file."""
    axes = []
    for spec in parameters.values():
        if "parameters" in spec:
            axes.append(list(grid(spec["parameters"])))
        else:
            axes.append(spec["values"] if "values" in spec else [spec["value"]])
    for values in itertools.product(*axes):
        yield dict(zip(parameters, values, strict=True))


def draw(spec: dict[str, Any], rng: random.Random) -> Any:
    """Draw a value of one parameter."""
    if "parameters" in spec:
        return {name: draw(inner, rng) for name, inner in spec["parameters"].items()}
    if "value" in spec:
        return spec["value"]
    if "values" in spec:
        return rng.choice(spec["values"])
    kind = spec.get("distribution")
    low, high = spec["min"], spec["max"]
    if kind == "log_uniform_values":
        return math.exp(rng.uniform(math.log(low), math.log(high)))
    if kind == "int_uniform" or isinstance(low, int):
        return rng.randint(low, high)
    return rng.uniform(low, high)


def stop_early(sweep: Sweep, search: Search | None) -> None:
    """Apply W&B's hyperband as documented, with bands at `min_iter * eta ** k`.

    At each band a run continues if its metric is among the best 1/eta of all runs that reached it.
    A `search` applies its own.
    """
    rule = sweep.config.get("early_terminate")
    if not rule:
        return
    if search is not None:
        search.stop_early(sweep)
        return
    metric = sweep.config["metric"]["name"]
    sign = -1 if sweep.config["metric"].get("goal") == "maximize" else 1
    eta = rule.get("eta", 3)
    curves = {
        run: [sign * row[metric] for row in run.history if metric in row] for run in sweep.runs
    }
    band = rule["min_iter"]
    while any(len(curve) >= band for curve in curves.values()):
        reached = {run: min(curve[:band]) for run, curve in curves.items() if len(curve) >= band}
        best = sorted(reached.values())[: max(1, len(reached) // eta)]
        for run, value in reached.items():
            if run.state == "running" and value > best[-1] and not run.stopped:
                run.stop()
                run.stopped_early = True
        band *= eta


def finish(sweep: Sweep | None, run: Run, exit_code: int) -> None:
    """Record the end of a run that its process reported."""
    run.exit_code = exit_code
    if run.preempting and exit_code:
        run.state = "preempted"
        if sweep is not None:
            sweep.queue.append(run)
    elif exit_code:
        run.state = "killed" if run.stopped else "failed"
    else:
        run.state = "finished"


def cancel(sweep: Sweep) -> None:
    """Stop every unfinished run."""
    for run in sweep.runs:
        if run.state in UNFINISHED:
            run.stop()


def alive_runs(run_state: str | None) -> set[str]:
    """Return the runs that a heartbeat lists as running."""
    return {name for name, alive in json.loads(run_state or "{}").items() if alive}
