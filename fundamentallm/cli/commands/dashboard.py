"""`fundamentallm dashboard`: the report's page in a browser on this machine, with live data."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fundamentallm.cli.messages import notify, show
from fundamentallm.cli.options import PATH
from fundamentallm.cli.result_sources import metric_option, read_live_sources, refuse_wandb
from fundamentallm.cli.steering import steered
from fundamentallm.errors import FundamentallmError
from fundamentallm.sweep.store.sweep_folder import SweepFolder

if TYPE_CHECKING:
    from fundamentallm.dashboard.security import Access

REDIRECT = '<!doctype html><meta http-equiv="refresh" content="0; url={}">'


@click.command()
@click.argument("sources", nargs=-1, type=PATH, metavar="[SWEEP_OR_RUNS...]")
@metric_option
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", default=0,
              help="Listen on this port.  [default: a free one]")  # fmt: skip
@click.option("--no-browser", is_flag=True, help="Print the address, and open no browser.")
def dashboard(sources: tuple[str, ...], metric: str, port: int, no_browser: bool) -> int:
    """Show runs on a live page in your browser, until Ctrl-C.

    SWEEP_OR_RUNS are folders of sweeps or runs, by default runs. Nobody else can open the page, and
    it sends nothing anywhere. The address works in one browser; for another, a new one is printed.
    """
    try:
        from fundamentallm.dashboard.app import Dashboard, make_app
        from fundamentallm.dashboard.security import Access
        from fundamentallm.dashboard.server import Server, listen
    except ModuleNotFoundError as error:
        raise FundamentallmError(
            f"dashboard needs {error.name}, which is not installed; "
            "pip install 'fundamentallm[dashboard]'"
        ) from None
    from fundamentallm.dashboard.live_data import LiveData

    folders = _folders(sources)
    live = LiveData(*read_live_sources(folders, metric))
    try:
        opened = listen(port)
    except OSError as error:
        raise FundamentallmError(
            f"--port {port}: {error.strerror}; give another, or none for a free one"
        ) from None
    access = Access(opened.getsockname()[1], lambda: show(f"for another browser: {access.address}"))
    sweep = SweepFolder(folders[0])
    is_one = len(folders) == 1 and sweep.file.is_file()
    shown = Dashboard(live, sweep if is_one else None, partial(steered, sweep, None))
    app = make_app(shown, access)
    show(access.address)
    notify("open it in a browser on this machine; end with Ctrl-C")
    live.start()
    with opened, _redirect(access) as file:
        if not no_browser:
            webbrowser.open(file.as_uri())
        Server(app, live).run(sockets=[opened])
    return 0


def _folders(sources: Sequence[str]) -> list[str]:
    """Return the folders to show.

    Raises:
        FundamentallmError: One does not exist, or is a sweep on W&B.
    """
    folders = list(sources) or ["runs"]
    for folder in folders:
        refuse_wandb(folder, f"use fundamentallm report {folder}")
        if not os.path.isdir(folder):
            raise FundamentallmError(f"{folder}: no such folder; give that of a sweep or of runs")
    return folders


@contextmanager
def _redirect(access: Access) -> Iterator[Path]:
    """Make a private file that leads a browser to the address.

    Others see a browser's command line, and the token must not be on it.
    """
    with tempfile.TemporaryDirectory(prefix="fundamentallm-") as folder:
        file = Path(folder, "dashboard.html")
        file.write_text(REDIRECT.format(access.address))
        yield file
