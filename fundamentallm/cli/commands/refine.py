"""`fundamentallm refine`: the best configurations of a sweep again, longer, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import click

from fundamentallm.cli.messages import display_path, show
from fundamentallm.cli.options import PATH, worker_options
from fundamentallm.cli.result_sources import refuse_wandb
from fundamentallm.cli.storage import open_sweep, storage_url
from fundamentallm.cli.sweep_texts import local_text
from fundamentallm.cli.worker import start_sweep
from fundamentallm.config.fields import shown
from fundamentallm.files.run_folder import REMOVED_BY, RunFolder
from fundamentallm.metrics import runs_text, score_text
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.refine import (
    NEAR,
    SEED,
    Finalist,
    clearly_worse,
    distinct,
    earlier_runs,
    finalists,
    refined_sweep,
    reuse_key,
)
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Run, loss_by
from fundamentallm.sweep.store.sweep_folder import SweepFolder


@click.command()
@click.argument("sweep", metavar="SWEEP", type=PATH)
@click.option(
    "--top",
    type=click.IntRange(1),
    default=4,
    metavar="N",
    help="Train the N best configurations.  [default: 4]",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    metavar="N",
    help="Train each for N epochs; give this or --max-steps.",
)
@click.option("--max-steps", type=click.IntRange(1), metavar="N", help="Train each for N steps.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    default=3,
    metavar="N",
    help="Train each with N seeds.  [default: 3]",
)
@click.option(
    "--output-dir",
    type=PATH,
    metavar="DIR",
    help="Write the new sweep to DIR.  [default: SWEEP-refined]",
)
@click.option("--data", type=PATH, metavar="DATA.TXT", help="Read the sweep's text from here.")
@worker_options
def refine(
    sweep: str,
    top: int,
    epochs: int | None,
    max_steps: int | None,
    seeds: int,
    output_dir: str | None,
    data: str | None,
    storage: str | None,
    **options: Any,
) -> int:
    """Train the best configurations longer, with several seeds.

    Ends with a table of means and spreads, and a verdict on the winner. A run continues from the
    shorter one where the learning-rate schedule allows it, with wsd from before the decay.
    """
    if (epochs is None) == (max_steps is None):
        raise click.UsageError("give either --epochs N or --max-steps N")
    if storage is None:
        refuse_wandb(sweep, "repeat the best with more seeds there")
    coarse = SweepFolder(sweep)
    url = storage_url(storage, coarse)
    with open_sweep(url, coarse, minutes=options["wait"]) as (definition, store):
        runs = store.runs()
    if not definition.space.is_ours:
        raise SweepError(
            f"{display_path(coarse.path)}: refine trains our own model; for another program, write "
            "the best values and several seeds into a sweep file"
        )
    data = local_text(definition, data)
    fine = SweepFolder(output_dir or coarse.path.with_name(f"{coarse.name}-refined"))
    found = finalists(runs, definition.space, definition.sweep.ranks_by)
    new = _refined(definition, found, coarse, fine, top, seeds, epochs, max_steps)
    if fine.file.exists():
        with open_sweep(storage_url(storage, fine), fine, minutes=options["wait"]) as (stored, _):
            if _differs_only_in_configurations(new, stored):
                show(
                    "resuming with the configurations that were best when this sweep was created",
                    err=True,
                )
                new = replace(new, space=stored.space, configurations=stored.configurations)
    earlier, space = earlier_runs(found, definition.space), new.space

    def reuse(run: Run) -> RunFolder | None:
        source = earlier.get(reuse_key(space.settings(run.values)))
        return None if source is None else coarse.run(source.number)

    sources = [earlier.get(reuse_key(settings)) for settings in new.configurations or ()]
    if gone := _without_checkpoint(coarse, sources):
        show(
            f"checkpoints of {runs_text(gone)} were {REMOVED_BY}: the longer ones start over",
            err=True,
        )
    code = start_sweep(new, fine, storage, data=data, reuse=reuse, **options)
    _show_standings(fine, storage_url(storage, fine))
    return code


def _without_checkpoint(coarse: SweepFolder, sources: Iterable[Run | None]) -> int:
    """Return how many runs cannot be continued, because their checkpoints were removed."""
    folders = (coarse.run(source.number) for source in sources if source is not None)
    return sum("last.pt" in folder.removed() and not folder.trunk.exists() for folder in folders)


def _refined(
    definition: SweepDefinition,
    found: Sequence[Finalist],
    coarse: SweepFolder,
    fine: SweepFolder,
    top: int,
    seeds: int,
    epochs: int | None,
    max_steps: int | None,
) -> SweepDefinition:
    """Return the new sweep's definition."""
    space, metric = definition.space, definition.sweep.ranks_by
    best, passed_over = distinct(found, space, top)
    if passed_over:
        show(
            f"{len(best)} configurations; left out: {passed_over} that differ from a better one by "
            f"less than {NEAR:.0%} of the searched range in every setting",
            err=True,
        )
    if worse := clearly_worse(best, found):
        show(worse, err=True)
    length = {"epochs": epochs or 1_000_000, "max_steps": max_steps or 0}
    configurations: list[dict[str, Any]] = []
    for finalist in best:
        first = space.settings(finalist.runs[0].values).get(SEED, 0)
        configurations += [
            {**finalist.settings, **length, SEED: seed} for seed in range(first, first + seeds)
        ]
    text = refined_sweep(fine.name, configurations, metric, coarse.name)
    return replace(
        definition,
        space=SearchSpace(parse_sweep(text, f"{fine.name}/sweep.yaml"), {}),
        sampler="auto",
        wandb="",
        wandb_sweep_id="",
        configurations=tuple(configurations),
    )


def _differs_only_in_configurations(new: SweepDefinition, stored: SweepDefinition) -> bool:
    """Return whether only the configurations differ, because others were best then."""
    configurations, stored_configurations = new.configurations, stored.configurations
    lengths = [
        [(p["epochs"], p["max_steps"]) for p in points]
        for points in (configurations, stored_configurations)
    ]
    return configurations != stored_configurations and lengths[0] == lengths[1]


def _show_standings(fine: SweepFolder, url: str) -> None:
    """Print the table and the verdict, if all runs have finished."""
    from fundamentallm.report.standings import Standing, sort_standings, verdict

    with open_sweep(url, fine) as (definition, store):
        runs = store.runs()
    metric, configurations = definition.sweep.ranks_by, definition.configurations
    varying = [
        n for n in configurations[0] if n != SEED and len({repr(p[n]) for p in configurations}) > 1
    ]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.values[n] for n in varying), []).append(run)
    if len(runs) < len(configurations) or not all(run.is_finished for run in runs):
        show("not all runs have finished, so there is no verdict yet", err=True)
        return
    labels = _labels(varying, list(groups))
    loss = loss_by(runs, metric)
    standings = [
        Standing(
            labels[values],
            tuple(metric.sign * loss(run, run.last.score or 0.0) for run in group if run.is_ranked),
            sum(run.last.status == RunStatus.DIVERGED for run in group),
            sum("reused_from" in fine.run(run.number).read_summary() for run in group),
        )
        for values, group in groups.items()
    ]
    show(f"\n{metric.name}: mean, standard deviation, range, seeds")
    for rank, each in enumerate(sort_standings(standings, metric), 1):
        if not each.scores:
            why = f"all {each.diverged} diverged" if each.diverged else "no score"
            show(f"{rank:>3}  {why}  {each.label}")
            continue
        low, high = min(each.scores), max(each.scores)
        show(
            f"{rank:>3}  {score_text(each.mean)}  {score_text(each.spread)}  "
            f"{score_text(low)} to {score_text(high)}  "
            f"{len(each.scores)}  {each.label}"
            f"{f'; {each.diverged} more diverged' if each.diverged else ''}"
            f"{f'; {each.reused} continued from a shorter run' if each.reused else ''}"
        )
    show(verdict(standings, metric))


def _labels(names: list[str], every: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """Return labels of the configurations, as short as they stay distinct."""

    def called(values: tuple[Any, ...], text_of: Callable[[Any], str]) -> str:
        pairs = zip(names, values, strict=True)
        return ", ".join(f"{name} {text_of(value)}" for name, value in pairs) or "the configuration"

    brief = {values: called(values, shown) for values in every}
    are_distinct = len(set(brief.values())) == len(every)
    return brief if are_distinct else {values: called(values, repr) for values in every}
