"""`fundamentallm refine`: the best configurations of a sweep again, longer, over seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import click

from fundamentallm.cli.messages import say
from fundamentallm.cli.options import PATH, worker_options
from fundamentallm.cli.storage import opened, storage_url
from fundamentallm.cli.sweep_texts import text_here
from fundamentallm.cli.worker import begin
from fundamentallm.config.fields import shown
from fundamentallm.metrics import score_text
from fundamentallm.status import RunStatus
from fundamentallm.sweep.file.sweep_file import parse_sweep
from fundamentallm.sweep.refine import NEAR, continue_from, distinct, finalists, refined_sweep
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
    """Train the best configurations of SWEEP longer, each with several seeds.

    Ends with a table of means and spreads, and a verdict on the winner. A run continues from its
    checkpoint where the learning-rate schedule allows it.
    """
    if (epochs is None) == (max_steps is None):
        raise click.UsageError("give either --epochs N or --max-steps N")
    coarse = SweepFolder(sweep)
    url = storage_url(storage, coarse)
    with opened(url, coarse, minutes=options["wait"]) as (definition, store):
        runs = store.runs()
    data = text_here(definition, data)
    fine = SweepFolder(output_dir or coarse.path.with_name(f"{coarse.name}-refined"))
    new, sources = _refined(definition, coarse, fine, runs, top, seeds, epochs, max_steps)
    if fine.file.exists():
        with opened(storage_url(storage, fine), fine, minutes=options["wait"]) as (begun, _):
            if _is_begun_otherwise(new, begun):
                say(
                    "resuming with the configurations that were best when this sweep was created",
                    err=True,
                )
                new = replace(new, space=begun.space, configurations=begun.configurations)
                sources = {}  # of other configurations

    def continue_checkpoints() -> None:
        went_on = 0
        for number, run in sources.items():
            changed = {k: v for k, v in new.configurations[number].items() if k != "data"}
            went_on += continue_from(coarse.run(run.number), fine.run(number), changed)
        if went_on:
            say(f"{went_on} of {len(new.configurations)} runs continue from their checkpoints")

    code = begin(new, fine, storage, data=data, before=continue_checkpoints, **options)
    _show(fine, storage_url(storage, fine))
    return code


def _refined(
    definition: SweepDefinition,
    coarse: SweepFolder,
    fine: SweepFolder,
    runs: Sequence[Run],
    top: int,
    seeds: int,
    epochs: int | None,
    max_steps: int | None,
) -> tuple[SweepDefinition, dict[int, Run]]:
    """Define the new sweep; and by number the runs that may continue, with their sources."""
    space, metric = definition.space, definition.sweep.ranks_by
    best, passed_over = distinct(finalists(runs, space, metric), space, top)
    if passed_over:
        say(
            f"{len(best)} configurations; left out: {passed_over} that differ from a better one by "
            f"less than {NEAR:.0%} of the searched range in every setting",
            err=True,
        )
    length = {"epochs": epochs or 1_000_000, "max_steps": max_steps or 0}
    asked: list[dict[str, Any]] = []
    sources: dict[int, Run] = {}
    for finalist in best:
        first = space.settings(finalist.runs[0].values).get("seed", 0)
        for seed in range(first, first + seeds):
            for run in finalist.runs:
                if space.settings(run.values).get("seed", 0) == seed:
                    sources[len(asked)] = run
            asked.append({**finalist.settings, **length, "seed": seed})
    text = refined_sweep(fine.name, asked, metric, coarse.name)
    new = replace(
        definition,
        space=SearchSpace(parse_sweep(text, f"{fine.name}/sweep.yaml"), {}),
        sampler="auto",
        wandb="",
        wandb_sweep_id="",
        configurations=tuple(asked),
    )
    return new, sources


def _is_begun_otherwise(new: SweepDefinition, begun: SweepDefinition) -> bool:
    """Whether other configurations were the best then, and nothing else differs."""
    asked, known = new.configurations, begun.configurations
    lengths = [[(p["epochs"], p["max_steps"]) for p in points] for points in (asked, known)]
    return asked != known and lengths[0] == lengths[1]


def _show(fine: SweepFolder, url: str) -> None:
    """The table and the verdict, if all runs have finished."""
    from fundamentallm.report.standings import Standing, sort_standings, verdict

    with opened(url, fine) as (definition, store):
        runs = store.runs()
    metric, asked = definition.sweep.ranks_by, definition.configurations
    varying = [n for n in asked[0] if n != "seed" and len({repr(p[n]) for p in asked}) > 1]
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.values[n] for n in varying), []).append(run)
    if len(runs) < len(asked) or not all(run.is_finished for run in runs):
        say("not all runs have finished, so there is no verdict yet", err=True)
        return
    labels = _labels(varying, list(groups))
    loss = loss_by(runs, metric)
    standings = [
        Standing(
            labels[values],
            tuple(metric.sign * loss(run, run.last.score or 0.0) for run in group if run.is_ranked),
            sum(run.last.status == RunStatus.DIVERGED for run in group),
        )
        for values, group in groups.items()
    ]
    say(f"\n{metric.name}: mean, standard deviation, range, seeds")
    for rank, each in enumerate(sort_standings(standings, metric), 1):
        if not each.scores:
            why = f"all {each.diverged} diverged" if each.diverged else "no score"
            say(f"{rank:>3}  {why}  {each.label}")
            continue
        low, high = min(each.scores), max(each.scores)
        say(
            f"{rank:>3}  {score_text(each.mean)}  {score_text(each.spread)}  "
            f"{score_text(low)} to {score_text(high)}  "
            f"{len(each.scores)}  {each.label}"
            f"{f'; {each.diverged} more diverged' if each.diverged else ''}"
        )
    say(verdict(standings, metric))


def _labels(names: list[str], every: list[tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    """What each configuration is called: as short as they can still be told apart."""

    def called(values: tuple[Any, ...], show: Callable[[Any], str]) -> str:
        pairs = zip(names, values, strict=True)
        return ", ".join(f"{name} {show(value)}" for name, value in pairs) or "the configuration"

    brief = {values: called(values, shown) for values in every}
    told_apart = len(set(brief.values())) == len(every)
    return brief if told_apart else {values: called(values, repr) for values in every}
