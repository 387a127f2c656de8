"""`fundamentallm agent`: one more worker for a sweep, from another terminal or another machine."""

from __future__ import annotations

from pathlib import Path

import click

from fundamentallm.cli.sweep import worker_options
from fundamentallm.cli.sweeping import storage_url, work
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.sweep_folder import SweepFolder


@click.command()
@click.argument("folder", metavar="SWEEP", type=click.Path())
@click.option("--data", metavar="DATA.TXT", help="Where the sweep's text lies on this machine.")
@worker_options
def agent(
    folder: str,
    data: str | None,
    count: int | None,
    workers: int | None,
    workers_per_gpu: int | None,
    retries: int,
    storage: str | None,
) -> int:
    """Work on a sweep that `fundamentallm sweep` has begun; SWEEP is its folder.

    On another machine SWEEP need not be there: its last name is the sweep's, and --storage says
    where the sweep is kept.
    """
    from fundamentallm.sweep.ledger import Ledger, read_facts

    place = SweepFolder(folder)
    url = storage_url(storage, place)
    if url.startswith("sqlite") and not place.database.exists():
        raise SweepError(
            f"{folder}: no sweep is there; give the folder that fundamentallm sweep has made, or "
            "--storage if the sweep was begun on another machine"
        )
    facts, goal = read_facts(url, place.name, place.path)
    if facts["data_sha256"]:
        data = _text(data, facts["data"], facts["data_sha256"])
    place.create()
    ledger = Ledger(url, place.name, place.path, lease=facts["lease"], goal=goal)
    try:
        if not place.file.exists():
            place.write_file(facts["text"])
        return work(
            facts, ledger, place, data=data, workers=workers,
            workers_per_gpu=workers_per_gpu, retries=retries, count=count,
        )  # fmt: skip
    finally:
        ledger.close()


def _text(typed: str | None, known: str | None, sha256: str) -> str | None:
    """The path of the text on this machine, seen to be the sweep's.

    Raises:
        SweepError: It is another text.
    """
    from fundamentallm.text import read_text

    path = typed or known
    if path is not None and not Path(path).exists():
        raise SweepError(f"{path}: the sweep's text is not there; say where by --data")
    text = read_text(path)
    if text.sha256 != sha256:
        raise SweepError(
            f"{text.name} is not the text of this sweep: its SHA-256 is {text.sha256[:12]} and "
            f"was {sha256[:12]}; give the same one by --data"
        )
    return path
