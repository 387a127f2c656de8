"""Checkpoints that a sweep of our trainer keeps, and the removal of all others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from fundamentallm.files.atomic import DiskError
from fundamentallm.files.held_folder import HeldFolder
from fundamentallm.files.run_folder import RunFolder, RunFolderError
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.refine import distinct, finalists
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run
from fundamentallm.sweep.store.sweep_folder import SweepFolder


class Keep(StrEnum):
    """Choice of the checkpoints that a sweep keeps."""

    BEST = "best"
    """Checkpoints of the best configurations."""
    LAST = "last"
    """The same, and `last.pt` of every run, from which it can be continued."""
    ALL = "all"


KEPT_CONFIGURATIONS = 4
"""Best configurations whose checkpoints stay: as many as `refine` trains."""
NOT_KEPT: Mapping[Keep, Sequence[str]] = {
    Keep.BEST: ("trunk.pt", "last.pt", "best.pt"),
    Keep.LAST: ("trunk.pt", "best.pt"),
    Keep.ALL: (),
}
"""Checkpoints that go, of finished runs that are not among the best."""
RELEASE_SECONDS = 5.0
"""Timeout for the lock of a trial that has just ended."""


@dataclass(frozen=True)
class Removable:
    """Checkpoints of a finished run that need not be kept."""

    folder: RunFolder
    sizes: Mapping[str, int]
    """Size in bytes by name."""


def kept_runs(runs: Sequence[Run], space: SearchSpace, metric: Metric) -> set[int]:
    """Return the numbers of the runs whose checkpoints stay: all of the best configurations.

    They are those that `refine` would continue, with all their seeds, and the best single run.
    """
    ranked = [run for run in runs if run.is_ranked]
    if not ranked:
        return set()
    best, _ = distinct(finalists(ranked, space, metric), space, KEPT_CONFIGURATIONS)
    top = min(ranked, key=lambda run: (metric.sign * (run.last.score or 0.0), run.number))
    return {top.number} | {run.number for each in best for run in each.runs}


def removable(
    folder: SweepFolder, runs: Iterable[Run], space: SearchSpace, keep: Keep
) -> Iterator[Removable]:
    """Yield the checkpoints of finished runs that `keep` does not keep, as far as they are here."""
    finished = [run for run in runs if run.is_finished]
    kept = kept_runs(finished, space, space.sweep.ranks_by)
    for run in finished:
        if run.number in kept:
            continue
        run_folder = folder.run(run.number)
        with suppress(OSError), HeldFolder(run_folder.path, run_folder.root) as held:
            sizes = {name: held.size(name) for name in NOT_KEPT[keep] if held.has(name)}
            if sizes:
                yield Removable(run_folder, sizes)


class Keeper:
    """Removes what a sweep does not keep, while it runs."""

    def __init__(self, folder: SweepFolder, space: SearchSpace, keep: Keep) -> None:
        self.folder, self.space, self.keep = folder, space, keep
        self.finished: dict[int, Run] = {}
        """Finished runs that may have all their checkpoints, by number."""
        self.is_due = False

    def note(self, before: Run | None, now: Run) -> None:
        """Note a change of a run; it is a `Subscriber`."""
        if now.is_finished and not (before is not None and before.is_finished):
            self.finished[now.number] = now
            self.is_due = True
        elif not now.is_finished:
            self.finished.pop(now.number, None)

    def remove(self, wait: float = 0.0) -> None:
        """Remove what is not kept of the runs that have finished.

        A run whose process still ends is left for the next call; `wait` is a timeout for it.
        """
        if self.keep == Keep.ALL or not (self.is_due or wait):
            return
        self.is_due = False
        kept = kept_runs(list(self.finished.values()), self.space, self.space.sweep.ranks_by)
        for number in sorted(self.finished.keys() - kept):
            folder = self.folder.run(number)
            try:
                if folder.path.exists():  # else it ran on another machine
                    folder.remove_checkpoints(NOT_KEPT[self.keep], wait)
            except (RunFolderError, DiskError):
                continue
            del self.finished[number]
