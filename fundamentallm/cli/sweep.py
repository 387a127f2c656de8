"""`fundamentallm sweep`: a W&B sweep file on this machine, with no account and no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fundamentallm.cli.sweeping import (
    Facts,
    check,
    lease_seconds,
    read_fixed,
    storage_url,
    work,
)
from fundamentallm.sweep.changes import differences
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.methods import CHOICES
from fundamentallm.sweep.points import DATA, Points
from fundamentallm.sweep.spec import Sweep, read_sweep
from fundamentallm.sweep.sweep_folder import SweepFolder


def worker_options(command: Any) -> Any:
    """The flags that `sweep`, `agent` and `refine` have in common."""
    for option in (
        click.option("--count", type=click.IntRange(1), metavar="N", help="Run at most N more."),
        click.option(
            "--workers",
            type=click.IntRange(1),
            metavar="N",
            help="Runs at a time.  [default: one a core, or one a GPU]",
        ),
        click.option(
            "--workers-per-gpu", type=click.IntRange(1), metavar="N", help="Runs at a time per GPU."
        ),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=0,
            metavar="N",
            help="Attempts more for a run that fails by an error of its own.  [default: 0]",
        ),
        click.option(
            "--storage",
            metavar="URL",
            help="A PostgreSQL database, for workers on many machines; also FUNDAMENTALLM_STORAGE. "
            "[default: SQLite beside the runs]",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("file", metavar="SWEEP.YAML", type=click.Path())
@click.argument("words", metavar="[DATA.TXT] [-- FLAGS OF EVERY RUN]", nargs=-1)
@click.option("--output-dir", metavar="DIR", help="The sweep's folder.  [default: runs/NAME]")
@click.option("--seed", "sweep_seed", type=int, default=0, metavar="N", help="Of the search.")
@click.option(
    "--sampler", type=click.Choice(CHOICES), default="auto", help="In place of the file's method."
)
@worker_options
@click.pass_context
def sweep(
    ctx: click.Context,
    file: str,
    words: tuple[str, ...],
    output_dir: str | None,
    sweep_seed: int,
    sampler: str,
    count: int | None,
    workers: int | None,
    workers_per_gpu: int | None,
    retries: int,
    storage: str | None,
) -> int:
    """Run a W&B sweep file on this machine, or go on with it.

    Everything lies in the sweep's folder, runs/NAME, with a folder for every run. The same command
    again goes on where the sweep stopped. Flags after -- are given to every run.
    """
    data, flags = _split(words)
    read = read_sweep(file)
    fixed, device = read_fixed(read, flags)
    check(read, fixed)
    own_text = any(parameter.path[-1] == DATA for parameter in read.parameters)
    if own_text and data is not None:
        raise click.UsageError(f"{file} says which text to use; leave out {data}")
    folder = SweepFolder(output_dir or Path("runs") / _folder_name(read.name))
    facts: Facts = {
        "text": read.text,
        "file": file,
        "fixed": fixed,
        "device": device,
        "seed": sweep_seed,
        "sampler": sampler,
        "lease": lease_seconds(),
        **_text_facts(data, own_text),
    }
    return _start(read, facts, folder, storage, data=data, workers=workers,
                  workers_per_gpu=workers_per_gpu, retries=retries, count=count)  # fmt: skip


def _start(
    read: Sweep,
    facts: Facts,
    folder: SweepFolder,
    storage: str | None,
    **options: Any,
) -> int:
    """Make the sweep, or see that it is the one that is there, and work."""
    from fundamentallm.sweep.ledger import Ledger
    from fundamentallm.sweep.methods import make_method

    folder.check_is_ours()
    url = storage_url(storage, folder)
    # Refused before anything is written: a grid without a point, say.
    make_method(Points(read, facts["fixed"]), seed=facts["seed"], sampler=facts["sampler"])
    folder.create()
    goal = read.metric.goal if read.metric else "minimize"
    ledger = Ledger(url, folder.name, folder.path, lease=facts["lease"], goal=goal)
    try:
        known = ledger.facts
        if known and not folder.file.exists():
            raise SweepError(
                f"the storage has a sweep {folder.name} already, made elsewhere; join it by "
                f"fundamentallm agent {folder.path}, or give another --output-dir"
            )
        if known:
            changes = differences(known, facts)
            if changes:
                raise SweepError(
                    f"{folder.path}: this sweep was begun otherwise: {'; '.join(changes)}; go on "
                    "with it as it was (only run_cap may grow), or give another --output-dir"
                )
            facts = {**facts, "lease": known["lease"]}
        ledger.facts = facts
        folder.write_file(read.text)
        if not url.startswith("sqlite"):
            folder.storage.write_text(ledger.database.shown + "\n", "utf-8")
        return work(facts, ledger, folder, **options)
    finally:
        ledger.close()


def _split(words: tuple[str, ...]) -> tuple[str | None, list[str]]:
    """The text's path, if one was given, and the flags of every run."""
    rest = list(words)
    data = rest.pop(0) if rest and not rest[0].startswith("-") else None
    if rest and not rest[0].startswith("-"):
        raise click.UsageError(f"what is {rest[0]}? One text at most, then -- and flags")
    return data, rest


def _text_facts(data: str | None, own_text: bool) -> Facts:
    """Which text the sweep is on, so that going on with another is noticed."""
    if own_text:
        return {"data": None, "data_name": "", "data_sha256": ""}
    from fundamentallm.text import read_text

    text = read_text(data)
    path = None if data is None else str(Path(data).absolute())
    return {"data": path, "data_name": text.name, "data_sha256": text.sha256}


def _folder_name(name: str) -> str:
    import re

    return re.sub(r"[^\w.-]+", "-", name).strip(".-")[:60] or "sweep"
