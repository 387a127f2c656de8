"""Sweeps from Python and notebooks: run a function as a sweep, and read results."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fundamentallm.api.frames import frame
from fundamentallm.cli.messages import display_path
from fundamentallm.cli.program_sweep import client_variables
from fundamentallm.cli.result_sources import MOST_NOTES, read_sources
from fundamentallm.cli.storage import lease_seconds
from fundamentallm.cli.terminal_view import PlainView
from fundamentallm.cli.worker import PROGRAM_FAILURES, created_sweep, planned_runs
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.report.explain import HEADINGS
from fundamentallm.report.explain import explain as explain_results
from fundamentallm.report.tables import history, run_table
from fundamentallm.status import FAULTS
from fundamentallm.sweep.check.program import check_function
from fundamentallm.sweep.check.warnings import check_any
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import Metric, examine_mapping
from fundamentallm.sweep.search.seeds import SeededSpace
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.program_settings import ProgramSettings
from fundamentallm.sweep.store.sweep_folder import SweepFolder, sweep_folder_name

if TYPE_CHECKING:
    from fundamentallm.report.results import Results, RunResult
    from fundamentallm.sweep.engine.function_trial import FunctionExecutor

_running = threading.Lock()
"""Held while a sweep runs: environment and W&B's client belong to the whole process."""


class RunSweepError(FundamentallmError):
    """A function cannot be run as a sweep here, or failed in its first runs."""


def run_sweep(
    config: Mapping[str, Any],
    function: Callable[[], object],
    *,
    count: int | None = None,
    output_dir: str | Path | None = None,
    retries: int = 0,
    seeds: int = 1,
) -> SweepResults:
    """Run a W&B sweep of a Python function on this machine, or resume it; return its results.

    It means what `wandb.sweep(config)` and then `wandb.agent(id, function, count=count)` mean,
    with no account and no network. The function calls `wandb.init()`, reads `wandb.config` and
    logs the metric. It is called in this process and thread, once for each run, so what it changes
    stays changed. Everything is written to one folder, which `fundamentallm report`, `explain` and
    `next` read.

    After Ctrl-C, or a notebook's stop button, the same call resumes the sweep.

    Args:
        config: The sweep, as W&B's sweep file has it; `program` and `command` are ignored. Without
            a `name` it is named after the function.
        function: Function of one run, called without arguments.
        count: Most runs to start in this call; None for no limit.
        output_dir: Folder of the sweep; by default `runs/NAME`.
        retries: Retries of a run that failed, in this call or an earlier one.
        seeds: Most runs of a configuration, which then differ in the parameter `seed`. Further
            seeds are tried where they can change which configuration is best.

    Raises:
        SweepError: The config is wrong, or the folder holds another sweep.
        TypeError: `function` cannot be called.
        RunSweepError: A sweep or a W&B run is in progress in this process, or the first three runs
            failed.
        KeyboardInterrupt: You stopped it; the run in progress is stored as interrupted.
    """
    from fundamentallm.sweep.engine.function_trial import FunctionExecutor
    from fundamentallm.trackers.installed import load_client

    if not callable(function):
        raise TypeError(f"function: got {function!r}; give a function without arguments")
    with _only_sweep(), ThreadPoolExecutor(1, "run_sweep") as pool:
        definition = _definition(config, function, limited=count is not None, seeds=seeds)
        name = sweep_folder_name(definition.sweep.name)
        folder = SweepFolder(output_dir or Path("runs") / name)
        executor = FunctionExecutor(function)
        view = _Lines(definition.space, definition.sweep.ranks_by, sys.stderr)
        work = pool.submit(_work, definition, folder, executor, view, count=count, retries=retries)
        try:
            executor.call_all(work.done)
        finally:
            executor.interrupts.received |= not work.done()  # the engine then ends the sweep
            if (client := load_client()) is not None:
                client.end()
    stopped_by, failed = work.result()
    if executor.interrupts.received:
        view.notify("stopped by Ctrl-C; the same call resumes the sweep")
        raise KeyboardInterrupt
    if stopped_by:
        raise RunSweepError(
            f"{stopped_by}, the last with {failed[-1]}; see output.txt in {folder.path}/run-*, "
            "correct the function, and call run_sweep again with retries=1"
        )
    return _load(folder.path)


@contextmanager
def _only_sweep() -> Iterator[None]:
    """Hold this process's environment and W&B client, which belong to one sweep at a time.

    Raises:
        RunSweepError: Another sweep or a run of the user has them.
    """
    from fundamentallm.trackers.installed import load_client

    client = load_client()
    if client is not None and (run := client.active_run()):
        raise RunSweepError(
            f"the W&B run {run} is active in this process, and each run of a sweep is a W&B run "
            "of its own; call wandb.finish() first"
        )
    if not _running.acquire(blocking=False):
        raise RunSweepError(
            "a sweep is in progress in this process; wait for its end, or use another process"
        )
    try:
        yield
    finally:
        _running.release()


def load_sweep(folder: str | Path) -> SweepResults:
    """Read the results of a sweep, finished or not.

    Args:
        folder: Folder of the sweep, such as `runs/lr`.

    Raises:
        FundamentallmError: There is no sweep, or no run has started.
    """
    return _load(folder)


def _load(folder: str | Path) -> SweepResults:
    """Read the results, and warn the caller's caller of what is missing."""
    results = read_sources([str(folder)], "")
    for note in results.notes[:MOST_NOTES]:
        warnings.warn(one_line(note), stacklevel=3)
    return SweepResults(Path(folder), results)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep."""

    name: str
    """Name of its folder, such as `run-0001`."""
    status: str
    """`done`, `stopped` (early), `failed`, `interrupted`, `unfinished`, ..."""
    config: Mapping[str, Any]
    """Settings of the run, nested names joined by a dot."""
    score: float | None
    """Best value of the sweep's metric; None if it was never logged."""
    summary: Mapping[str, Any]
    """Last value of each metric, and what else the run has in its summary."""
    folder: Path


class SweepResults:
    """Results of a sweep; iterating yields its runs, each a `SweepRun`."""

    def __init__(self, folder: Path, results: Results) -> None:
        self.folder = folder
        """Folder of the sweep."""
        self._results = results

    def __iter__(self) -> Iterator[SweepRun]:
        return map(_run, self._results.runs)

    def __len__(self) -> int:
        return len(self._results.runs)

    @property
    def metric(self) -> str:
        """Name of the metric by which the sweep compares its runs."""
        return self._results.metric.name

    @property
    def best(self) -> SweepRun | None:
        """Run with the best score; None if no run has one.

        Where seeds were repeated, the best run of the configuration with the best mean.
        """
        best = self._results.best
        return None if best is None else _run(best)

    @property
    def runs(self) -> Any:
        """All runs: a pandas DataFrame, or a list of dicts without pandas.

        Columns are `run`, `status`, the settings that the sweep searches, the best value of the
        metric, and `seconds`. A setting with one of these names has
        `config.` before it. `fundamentallm export` writes the same table.
        """
        return frame(run_table(self._results).records())

    def history(self, run: str | int | SweepRun) -> Any:
        """Return what a run logged, by step: a pandas DataFrame, or a list of dicts without pandas.

        Args:
            run: A run, its name such as `run-0003`, or its number such as 3.

        Raises:
            KeyError: The sweep has no such run.
        """
        name = run.name if isinstance(run, SweepRun) else run
        name = f"run-{name:04}" if isinstance(name, int) else name
        for each in self._results.runs:
            if each.name == name:
                return frame(history(each))
        raise KeyError(f"{name}: no run of {self.folder}")

    def explain(self) -> str:
        """Return what the sweep found and how sure that is, as `fundamentallm explain` says it."""
        lines: list[str] = []
        heading = ""
        for claim in explain_results(self._results):
            if HEADINGS[claim.rule] != heading:
                heading = HEADINGS[claim.rule]
                lines.append(heading)
            lines.append(f"  {claim.says}")
        return "\n".join(lines) or "no run has finished, so there is nothing to explain yet"

    def __repr__(self) -> str:
        best = self._results.best
        score = score_text(self._results.best_score)
        found = f", best {self.metric} {score} ({best.name})" if best else ""
        return f"<SweepResults of {self.folder}: {len(self._results.runs)} runs{found}>"


def _run(run: RunResult) -> SweepRun:
    logged = run.summary.get("summary", {}) if run.program else run.summary
    last = {name: curve.values[-1] for name, curve in run.curves.items() if curve.values}
    summary = {**last, **logged}
    return SweepRun(run.name, str(run.status), run.settings, run.score, summary, Path(run.location))


def _definition(
    config: Mapping[str, Any], function: Callable[[], object], *, limited: bool, seeds: int
) -> SweepDefinition:
    """Return the definition of a sweep of a function; warn as `fundamentallm check` does.

    Raises:
        SweepError: The config is wrong; the message has a line for each error.
    """
    name = getattr(function, "__name__", type(function).__name__)
    sweep = examine_mapping({"name": name, **config}, "config")
    found = sweep.diagnostics
    check_any(sweep, found)
    check_function(sweep, found)
    if found.errors:
        raise SweepError("\n".join(each.text(found.file) for each in found.errors))
    for each in found.warnings:
        if not (limited and each.key == "method"):  # that the search never ends
            warnings.warn(each.text(found.file), stacklevel=3)
    space = SearchSpace(sweep, {}, is_ours=False)
    return SweepDefinition(
        SeededSpace(space, seeds) if seeds > 1 else space,
        device="auto",
        seed=0,
        sampler="auto",
        lease=lease_seconds(),
        program=ProgramSettings(function=name),
    )


def _work(
    definition: SweepDefinition,
    folder: SweepFolder,
    executor: FunctionExecutor,
    view: _Lines,
    *,
    count: int | None,
    retries: int,
) -> tuple[str, list[str]]:
    """Run the sweep's engine in this thread; return why it stopped early, and why runs failed.

    Raises:
        FundamentallmError: The sweep cannot be created, stored or resumed.
    """
    from fundamentallm.machine.cores_and_memory import usable_cores
    from fundamentallm.sweep.engine.concurrency import Resources
    from fundamentallm.sweep.engine.engine import Engine, EngineSettings
    from fundamentallm.sweep.engine.program_job import ProgramJobs

    assert definition.program is not None
    search = definition.search()  # may refuse, before anything is written
    resources = Resources(workers=1, threads=usable_cores())
    settings = EngineSettings(resources, retries=retries, count=count, failures=PROGRAM_FAILURES)
    with created_sweep(definition, folder, None) as (defined, store), folder.held():
        jobs = ProgramJobs(
            folder, defined.sweep, resources, definition.program,
            sweep_id=defined.id, wandb=client_variables(defined),
        )  # fmt: skip
        engine = Engine(
            store, folder, defined.sweep, search.search, settings,
            jobs=jobs, executor=executor, observer=view,
        )  # fmt: skip
        if used_up := search.used_up_before(defined.sweep.run_cap):
            view.notify(used_up)
        searched = ", ".join(parameter.name for parameter in defined.space.searched) or "nothing"
        view.notify(
            f"sweep {folder.name}: {search.label} over {searched}, each run calls "
            f"{definition.program.function}(); {planned_runs(engine.limit, defined.space)}; "
            f"folder {display_path(folder.path)}"
        )
        try:
            stopped_by = engine.run(executor.stop_requested)
        finally:
            executor.close()
        folder.check_in_place()
        return stopped_by, [run.last.note for run in store.runs() if run.last.status in FAULTS]


class _Lines(PlainView):
    """An `Observer` that prints a line at each start and end of a run, beside the function's."""

    def __init__(self, space: SearchSpace, metric: Metric, stream: TextIO) -> None:
        super().__init__(space, metric)
        self.stream = stream

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line, not into the output of the run."""
        print(printable(text), file=self.stream, flush=True)
