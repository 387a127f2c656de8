"""What `sweep`, `agent` and `refine` share: from what was typed to an engine at work."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.messages import notice, place, say, warn
from fundamentallm.cli.signals import StopSignals
from fundamentallm.cli.storage import (
    check_storage,
    remember_storage,
    storage_url,
    study_name,
)
from fundamentallm.cli.wandb_runs import PRELOADED, WandbRuns, remember_wandb
from fundamentallm.errors import FundamentallmError
from fundamentallm.files.atomic import read_file
from fundamentallm.machine.system_limits import open_enough_files
from fundamentallm.metrics import score_text
from fundamentallm.status import FAULTS, FINISHED, RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile, read_sweep
from fundamentallm.sweep.file.yaml_reader import LARGEST
from fundamentallm.sweep.store.definition import (
    SweepDefinition,
    differences,
    differences_in_file,
)
from fundamentallm.sweep.store.records import Run, RunIndex
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.cli.terminal_view import PlainView
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.engine import Engine
    from fundamentallm.sweep.search.choose import ChosenSearch
    from fundamentallm.sweep.search.space import SearchSpace
    from fundamentallm.sweep.store.run_store import RunStore

MOST_ON_A_GPU = 8  # runs; where more would pay, --workers-per-gpu says so


def means(
    workers: int | None, workers_per_gpu: int | None, device: str, runs: int | None
) -> Resources:
    """What this machine gives: its cores shared out among workers, or workers on each GPU.

    Without a number, the most that there can be; the first runs show how many there should be.
    `runs` is how many there will be at all, where that is known.

    Raises:
        UsageError: Both numbers are given.
    """
    from fundamentallm.machine.cores_and_memory import threads_each, usable_cores
    from fundamentallm.machine.gpus import visible_gpus
    from fundamentallm.sweep.engine.concurrency import Resources

    if workers is not None and workers_per_gpu is not None:
        raise click.UsageError("--workers and --workers-per-gpu exclude each other; give one")
    cores, gpus = usable_cores(), visible_gpus(device)
    fixed = workers is not None or bool(gpus and workers_per_gpu)
    if workers is None:
        workers = len(gpus) * (workers_per_gpu or MOST_ON_A_GPU) if gpus else cores
        workers = min(workers, runs or workers)
    return Resources(workers, threads_each(workers), device, gpus, fixed)


def begin(
    definition: SweepDefinition,
    folder: SweepFolder,
    storage: str | None,
    *,
    data: str | None,
    before: Callable[[], None] = lambda: None,
    **options: Any,
) -> int:
    """Make the sweep, or see that it is the one that is there; do `before`; and work.

    Raises:
        SweepError: Another sweep is there, or the same one begun otherwise.
    """
    from fundamentallm.sweep.store.run_store import RunStore

    open_enough_files()
    folder.check_is_ours()
    url = storage_url(storage, folder)
    check_storage(url, folder)
    search = definition.search()  # refused before anything is written: a grid without a point, say
    folder.create()
    sweep = definition.sweep
    store = RunStore(
        url, study_name(url, folder), folder.path,
        lease=definition.lease, goal=sweep.ranks_by.goal, wait=60 * options["wait"], notify=notice,
    )  # fmt: skip
    try:
        definition = replace(definition, id=uuid.uuid4().hex[:8])
        known = store.define(definition)
        is_local = url.startswith("sqlite")
        if known.id != definition.id and not is_local and not folder.file.exists():
            raise SweepError(
                f"the storage already has a sweep {folder.name}, created elsewhere; join it with "
                f"fundamentallm agent {folder.path}, or give another --output-dir"
            )
        if known.id != definition.id:
            changes = differences(known, definition)
            if changes:
                raise SweepError(
                    f"{folder.path}: this sweep was created with different settings: "
                    f"{'; '.join(changes)}; use the same ones (only run_cap may grow), or give "
                    "another --output-dir"
                )
            if not _holds(folder, sweep.text):
                check_file(folder, known.sweep)
            definition = definition.resuming(known)
            store.redefine(definition)
            store.set_lease(definition.lease)
        remember_storage(store, folder)  # which proves the file beside it a sweep's
        remember_wandb(definition, folder)
        folder.write_file(sweep.text)
        before()
        return work(definition, store, folder, search=search, data=data, **options)
    finally:
        store.close()


def check_file(folder: SweepFolder, sweep: SweepFile) -> None:
    """See that the folder's copy of `sweep` was not edited, or only its comments; put it there.

    Raises:
        SweepError: It was; what differs is named.
    """
    if not folder.file.exists():
        folder.write_file(sweep.text)
    if _holds(folder, sweep.text):
        return
    edited = read_sweep(folder.file, folder.path)
    if changes := differences_in_file(sweep, edited):
        file = place(folder.file)
        raise SweepError(
            f"{file}: edited since the sweep was created: {'; '.join(changes)}; agents run the "
            "sweep as it was created. Give this file to fundamentallm sweep with --output-dir "
            f"{place(folder.path)}, or delete it, and the next agent restores it"
        )


def _holds(folder: SweepFolder, text: str) -> bool:
    """Whether the sweep's copy of its file is this text."""
    try:
        return read_file(folder.file, LARGEST, root=folder.path) == text.encode()
    except OSError:
        return False


def engine_for(
    definition: SweepDefinition,
    store: RunStore,
    folder: SweepFolder,
    view: PlainView,
    search: ChosenSearch,
    *,
    means: Resources,
    data: str | None,
    retries: int,
    count: int | None,
    wait: float,
) -> Engine:
    """An engine for the sweep."""
    from fundamentallm.sweep.engine.engine import Engine, EngineSettings
    from fundamentallm.sweep.engine.job import JobMaker, TextSource
    from fundamentallm.sweep.engine.trial_process import ForkServer

    sweep, wandb = definition.sweep, None
    if definition.wandb:
        wandb = WandbRuns(
            sweep, folder, mode=definition.wandb, sweep_id=definition.wandb_sweep_id,
            prefix=definition.id,
        )  # fmt: skip
    if search.left_out:
        view.notify(f"impossible configurations left out of the grid: {search.left_out}")
    if used_up := search.used_up_before(sweep.run_cap):
        view.notify(used_up)
    texts = TextSource.of(definition, data)
    return Engine(
        store,
        folder,
        sweep,
        search.search,
        EngineSettings(means, retries=retries, count=count, wait=60 * wait),
        jobs=JobMaker(
            folder, definition.space, texts, means, patience=2 * store.lease, wandb=wandb
        ),
        executor=ForkServer(threads=means.threads, preload=PRELOADED if wandb else ()),
        observer=view,
    )


def work(
    definition: SweepDefinition,
    store: RunStore,
    folder: SweepFolder,
    *,
    search: ChosenSearch,
    data: str | None,
    workers: int | None,
    workers_per_gpu: int | None,
    retries: int,
    count: int | None,
    wait: float,
) -> int:
    """Run the sweep from here, show it, and return the exit code."""
    from fundamentallm.cli.terminal_view import view

    sweep, space = definition.sweep, definition.space
    with view(space, sweep.ranks_by) as shown, StopSignals() as signals, folder.held():
        most = [n for n in (sweep.run_cap, search.search.size, count) if n is not None]
        here = means(workers, workers_per_gpu, definition.device, min(most, default=None))
        engine = engine_for(
            definition, store, folder, shown, search,
            means=here, data=data, retries=retries, count=count, wait=wait,
        )  # fmt: skip
        runs = "runs" if engine.limit is None else f"{engine.limit} runs"
        searched = ", ".join(parameter.name for parameter in space.searched) or "nothing"
        at_most = "" if here.fixed or here.workers == 1 else "up to "
        shown.notify(
            f"sweep {folder.name}: {search.label} over {searched}, on "
            f"{definition.data_name or 'the texts that it names'}; {runs}, {at_most}{here.workers} "
            f"at a time with {here.threads} thread{'s' if here.threads > 1 else ''} each; folder "
            f"{place(folder.path)}"
        )
        told: list[str] = []

        def who_stops() -> str:
            if signals.name and not told:
                told.append(signals.name)
                shown.notify(
                    "stopping: runs in progress save their state; a second signal stops at once"
                )
            return signals.name

        stopped_by = engine.run(who_stops)
        folder.check_in_place()
    return _conclude(store.runs(), folder, space, stopped_by, engine.limit)


def _conclude(
    runs: RunIndex, folder: SweepFolder, space: SearchSpace, stopped_by: str, limit: int | None
) -> int:
    """Say what was found and what can be done next; the exit code."""
    from fundamentallm.cli.terminal_view import ended_as

    metric = space.sweep.ranks_by
    finished = runs.how_many(*FINISHED)
    failed = [run for run in runs if run.last.status in FAULTS]
    there = place(folder.path)
    best = runs.best(metric)
    if best is not None:
        where = place(folder.run(best.number).path)
        say(
            f"best {metric.name} {score_text(best.last.score)}: run {best.number + 1} of "
            f"{finished} finished{ended_as(runs)}; try: fundamentallm generate {where}"
        )
    for line in _failures(failed, len(runs)):
        say(line, err=True)
    left = f"; {limit - finished - len(failed)} runs left" if limit is not None else ""
    retries = f"--retries {max((run.retries_needed for run in failed), default=0)}"
    if finished:
        _write_report(folder, space, runs)
    if failed and not stopped_by.startswith("SIG") and (stopped_by or not finished):
        stopped = f"stopped by {stopped_by}{left}" if stopped_by else "no run has finished"
        say(
            f"{stopped}; fix the cause, then run: fundamentallm agent {there} {retries} "
            f"(to change --device, repeat the fundamentallm sweep command with {retries} and the "
            "flag after --)",
            err=True,
        )
        return exit_codes.FAILED
    if stopped_by:
        say(f"stopped by {stopped_by}{left}; resume with: fundamentallm agent {there}", err=True)
        return exit_codes.of_run(RunStatus.INTERRUPTED, stopped_by, in_sweep=True)
    if failed:
        say(
            f"{len(failed)} of {len(runs)} runs failed; see output.txt in their folders; "
            f"retry them with: fundamentallm agent {there} {retries}",
            err=True,
        )
        return exit_codes.FAILED
    return exit_codes.DONE


def _failures(failed: Sequence[Run], runs: int) -> list[str]:
    """Why runs failed: in one line if all of them did, and for the same reason."""
    if len(failed) == runs > 1 and len({run.last.note for run in failed}) == 1:
        return [f"all {runs} runs failed: {failed[0].last.note}"]
    return [f"run {run.number + 1} failed: {run.last.note}" for run in failed[:3]]


def _write_report(folder: SweepFolder, space: SearchSpace, runs: RunIndex) -> None:
    """Leave report.html in the sweep's folder; what goes wrong there is no fault of the sweep."""
    from fundamentallm.cli.report_file import NAME, write
    from fundamentallm.report.read_runs import read_results
    from fundamentallm.report.stored_runs import with_stored_runs

    try:
        results = with_stored_runs(read_results([folder.path]), folder, space, runs)
        write(results, folder.path / NAME)
    except FundamentallmError as error:
        warn(f"no report was written: {error}")
    else:
        there = place(folder.path)
        say(f"report: {place(folder.path / NAME)}; explain it with: fundamentallm explain {there}")
