"""`fundamentallm clean`: free the disk space of checkpoints that a sweep no longer needs."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence

import click

from fundamentallm import exit_codes
from fundamentallm.cli.keeping import check_not_of_tuning, kept_text
from fundamentallm.cli.messages import display_path, show, warn
from fundamentallm.cli.options import PATH
from fundamentallm.cli.result_sources import refuse_wandb
from fundamentallm.cli.storage import read_sweep_here, storage_url
from fundamentallm.errors import FundamentallmError
from fundamentallm.metrics import runs_text, size_text
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.keep import Keep, Removable, kept_runs, removable
from fundamentallm.sweep.store.sweep_folder import SweepFolder


@click.command()
@click.argument("sweep", metavar="SWEEP", type=PATH)
@click.option(
    "--keep",
    type=click.Choice([str(Keep.BEST), str(Keep.LAST)]),
    default=str(Keep.BEST),
    help="Keep checkpoints of the 4 best configurations, or also last.pt of every run.  "
    "[default: best]",
)
@click.option("--yes", is_flag=True, help="Remove without asking.")
@click.option(
    "--storage",
    metavar="URL",
    help="The sweep's PostgreSQL database; also FUNDAMENTALLM_STORAGE.  [default: SQLite in the "
    "sweep's folder]",
)
def clean(sweep: str, keep: str, yes: bool, storage: str | None) -> int:
    """Remove checkpoints that a sweep no longer needs.

    It shows first what it would remove, and asks. Runs that have not finished keep everything, and
    all results stay. refine can still continue the best configurations.
    """
    if storage is None:
        refuse_wandb(sweep, "there are no checkpoints here to remove")
    folder = SweepFolder(sweep)
    check_not_of_tuning(folder)
    definition, runs = read_sweep_here(storage_url(storage, folder), folder)
    space = definition.space
    if not space.is_ours:
        raise SweepError(
            f"{display_path(folder.path)}: its runs are of another program, whose files stay"
        )
    found = list(removable(folder, runs, space, Keep(keep)))
    if not found:
        show(f"{display_path(folder.path)}: nothing to remove")
        return exit_codes.DONE
    kept = sorted(kept_runs(runs, space, space.sweep.ranks_by))
    _show(found, [folder.run(number).path.name for number in kept])
    if not (yes or _is_confirmed()):
        show("nothing was removed; fundamentallm clean --yes removes it without asking", err=True)
        return exit_codes.DONE
    return _remove(found)


def _show(found: Sequence[Removable], kept: Sequence[str]) -> None:
    """Print a table of what goes, and what stays."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for each in found:
        counts.update(each.sizes.keys())
        sizes.update(each.sizes)
    rows = [(name, runs_text(counts[name]), size_text(sizes[name])) for name in sorted(counts)]
    rows.append(("total", runs_text(len(found)), size_text(sizes.total())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, runs, size in rows:
        show(f"{name:<{widths[0]}}  {runs:>{widths[1]}}  {size:>{widths[2]}}")
    show(f"all checkpoints stay of {kept_text(kept)}, and of runs that have not finished")


def _is_confirmed() -> bool:
    """Ask on a terminal; without one, nothing is confirmed."""
    if not (sys.stdin and sys.stdin.isatty()):
        return False
    return click.confirm("remove them?", err=True)


def _remove(found: Sequence[Removable]) -> int:
    """Remove the checkpoints, and say how much that freed."""
    freed, failed = 0, 0
    for each in found:
        try:
            freed += each.folder.remove_checkpoints(list(each.sizes))
        except FundamentallmError as error:
            failed += 1
            warn(str(error))
    show(f"freed {size_text(freed)}")
    return exit_codes.FAILED if failed else exit_codes.DONE
