"""`fundamentallm agent`: one more worker for a sweep, from another terminal or another machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fundamentallm.cli.storage import storage_url
from fundamentallm.cli.sweep import worker_options
from fundamentallm.cli.sweeping import opened, work
from fundamentallm.corpus import BUILTIN
from fundamentallm.sweep.findings import SweepError
from fundamentallm.sweep.sweep_folder import SweepFolder


@click.command()
@click.argument("folder", metavar="SWEEP", type=click.Path())
@click.option("--data", metavar="DATA.TXT", help="Where the sweep's text lies on this machine.")
@worker_options
def agent(
    folder: str,
    data: str | None,
    storage: str | None,
    **options: Any,
) -> int:
    """Work on a sweep that `fundamentallm sweep` has begun; SWEEP is its folder.

    On another machine SWEEP need not be there: its last name is the sweep's, and --storage says
    where the sweep is kept.
    """
    place = SweepFolder(folder)
    with opened(storage_url(storage, place), place) as (facts, ledger):
        if facts["data_sha256"]:
            data = _text(data, facts["data"], facts["data_sha256"])
        if not place.file.exists():
            place.write_file(facts["text"])
        return work(facts, ledger, place, data=data, **options)


def _text(typed: str | None, known: str | None, sha256: str) -> str | None:
    """The path of the text on this machine, seen to be the sweep's.

    Raises:
        SweepError: It is another text.
    """
    from fundamentallm.text import read_text

    path = typed or known
    if path not in (None, BUILTIN) and not Path(path).exists():
        raise SweepError(f"{path}: the sweep's text is not there; say where by --data")
    text = read_text(path)
    if text.sha256 != sha256:
        raise SweepError(
            f"{text.name} is not the text of this sweep: its SHA-256 is {text.sha256[:12]} and "
            f"was {sha256[:12]}; give the same one by --data"
        )
    return path
