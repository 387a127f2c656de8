"""Read `Results` from a sweep on W&B, by its public API."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import requests
import wandb
import yaml
from wandb.sdk.lib.service.service_connection import WandbApiFailedError

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import OWN_GROUP, innermost
from fundamentallm.errors import one_line
from fundamentallm.files.samples import Sample
from fundamentallm.report.choices import with_choices
from fundamentallm.report.read_runs import ReportError
from fundamentallm.report.results import (
    Curve,
    Results,
    RunResult,
    assumed_goal_notes,
    choose_metric,
    missing_metric_note,
    plain_settings,
    plain_summary,
    unscored_notes,
)
from fundamentallm.status import RunStatus, is_stopped_early
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile, parse_sweep
from fundamentallm.sweep.program.logged import numbers
from fundamentallm.sweep.program.logged import settings as flat_settings
from fundamentallm.sweep.store.records import summary_score

TIMEOUT_SECONDS = 30
RUNS_PER_PAGE = 100
STEPS_PER_PAGE = 10_000
"""Steps per request of a history; at most every tenth is logged."""
ERRORS = (wandb.Error, WandbApiFailedError, requests.RequestException, OSError, ValueError)
MOST_SAMPLED = 6
"""Best runs whose last samples are read, with one or two requests each."""
TABLE = "samples"
TABLE_PATH = re.compile(r"media/table/[\w-]+\.table\.json")
"""Only files of this name are requested, because the client writes under the server's name."""
MAX_TABLE_BYTES = 1_000_000
STATES = {
    "finished": RunStatus.DONE,
    "running": RunStatus.UNFINISHED,
    "pending": RunStatus.UNFINISHED,
    "preempting": RunStatus.UNFINISHED,
    "preempted": RunStatus.INTERRUPTED,
    "killed": RunStatus.INTERRUPTED,
    "crashed": RunStatus.INTERRUPTED,
}
"""Statuses by W&B's state, for runs that logged none."""


def read_wandb_sweep(address: str, metric: str = "") -> Results:
    """Read every run of a sweep on W&B, and the last samples of the best.

    Args:
        address: `ENTITY/PROJECT/SWEEP`.
        metric: Metric that compares runs; by default the sweep's, else `val_loss`.

    Raises:
        ReportError: W&B does not answer, or has no such sweep, or the sweep has no run.
    """
    entity, project, name = address.split("/")
    try:
        api = wandb.Api(timeout=TIMEOUT_SECONDS)
        content = dict(api.sweep(address).config)
        # Whole pages: what `sweep.runs` yields asks again for the settings of each run.
        found = list(
            api.runs(
                f"{entity}/{project}",
                filters={"sweep": name},
                order="+created_at",
                per_page=RUNS_PER_PAGE,
                lazy=False,
            )
        )
        sweep, notes = _sweep(content, address)
        own = None if sweep is None else sweep.metric
        compared_by = choose_metric(metric, own)
        is_ours = not found or any({OWN_GROUP, "data_sha256"} & set(run.config) for run in found)
        program = "" if is_ours else (sweep.program if sweep else "") or "another program"
        runs = [_run(run, compared_by, notes, program) for run in found]
        times = Counter(run.name for run in runs)
        runs = [
            replace(run, name=f"{run.name} ({wandb_run.id})") if times[run.name] > 1 else run
            for run, wandb_run in zip(runs, found, strict=True)
        ]
        results = Results(
            address, compared_by, runs, sweep, notes, searched=_searched(sweep) if program else None
        )
        sampled = {run.location for run in results.ranked[:MOST_SAMPLED]}
        runs = [
            replace(ours, samples=_samples(wandb_run)) if ours.location in sampled else ours
            for ours, wandb_run in zip(runs, found, strict=True)
        ]
    except ERRORS as error:
        reason = one_line(error, 200)
        raise ReportError(
            f"{address}: cannot be read from W&B ({reason}); see wandb login"
        ) from None
    if not runs:
        raise ReportError(
            f"{address}: no run of this sweep has started; start one with wandb agent"
        )
    if not any(run.score is not None for run in runs):
        notes.append(missing_metric_note(runs, compared_by, sweep))
    else:
        notes += assumed_goal_notes(compared_by, own)
    notes += unscored_notes(runs)
    return replace(results, runs=with_choices(runs, sweep))


def _sweep(content: Mapping[str, Any], address: str) -> tuple[SweepFile | None, list[str]]:
    try:
        return parse_sweep(yaml.safe_dump(dict(content), sort_keys=False), address), []
    except SweepError as error:
        return None, [f"the sweep file is not used: {one_line(error, 200)}"]


def _searched(sweep: SweepFile | None) -> list[str] | None:
    return None if sweep is None else [parameter.name for parameter in sweep.parameters]


def _run(run: Any, metric: Metric, notes: list[str], program: str) -> RunResult:
    """Convert one run; W&B's own entries, which start with an underscore, are left out.

    Args:
        run: Run of W&B's public API.
        metric: Metric that compares runs.
        notes: Receives what cannot be read.
        program: Program of the sweep; empty for our trainer.
    """
    curves: dict[str, Curve] = {}
    try:
        curves = _curves(run)
    except ERRORS as error:  # it was deleted meanwhile, say
        notes.append(f"{run.name}: its history cannot be read from W&B ({one_line(error)})")
    logged = {name: value for name, value in run.summary_metrics.items() if name[:1] != "_"}
    summary = _summary(run, program, logged) if program else plain_summary(logged)
    own = str(summary.get("status", ""))
    status = own if own and run.state != "running" else STATES.get(run.state, run.state)
    status = next(
        (tag for tag in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE) if tag in (run.tags or ())),
        status,
    )
    if is_stopped_early(status, summary.get("stopped_by")):
        status = RunStatus.STOPPED
    values = curves[metric.name].values if metric.name in curves else ()
    score = metric.best(values) if values else summary_score(summary, status, metric)
    config = {name: value for name, value in run.config.items() if name[:1] != "_"}
    settings = plain_settings(flat_settings(config)) if program else _settings(config)
    return RunResult(run.name, status, settings, score, curves, summary, (), "/".join(run.path))


def _summary(run: Any, program: str, logged: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary of another program's run, as a run's folder has it."""
    known = {"seconds": run.summary_metrics.get("_runtime"), "step": run.lastHistoryStep}
    return plain_summary({**known, "program": program, "summary": numbers(logged)})


def _curves(run: Any) -> dict[str, Curve]:
    """Return all curves by metric."""
    by_step: dict[str, dict[int, float]] = {}
    # What the client keeps may be short of the newest rows, also of a run that has ended since.
    for row in run.scan_history(page_size=STEPS_PER_PAGE, use_cache=False):
        step = row.get("_step")
        for name, value in numbers(row).items():
            if step is not None and name[:1] != "_":
                by_step.setdefault(name, {})[int(step)] = float(value)
    return {name: Curve.of(values) for name, values in by_step.items()}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under our names: flattened, without hyphens, parsed from text."""
    found: dict[str, Any] = {}
    for name, value in innermost(config):
        plain = name.replace("-", "_")
        if plain in HYPERPARAMETERS:
            with suppress(ConfigError):
                value = HYPERPARAMETERS[plain].parse(value)
            found.setdefault(plain, value)
        else:
            found.setdefault(name, value)
    return found


def _samples(run: Any) -> Sequence[tuple[int, Sample]]:
    """Read the last samples from the table that the run's summary names, if any."""
    table = run.summary_metrics.get(TABLE)
    path = str(table.get("path")) if isinstance(table, Mapping) else ""
    if not TABLE_PATH.fullmatch(path):
        return ()
    try:
        file = run.file(path)
        if file.name != path or file.size > MAX_TABLE_BYTES:
            return ()
        with tempfile.TemporaryDirectory() as folder:
            file.download(root=folder, replace=True)
            rows = json.loads(Path(folder, path).read_text("utf-8"))["data"]
        return [
            (int(step), Sample(str(prompt), float(temperature), str(text)))
            for step, prompt, temperature, text in rows
        ]
    except (*ERRORS, LookupError, TypeError, RecursionError):
        return ()  # not there yet, or another program's table
