"""Read `Results` from a sweep on W&B, by its API alone: W&B's client is not needed."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import OWN_GROUP, innermost
from fundamentallm.errors import one_line
from fundamentallm.files.samples import Sample
from fundamentallm.metrics import finite
from fundamentallm.report.choices import with_choices
from fundamentallm.report.read_runs import NoAnswerError, ReportError
from fundamentallm.report.results import (
    Curve,
    Results,
    RunResult,
    assumed_goal_notes,
    choose_metric,
    missing_metric_note,
    plain_settings,
    plain_summary,
    score_of,
    unscored_notes,
)
from fundamentallm.report.wandb_download import WandbDownload, WandbRun
from fundamentallm.status import RunStatus, is_stopped_early
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile, parse_sweep
from fundamentallm.sweep.program.logged import numbers
from fundamentallm.sweep.program.logged import settings as flat_settings
from fundamentallm.trackers.wandb_api import WandbApi, WandbApiError, address_and_key
from fundamentallm.trackers.wandb_presentation import samples_of_page

TIMEOUT_SECONDS = 60
"""Time for one page, which may be large."""
MOST_SAMPLED = 6
"""Best runs whose last samples are read, with two requests each."""
SAMPLES = "samples"
SAMPLES_PATH = re.compile(r"media/(?:html/[\w-]+\.html|table/[\w-]+\.table\.json)")
LARGEST_SAMPLES = 1_000_000
READ: dict[str, tuple[int | None, dict[str, Curve]]] = {}
"""Number of rows, and curves, of runs read before, so that `report --watch` reads only new ones."""
STATES = {
    "finished": RunStatus.DONE,
    "running": RunStatus.RUNNING,
    "pending": RunStatus.UNFINISHED,
    "preempting": RunStatus.UNFINISHED,
    "preempted": RunStatus.INTERRUPTED,
    "killed": RunStatus.INTERRUPTED,
    "crashed": RunStatus.INTERRUPTED,
}
"""Statuses by W&B's state, for runs that logged none."""


def read_wandb_sweep(
    address: str, metric: str = "", *, progress: Callable[[str], None] = lambda text: None
) -> Results:
    """Read every run of a sweep on W&B, and the last samples of the best.

    If W&B stops answering, runs whose curves are missing have the scores of its summaries.

    Args:
        address: `ENTITY/PROJECT/SWEEP`.
        metric: Metric that compares runs; by default the sweep's, else `val_loss`.
        progress: Receives, again and again, how far the reading has come.

    Raises:
        ReportError: W&B does not answer, or has no such sweep, or the sweep has no run.
    """
    try:
        api = WandbApi(*address_and_key(), timeout=TIMEOUT_SECONDS)
        return _read(WandbDownload(api, address, progress), address, metric)
    except WandbApiError as error:
        reason = f"{error}"
        if error.missing:
            reason += "; check the address, and see wandb login"
        kind = NoAnswerError if error.temporary else ReportError
        raise kind(f"{address}: cannot be read from W&B: {reason}") from None


def _read(download: WandbDownload, address: str, metric: str) -> Results:
    sweep, notes = _sweep(download.sweep_file(), address)
    found = download.runs()
    if not found:
        raise ReportError(
            f"{address}: no run of this sweep has started; start one with wandb agent "
            f"{shlex.quote(address)}"
        )
    own = None if sweep is None else sweep.metric
    compared_by = choose_metric(metric, own)
    is_ours = any({OWN_GROUP, "data_sha256"} & set(run.config) for run in found)
    program = "" if is_ours else (sweep.program if sweep else "") or "another program"
    curves, unread = _read_curves(download, found)
    names = Counter(run.name for run in found)
    runs = [
        _run(
            run,
            f"{run.name} ({run.id})" if names[run.name] > 1 else run.name,
            run.path,
            compared_by,
            program,
            curves.get(run.id),
        )
        for run in found
    ]
    results = Results(
        address, compared_by, runs, sweep, notes, searched=_searched(sweep) if program else None
    )
    sampled = {run.location for run in results.ranked[:MOST_SAMPLED]}
    runs = [
        replace(ours, samples=_samples(download, run)) if ours.location in sampled else ours
        for ours, run in zip(runs, found, strict=True)
    ]
    if unread:
        ((reason, _),) = Counter(unread.values()).most_common(1)
        notes.append(
            f"the curves of {len(unread):,} of {len(runs):,} runs cannot be read from W&B "
            f"({reason}); W&B's summaries give their scores, if they have any"
        )
    if any(run.score is not None for run in runs):
        notes += assumed_goal_notes(compared_by, own)
    elif not unread:
        notes.append(missing_metric_note(runs, compared_by, sweep))
    notes += unscored_notes(runs)
    return replace(results, runs=with_choices(runs, sweep))


def _read_curves(
    download: WandbDownload, runs: Sequence[WandbRun]
) -> tuple[dict[str, dict[str, Curve]], dict[str, str]]:
    """Return the curves of each run by its id, and why those of others cannot be read."""

    def place(run: WandbRun) -> str:
        return f"{download.api.base_url}/{run.path}"

    curves: dict[str, dict[str, Curve]] = {}
    unread: dict[str, str] = {}
    for run in runs:
        rows, known = READ.get(place(run), (None, {}))
        if rows and rows == run.rows:
            curves[run.id] = known
    for run, answer in download.histories([run for run in runs if run.id not in curves], _curves):
        if isinstance(answer, WandbApiError):
            unread[run.id] = one_line(answer)
        else:
            curves[run.id] = answer
            READ[place(run)] = run.rows, answer
    return curves, unread


def _sweep(text: str, address: str) -> tuple[SweepFile | None, list[str]]:
    try:
        return parse_sweep(text, address), []
    except SweepError as error:
        return None, [f"the sweep file is not used: {one_line(error, 200)}"]


def _searched(sweep: SweepFile | None) -> list[str] | None:
    return None if sweep is None else [parameter.name for parameter in sweep.parameters]


def _run(
    run: WandbRun,
    name: str,
    location: str,
    metric: Metric,
    program: str,
    curves: Mapping[str, Curve] | None,
) -> RunResult:
    """Convert one run; W&B's own entries, which start with an underscore, are left out.

    Args:
        run: Run as W&B has it.
        name: Name that no other run has.
        location: Address of the run.
        metric: Metric that compares runs.
        program: Program of the sweep; empty for our trainer.
        curves: Curves by metric; None if they cannot be read.
    """
    logged = {key: value for key, value in run.summary.items() if key[:1] != "_"}
    if program:
        step = run.last_step if run.last_step >= 0 else None
        known = {"seconds": run.summary.get("_runtime"), "step": step, "program": program}
        summary = plain_summary({**known, "summary": numbers(logged)})
    else:
        summary = plain_summary(logged)
        if curves is None:
            best = {metric.name: summary.get(f"best_{metric.name}", summary.get(metric.name))}
            summary["summary"] = numbers({**logged, **best})
    own = str(summary.get("status", ""))
    status = own if own and run.state != "running" else STATES.get(run.state, run.state)
    status = next(
        (tag for tag in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE) if tag in run.tags), status
    )
    if is_stopped_early(status, summary.get("stopped_by")):
        status = RunStatus.STOPPED
    score = score_of(curves or {}, summary, status, metric)
    config = {key: value for key, value in run.config.items() if key[:1] != "_"}
    settings = plain_settings(flat_settings(config)) if program else _settings(config)
    return RunResult(name, status, settings, score, curves or {}, summary, (), location)


def _curves(rows: Iterable[Mapping[str, Any]]) -> dict[str, Curve]:
    """Return all curves by metric."""
    by_step: dict[str, dict[int, float]] = {}
    for row in rows:
        step = finite(row.get("_step"))
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


def _samples(download: WandbDownload, run: WandbRun) -> Sequence[tuple[int, Sample]]:
    """Read the last samples from the page, or older table, that the run's summary names, if any."""
    entry = run.summary.get(SAMPLES)
    path = str(entry.get("path")) if isinstance(entry, Mapping) else ""
    if not SAMPLES_PATH.fullmatch(path):
        return ()
    try:
        content = (download.file(run.id, path, LARGEST_SAMPLES) or b"").decode()
        if path.endswith(".html"):
            return samples_of_page(content)
        return [
            (int(step), Sample(str(prompt), float(temperature), str(text)))
            for step, prompt, temperature, text in json.loads(content)["data"]
        ]
    except (WandbApiError, LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return ()  # not there yet, or another program's
