"""Earlier sweeps that a new one's search learns from: `sweep --from`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os.path import normpath

import click

from fundamentallm.cli.messages import show
from fundamentallm.cli.result_sources import plain_address, read_sources, show_notes
from fundamentallm.cli.storage import storage_url, study_name
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.search.choose import is_bayes
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.earlier import EarlierRuns
from fundamentallm.sweep.store.sweep_folder import SweepFolder


def check_learns(definition: SweepDefinition) -> None:
    """Check that the sweep's search learns from runs.

    Raises:
        UsageError: It is a grid, or random.
    """
    sweep = definition.sweep
    if not is_bayes(sweep, definition.sampler):
        method = sweep.method if definition.sampler == "auto" else definition.sampler
        raise click.UsageError(
            f"--from needs a search that learns from runs, and {sweep.file} has method {method}; "
            "use method bayes, or leave --from out"
        )


def with_earlier_runs(
    definition: SweepDefinition, sources: Sequence[str], folder: SweepFolder, storage: str | None
) -> SweepDefinition:
    """Return the definition with the runs of `sources` that fit it; print how many do.

    A sweep that exists keeps the runs that it was created with: the sources are not read.

    Raises:
        FundamentallmError: A source cannot be read.
        SweepError: No run fits.
    """
    named = tuple(dict.fromkeys(normpath(plain_address(source)) for source in sources))
    if folder.exists:
        from fundamentallm.sweep.store.run_store import read_study

        url = storage_url(storage, folder)
        known, _ = read_study(url, study_name(url, folder))
        return replace(definition, earlier=replace(known.earlier, sources=named))
    from fundamentallm.report.earlier import usable_runs
    from fundamentallm.sweep.store.records import Run, past_runs

    found = []
    for source in named:
        results = read_sources([source], "")
        show_notes(results)
        found.append(usable_runs(replace(results, title=source), definition))
    trials = [trial for each in found for trial in each.trials]
    runs = [Run(number, (trial,)) for number, trial in enumerate(trials)]
    if not any(run.is_ranked for run in runs):
        lines = "; ".join(each.line for each in found)
        raise SweepError(f"--from: no run has a score that this sweep can use: {lines}")
    for each in found:
        show(each.line)
    past = past_runs(runs, definition.sweep.ranks_by)
    return replace(definition, earlier=EarlierRuns(named, tuple(past)))
