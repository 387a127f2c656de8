"""Worker of a sweep, for `sweep`, `agent` and `refine`: from options to a running engine."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fundamentallm import exit_codes
from fundamentallm.cli.keeping import KeepingObserver, check_not_of_tuning, show_what_could_be_freed
from fundamentallm.cli.messages import display_path, notify, show, warn
from fundamentallm.cli.program_sweep import client_variables, remember_program, warm_script
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
from fundamentallm.metrics import runs_text, score_text
from fundamentallm.status import FAULTS, FINISHED, RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import SweepFile, read_sweep
from fundamentallm.sweep.file.yaml_reader import LARGEST
from fundamentallm.sweep.keep import RELEASE_SECONDS, Keep, Keeper
from fundamentallm.sweep.program.command import command_line
from fundamentallm.sweep.store.definition import (
    SweepDefinition,
    differences,
    differences_in_file,
)
from fundamentallm.sweep.store.records import Run, RunIndex, best_so_far, why_unranked
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.engine import Engine
    from fundamentallm.sweep.engine.job import JobMaker
    from fundamentallm.sweep.engine.observer import Observer
    from fundamentallm.sweep.engine.trainer_job import Reuse
    from fundamentallm.sweep.search.choose import ChosenSearch
    from fundamentallm.sweep.search.space import SearchSpace
    from fundamentallm.sweep.store.run_store import RunStore

MAX_WORKERS_PER_GPU = 8
TRAINER_FAILURES = 5
"""First failures in a row after which a worker stops, for our trainer."""
PROGRAM_FAILURES = 3
"""The same for another program, as W&B's agent does."""


def resources_here(
    workers: int | None, workers_per_gpu: int | None, device: str, runs: int | None
) -> Resources:
    """Return this machine's resources: cores divided among workers, or workers on each GPU.

    Without a number, as many workers as possible; the first runs show how many pay. `runs` is the
    number of runs, if known.

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
        workers = len(gpus) * (workers_per_gpu or MAX_WORKERS_PER_GPU) if gpus else cores
        workers = min(workers, runs or workers)
    return Resources(workers, threads_each(workers), device, gpus, fixed)


def start_sweep(
    definition: SweepDefinition,
    folder: SweepFolder,
    storage: str | None,
    *,
    data: str | None,
    reuse: Reuse | None = None,
    **options: Any,
) -> int:
    """Create the sweep, or resume the same one in its folder; then work.

    `reuse` returns earlier runs that the sweep's runs may continue from.

    Raises:
        SweepError: The folder holds another sweep, or one with different settings.
    """
    search = definition.search()  # may refuse, before anything is written
    with created_sweep(definition, folder, storage, minutes=options["wait"]) as (defined, store):
        if defined.earlier != definition.earlier:
            search = defined.search()
        return work(defined, store, folder, search=search, data=data, reuse=reuse, **options)


@contextmanager
def created_sweep(
    definition: SweepDefinition, folder: SweepFolder, storage: str | None, *, minutes: float = 0.0
) -> Iterator[tuple[SweepDefinition, RunStore]]:
    """Create the sweep, or open the same one in its folder: its definition and its store.

    Raises:
        SweepError: The folder holds another sweep, or one with different settings.
    """
    from fundamentallm.sweep.store.run_store import RunStore

    open_enough_files()
    folder.check_is_ours()
    url = storage_url(storage, folder)
    check_storage(url, folder)
    folder.create()
    sweep = definition.sweep
    store = RunStore(
        url, study_name(url, folder), folder.path,
        lease=definition.lease, goal=sweep.ranks_by.goal, wait=60 * minutes, notify=notify,
    )  # fmt: skip
    try:
        definition = replace(definition, id=uuid.uuid4().hex[:8])
        stored = store.define(definition)
        is_local = url.startswith("sqlite")
        if stored.id != definition.id and not is_local and not folder.file.exists():
            raise SweepError(
                f"the storage already has a sweep {folder.name}, created elsewhere; join it with "
                f"fundamentallm agent {folder.path}, or give another --output-dir"
            )
        if stored.id != definition.id:
            changes = differences(stored, definition)
            if changes:
                raise SweepError(
                    f"{folder.path}: this sweep was created with different settings: "
                    f"{'; '.join(changes)}; use the same ones (only run_cap may grow), or give "
                    "another --output-dir"
                )
            if not _is_unchanged(folder, sweep.text):
                check_file(folder, stored.sweep)
            definition = definition.resuming(stored)
            store.redefine(definition)
            store.set_lease(definition.lease)
        remember_storage(store, folder)
        remember_wandb(definition, folder)
        remember_program(definition, folder)
        folder.write_file(sweep.text)
        yield definition, store
    finally:
        store.close()


def check_file(folder: SweepFolder, sweep: SweepFile) -> None:
    """Check that the folder's copy of `sweep` differs only in comments; restore a missing one.

    Raises:
        SweepError: It was edited; the error names the differences.
    """
    if not folder.file.exists():
        folder.write_file(sweep.text)
    if _is_unchanged(folder, sweep.text):
        return
    edited = read_sweep(folder.file, folder.path)
    if changes := differences_in_file(sweep, edited):
        file = display_path(folder.file)
        raise SweepError(
            f"{file}: edited since the sweep was created: {'; '.join(changes)}; agents run the "
            "sweep as it was created. Give this file to fundamentallm sweep with --output-dir "
            f"{display_path(folder.path)}, or delete it, and the next agent restores it"
        )


def _is_unchanged(folder: SweepFolder, text: str) -> bool:
    """Return whether the folder's copy of the sweep file is this text."""
    try:
        return read_file(folder.file, LARGEST, root=folder.path) == text.encode()
    except OSError:
        return False


def engine_for(
    definition: SweepDefinition,
    store: RunStore,
    folder: SweepFolder,
    view: Observer,
    search: ChosenSearch,
    *,
    resources: Resources,
    data: str | None,
    retries: int,
    count: int | None,
    wait: float,
    **trainer: Any,
) -> Engine:
    """Return an engine for the sweep; `trainer` are options of `TrainerJobs`."""
    from fundamentallm.sweep.engine.engine import Engine, EngineSettings
    from fundamentallm.sweep.engine.program_job import ProgramJobs
    from fundamentallm.sweep.engine.trainer_job import TextSource, TrainerJobs
    from fundamentallm.sweep.engine.trial_process import (
        PROGRAM,
        TRAINER,
        WARM_PROGRAM,
        ForkServer,
    )
    from fundamentallm.sweep.program.script import preload_environment

    sweep, wandb = definition.sweep, None
    if definition.wandb and definition.program is None:
        wandb = WandbRuns(
            sweep, folder, mode=definition.wandb, sweep_id=definition.wandb_sweep_id,
            prefix=definition.id,
        )  # fmt: skip
    if search.left_out:
        view.notify(f"impossible configurations left out of the grid: {search.left_out}")
    if used_up := search.used_up_before(sweep.run_cap):
        view.notify(used_up)
    jobs: JobMaker
    environment: Mapping[str, str] = {}
    if definition.program is None:
        texts = TextSource.of(definition, data)
        jobs = TrainerJobs(
            folder, definition.space, texts, resources,
            hang_timeout=2 * store.lease, wandb=wandb, **trainer,
        )  # fmt: skip
        preload, failures = [*TRAINER, *(PRELOADED if wandb else ())], TRAINER_FAILURES
    else:
        script = warm_script(definition, view.notify)
        variables = client_variables(definition)
        jobs = ProgramJobs(
            folder, sweep, resources, definition.program,
            sweep_id=definition.id, wandb=variables, script_index=script and script.index,
        )  # fmt: skip
        preload, failures = PROGRAM, PROGRAM_FAILURES
        if script is not None:
            preload = WARM_PROGRAM
            environment = preload_environment(script, variables, resources.threads)
    settings = EngineSettings(
        resources, retries=retries, count=count, failures=failures, wait=60 * wait
    )
    executor = ForkServer(threads=resources.threads, preload=preload, environment=environment)
    return Engine(
        store, folder, sweep, search.search, settings, jobs=jobs, executor=executor, observer=view
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
    keep: str = Keep.ALL,
    reuse: Reuse | None = None,
) -> int:
    """Run the sweep from here, show it, and return the exit code.

    Raises:
        UsageError: `keep` is for our trainer, and the sweep runs another program.
    """
    from fundamentallm.cli.terminal_view import open_view

    sweep, space = definition.sweep, definition.space
    if keep != Keep.ALL and not space.is_ours:
        raise click.UsageError("--keep is for our trainer's checkpoints; leave it out")
    keeper = Keeper(folder, space, Keep(keep))
    if keep != Keep.ALL:
        check_not_of_tuning(folder)
        store.index.subscribe(keeper.note)
    with (
        open_view(space, sweep.ranks_by, count=count) as view,
        StopSignals() as signals,
        folder.held(),
    ):
        most = [n for n in (sweep.run_cap, search.search.size, count) if n is not None]
        resources = resources_here(
            workers, workers_per_gpu, definition.device, min(most, default=None)
        )
        engine = engine_for(
            definition, store, folder, KeepingObserver(view, keeper), search,
            resources=resources, data=data, retries=retries, count=count, wait=wait, reuse=reuse,
        )  # fmt: skip
        runs = planned_runs(engine.limit, space)
        searched = ", ".join(parameter.name for parameter in space.searched) or "nothing"
        at_most = "" if resources.fixed or resources.workers == 1 else "up to "
        view.notify(
            f"sweep {folder.name}: {search.label} over {searched}{_known(definition)}, "
            f"{_subject(definition)}; {runs}, "
            f"{at_most}{resources.workers} at a time with {resources.threads} "
            f"thread{'s' if resources.threads > 1 else ''} each; folder {display_path(folder.path)}"
        )
        notified: list[str] = []

        def stop_requested() -> str:
            if signals.name and not notified:
                notified.append(signals.name)
                doing = "programs get SIGINT"
                if space.is_ours:
                    doing = "runs in progress save their state"
                view.notify(f"stopping: {doing}; a second signal stops at once")
            return signals.name

        stopped_by = engine.run(stop_requested)
        folder.check_in_place()
        keeper.remove(RELEASE_SECONDS)
    code = _conclude(store.runs(), folder, space, stopped_by, engine.limit)
    if keep == Keep.ALL and space.is_ours:
        show_what_could_be_freed(folder, store.runs(), space)
    return code


def planned_runs(limit: int | None, space: SearchSpace) -> str:
    """Return how many runs a sweep has, in words; `limit` is the most, None if it has no end."""
    runs = "runs" if limit is None else runs_text(limit)
    if space.seeds == 1:
        return runs
    at_most = "at most " if may_end_early(limit, space) else ""
    return f"{at_most}{runs}, up to {space.seeds} seeds a configuration"


def may_end_early(limit: int | None, space: SearchSpace) -> bool:
    """Return whether a sweep may need fewer runs than its limit, as few seeds may be enough."""
    return space.seeds > 1 and limit is not None and limit != space.sweep.run_cap


def _known(definition: SweepDefinition) -> str:
    """Return how many runs of earlier sweeps the search knows, if any."""
    known = len(definition.earlier.runs)
    return f" with {runs_text(known)} of earlier sweeps" if known else ""


def _subject(definition: SweepDefinition) -> str:
    """Return what the runs of a sweep train on, or the program that they start."""
    if definition.program is not None:
        return f"each run starts `{command_line(definition.sweep)}`"
    return f"on {definition.data_name or 'the texts that it names'}"


def _conclude(
    runs: RunIndex, folder: SweepFolder, space: SearchSpace, stopped_by: str, limit: int | None
) -> int:
    """Print the results and the next steps; return the exit code."""
    from fundamentallm.cli.terminal_view import endings_note

    metric = space.sweep.ranks_by
    finished = runs.how_many(*FINISHED)
    failed = [run for run in runs if run.last.status in FAULTS]
    sweep_path = display_path(folder.path)
    best = best_so_far(runs, space)
    if best is not None:
        best_path = display_path(folder.run(best.runs[0].number).path)
        advice = f"try: fundamentallm generate {best_path}" if space.is_ours else f"see {best_path}"
        show(
            f"best {metric.name} {score_text(best.score)}: {best.who} of "
            f"{finished} finished{endings_note(runs)}; {advice}"
        )
    elif finished and (why := why_unranked(runs.statuses())):
        show(f"{sweep_path}: {why}", err=True)
    for line in _failures(failed, len(runs)):
        show(line, err=True)
    left = ""
    if limit is not None:
        at_most = "at most " if may_end_early(limit, space) else ""
        left = f"; {at_most}{runs_text(limit - finished - len(failed))} left"
    retries = f"--retries {max((run.retries_needed for run in failed), default=0)}"
    if finished:
        _write_report(folder, space, runs)
    if failed and not stopped_by.startswith("SIG") and (stopped_by or not finished):
        stopped = f"stopped by {stopped_by}{left}" if stopped_by else "no run has finished"
        flags = (
            f" (to change --device, repeat the fundamentallm sweep command with {retries} and the "
            "flag after --)"
        )
        show(
            f"{stopped}; fix the cause, then run: fundamentallm agent {sweep_path} {retries}"
            f"{flags if space.is_ours else ''}",
            err=True,
        )
        return exit_codes.FAILED
    if stopped_by:
        show(
            f"stopped by {stopped_by}{left}; resume with: fundamentallm agent {sweep_path}",
            err=True,
        )
        return exit_codes.of_run(RunStatus.INTERRUPTED, stopped_by, in_sweep=True)
    if failed:
        show(
            f"{len(failed)} of {len(runs)} runs failed; see output.txt in their folders; "
            f"retry them with: fundamentallm agent {sweep_path} {retries}",
            err=True,
        )
        return exit_codes.FAILED
    return exit_codes.DONE


def _failures(failed: Sequence[Run], runs: int) -> list[str]:
    """Return why runs failed: in one line if all failed for the same reason."""
    if len(failed) == runs > 1 and len({run.last.note for run in failed}) == 1:
        return [f"all {runs} runs failed: {failed[0].last.note}"]
    return [f"run {run.number + 1} failed: {run.last.note}" for run in failed[:3]]


def _write_report(folder: SweepFolder, space: SearchSpace, runs: RunIndex) -> None:
    """Write report.html to the sweep's folder; an error there only warns."""
    from fundamentallm.cli.report_file import REPORT_NAME, save_report
    from fundamentallm.report.read_runs import read_results
    from fundamentallm.report.stored_runs import with_stored_runs

    try:
        results = with_stored_runs(read_results([folder.path]), folder, space, runs)
        save_report(results, folder.path / REPORT_NAME)
    except FundamentallmError as error:
        warn(f"no report was written: {error}")
    else:
        sweep_path, report = display_path(folder.path), display_path(folder.path / REPORT_NAME)
        show(f"report: {report}; explain it with: fundamentallm explain {sweep_path}")
