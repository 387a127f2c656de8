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
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.exit_codes import DONE, FAILED
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.sweep.store.sweep_folder import SweepFolder
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
        if len(runs) == 1:
            return _send(runs[0], wandb)
        return max(_send_one_of_many(run, wandb) for run in runs)


def _runs(path: Path) -> Sequence[EndedRun]:
    """Return the runs of a folder, at least one.

    Raises:
        FundamentallmError: The folder has no run of ours, or this user did not choose its project.
    """
    sweep, parent = SweepFolder(path), SweepFolder(path.absolute().parent)
    if sweep.exists:
        runs = [run for run in _runs_of_sweep(sweep) if _may_have_ended(run.folder)]
    elif parent.exists:
        runs = [run for run in _runs_of_sweep(parent) if run.folder.path.name == path.name]
    else:
        runs = [EndedRun(RunFolder(path), {}, {})]
    if not runs:
        raise RunFolderError(
            f"{display_path(path)}: no run that has ended was found; give the folder of a run, or "
            "of a sweep that was started with --wandb"
        )
    return runs


def _runs_of_sweep(sweep: SweepFolder) -> Iterator[EndedRun]:
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
        if folder.holds_a_run():
            yield EndedRun(folder, *wandb(run.number, run.values))


def _may_have_ended(folder: RunFolder) -> bool:
    try:
        return folder.has_ended()
    except FundamentallmError:  # shown when the run is sent
        return True


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
        sweep = folder.path.absolute().parent
        resume = f"fundamentallm train --output-dir {path} --resume"
        if SweepFolder(sweep).exists:
            resume = f"fundamentallm agent {display_path(sweep)}"
        raise RunFolderError(
            f"{path}: this run has not ended; resume it, which sends it too, with: {resume}"
        )


def _send_one_of_many(run: EndedRun, wandb: Any) -> int:
    """Send a run as `_send`, but only show an error of its folder: others have to be sent too."""
    try:
        return _send(run, wandb)
    except FundamentallmError as error:
        show(f"fundamentallm: {one_line(error)}", err=True)
        return error.exit_code


def _send(run: EndedRun, wandb: Any) -> int:
    """Send a run, show the outcome, and return the exit code.

    Raises:
        FundamentallmError: It cannot be read or has not ended, or its folder is in use.
    """
    folder, path = run.folder, display_path(run.folder.path)
    _check(folder)
    with _environment(run.environment), folder.held():
        if not run.options and (reason := wandb.why_not_trusted(folder)):
            warn(reason)
            return FAILED
        tracker = wandb.WandbTracker(folder, wandb.RunOptions(**run.options))
        summary = folder.read_summary()
        tracker.start(folder.read_config(), total_steps=0, step=0, facts=summary)
        tracker.finish(summary)
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
