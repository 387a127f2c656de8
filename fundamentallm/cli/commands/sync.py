"""`fundamentallm sync`: send to W&B what it lacks of runs that have ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click

from fundamentallm.cli.messages import display_path, show, warn
from fundamentallm.cli.options import PATH
from fundamentallm.cli.storage import storage_url, study_name
from fundamentallm.cli.wandb_runs import WandbRuns, with_allowed_wandb
from fundamentallm.errors import FundamentallmError
from fundamentallm.exit_codes import DONE, FAILED
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.sweep.store.sweep_folder import SweepFolder, run_folder_name
from fundamentallm.trackers.installed import MISSING, load_tracker

VARIABLES_OF_ANOTHER_RUN = ("WANDB_RUN_ID", "WANDB_RESUME", "WANDB_MODE")


class EndedRun(NamedTuple):
    """A run to send, with the variables and options under which it trained."""

    folder: RunFolder
    environment: Mapping[str, str]
    options: Mapping[str, Any]


@click.command()
@click.argument("folders", metavar="RUN_OR_SWEEP...", nargs=-1, required=True, type=PATH)
def sync(folders: Sequence[str]) -> int:
    """Send to W&B what it lacks of runs that have ended.

    RUN_OR_SWEEP is the folder of a run, or of a sweep with its runs. W&B keeps every row that it
    has, and gets no row twice. The model stays here.
    """
    wandb = load_tracker()
    if wandb is None:
        raise FundamentallmError(f"sync: {MISSING}")
    with _environment(dict.fromkeys(VARIABLES_OF_ANOTHER_RUN)):
        if (reason := wandb.why_unusable()) is not None:
            raise FundamentallmError(reason or "WANDB_MODE is disabled; unset it to send runs")
        runs = [run for folder in folders for run in _runs(Path(folder))]
        return max([_send(run, wandb) for run in runs], default=DONE)


def _runs(path: Path) -> Iterator[EndedRun]:
    """Yield the runs of a folder.

    Raises:
        FundamentallmError: The folder has no run of ours, or this user did not choose its project.
    """
    if SweepFolder(path).exists:
        yield from _runs_of_sweep(SweepFolder(path), only=None)
    elif SweepFolder(path.absolute().parent).exists:
        yield from _runs_of_sweep(SweepFolder(path.absolute().parent), only=path.name)
    else:
        folder = RunFolder(path)
        _check(folder)
        yield EndedRun(folder, {}, {})


def _runs_of_sweep(sweep: SweepFolder, only: str | None) -> Iterator[EndedRun]:
    from fundamentallm.sweep.store.run_store import read_study

    sweep.check_is_ours()
    url = storage_url(None, sweep)
    definition, runs = read_study(url, study_name(url, sweep))
    definition = with_allowed_wandb(definition, sweep, None)
    if definition.program is not None or not definition.wandb:
        why = "its runs were not sent to W&B" if definition.program is None else "its program logs"
        raise FundamentallmError(
            f"{display_path(sweep.path)}: {why}; send a log of W&B's client with wandb sync"
        )
    wandb = WandbRuns(
        definition.sweep,
        sweep,
        mode="online",
        sweep_id=definition.wandb_sweep_id,
        prefix=definition.id,
    )
    for run in runs:
        folder = sweep.run(run.number)
        if only is None and not (folder.wandb_id.exists() and folder.has_ended()):
            continue
        if only in (None, run_folder_name(run.number)):
            _check(folder)
            yield EndedRun(folder, *wandb(run.number, run.values))


def _check(folder: RunFolder) -> None:
    """Check that a folder has a run that has ended.

    Raises:
        RunFolderError: It has none, or files of others.
    """
    path = display_path(folder.path)
    if not folder.holds_a_run():
        raise RunFolderError(f"{path}: no run found; give the folder of a run or a sweep")
    folder.check_ownership()
    if folder.read_summary().get("program"):
        raise RunFolderError(
            f"{path}: a run of another program; send a log of W&B's client with wandb sync"
        )
    if not folder.has_ended():
        raise RunFolderError(
            f"{path}: this run has not ended; resume it, which sends it too, with: "
            f"fundamentallm train --output-dir {path} --resume"
        )


def _send(run: EndedRun, wandb: Any) -> int:
    """Send one run, show the outcome, and return the exit code."""
    folder, path = run.folder, display_path(run.folder.path)
    with _environment(run.environment), folder.held():
        if not run.options and (reason := wandb.why_not_trusted(folder)):
            warn(reason)
            return FAILED
        tracker = wandb.WandbTracker(folder, wandb.RunOptions(**run.options))
        summary = folder.read_summary()
        tracker.start(folder.read_config(), total_steps=0, step=0, facts=summary)
        tracker.finish(summary, preempted=False)
    if tracker.undelivered:
        show(f"{path}: {tracker.undelivered}", err=True)
        return FAILED
    show(f"{path}: W&B has the whole run")
    return DONE


@contextmanager
def _environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables, or remove those whose value is None; at the end, restore these only."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
