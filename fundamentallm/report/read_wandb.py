"""From a sweep on W&B to `Results`, by W&B's public API."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import requests
import wandb
import yaml

from fundamentallm.report.read_runs import ReportError
from fundamentallm.report.results import Curve, Results, RunResult
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.spec import Metric, Sweep, parse_sweep

SECONDS = 30
STATES = {"finished": "done", "running": "unfinished", "pending": "unfinished"}
STATES |= {"preempted": "interrupted", "preempting": "unfinished", "killed": "interrupted"}
"""W&B's words for how a run stands, where the run has left none of its own."""


def read_wandb_sweep(address: str, metric: str = "") -> Results:
    """Every run of a sweep on W&B.

    Args:
        address: `ENTITY/PROJECT/SWEEP`.
        metric: What runs are compared by; by default the sweep's, else `val_loss`.

    Raises:
        ReportError: W&B does not answer, or has no such sweep, or the sweep has no run.
    """
    try:
        found = wandb.Api(timeout=SECONDS).sweep(address)
        content, runs = dict(found.config), list(found.runs)
        sweep, notes = _sweep(content, address)
        chosen = Metric(metric) if metric else (sweep and sweep.metric) or Metric("val_loss")
        results = [_run(run, chosen) for run in runs]
    except (wandb.Error, requests.RequestException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ReportError(f"{address}: W&B does not show it ({reason}); see wandb login") from None
    if not results:
        raise ReportError(f"{address}: no run of this sweep has begun; start one with wandb agent")
    if not any(run.score is not None for run in results):
        notes.append(f"no run has logged {chosen.name}; choose another with --metric")
    return Results(address, chosen, results, sweep, notes)


def _sweep(content: Mapping[str, Any], address: str) -> tuple[Sweep | None, list[str]]:
    try:
        return parse_sweep(yaml.safe_dump(dict(content), sort_keys=False), address), []
    except SweepError as error:
        return None, [f"the sweep file is not used: {str(error).splitlines()[0]}"]


def _run(run: Any, metric: Metric) -> RunResult:
    """One run; W&B's own entries, which begin with an underscore, are left out."""
    points: dict[str, dict[int, float]] = {}
    for row in run.scan_history():
        step = row.get("_step")
        for name, value in row.items():
            good = isinstance(value, int | float) and math.isfinite(value)
            if good and step is not None and not name.startswith("_"):
                points.setdefault(name, {})[int(step)] = float(value)
    curves = {name: _curve(values) for name, values in points.items()}
    summary = {name: value for name, value in dict(run.summary).items() if name[:1] != "_"}
    own = str(summary.get("status", ""))
    status = own if own and run.state != "running" else STATES.get(run.state, run.state)
    status = next((tag for tag in ("diverged", "impossible") if tag in run.tags), status)
    if summary.get("stopped_by") == "wandb":
        status = "stopped"
    values = curves[metric.name].values if metric.name in curves else ()
    score = min(values, key=lambda value: metric.sign * value, default=None)
    settings = {name: value for name, value in run.config.items() if name[:1] != "_"}
    return RunResult(run.name, status, settings, score, curves, summary, (), "/".join(run.path))


def _curve(values: Mapping[int, float]) -> Curve:
    steps = sorted(values)
    return Curve(tuple(steps), tuple(values[step] for step in steps))
