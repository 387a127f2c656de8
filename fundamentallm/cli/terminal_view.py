"""Progress display of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fundamentallm.cli.messages import show
from fundamentallm.config.fields import setting_text
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.status import FAULTS, FINISHED, RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import Run, RunIndex, Trial, status_counts

LONGEST_HEADING = 20
OUTCOMES: Mapping[str, str] = {
    RunStatus.STOPPED: "stopped early by hyperband",
    RunStatus.DIED: "was killed",
    RunStatus.OOM: "ran out of memory",
    RunStatus.INTERRUPTED: "interrupted",
}


class PlainView:
    """An `Observer` that prints a line at each start and end of a run."""

    def __init__(self, space: SearchSpace, metric: Metric) -> None:
        self.names = [parameter.name for parameter in space.searched]
        self.is_ours = space.is_ours
        own = (metric.name,) if self.is_ours or space.sweep.metric else ()
        self.columns = tuple(dict.fromkeys(("train_loss", *own) if self.is_ours else own))
        """Metrics of the table; another program's sweep may name none."""
        self.metric = metric
        self.limit: int | None = None
        self.runs = RunIndex()
        self.rows: dict[int, tuple[Row, float, Run]] = {}
        """The last row of each run in progress here, and when the run began."""
        self.started_at = time.monotonic()

    def started(self, run: Run, *, resumes: bool) -> None:
        """Print the configuration."""
        self.rows[run.number] = (Row(0, 0, {}), time.monotonic(), run)
        verb = " resumes" if resumes else " restarts" if len(run.trials) > 1 else " starts"
        self.print_line(f"run {self.numbered(run.number)}{verb}: {self.values(run.values)}")

    def row(self, run: Run, row: Row) -> None:
        """Keep it for the table."""
        before, since, _ = self.rows.get(run.number, (row, time.monotonic(), run))
        metrics = dict(before.metrics) | dict(row.metrics)
        self.rows[run.number] = (Row(row.step, row.total_steps, metrics), since, run)

    def ended(self, run: Run, ended: Trial) -> None:
        """Print the outcome and the best so far."""
        self.rows.pop(run.number, None)
        outcome = OUTCOMES.get(ended.status, ended.status)
        if ended.status == RunStatus.INTERRUPTED and self.is_ours:
            outcome += " and saved"
        if ended.status in FAULTS:
            outcome += f": {ended.note}"
        score = "" if ended.score is None else f", {self.metric.name} {score_text(ended.score)}"
        best = self.runs.best(self.metric)
        improved = RunIndex.of([*run.trials[:-1], ended]).best(self.metric)
        if improved is not None and (best is None or self._is_better(improved, best)):
            best = improved
        best_text = (
            "" if best is None else f" (best {score_text(best.last.score)}, run {best.number + 1})"
        )
        after = f" after {ended.seconds:.1f} s{best_text}"
        self.print_line(f"run {self.numbered(run.number)} {outcome}{score}{after}")

    def _is_better(self, run: Run, other: Run) -> bool:
        scores = [self.metric.sign * (each.last.score or 0.0) for each in (run, other)]
        return (scores[0], run.number) < (scores[1], other.number)

    def notify(self, line: str) -> None:
        """Pass it on."""
        self.print_line(line)

    def update(self, runs: RunIndex, limit: int | None) -> None:
        """Keep them for the count and the best."""
        self.runs, self.limit = runs, limit

    def print_line(self, text: str) -> None:
        """Print a line."""
        show(text)

    def numbered(self, number: int) -> str:
        """Return `3 of 12`."""
        return f"{number + 1}" if self.limit is None else f"{number + 1} of {self.limit}"

    def values(self, values: Mapping[str, Any]) -> str:
        """Return the searched parameters with their values."""
        return self._listed(self.names, values)

    def _listed(self, labels: Sequence[str], values: Mapping[str, Any]) -> str:
        pairs = zip(labels, self.names, strict=True)
        texts = [setting_text(label, values[name]) for label, name in pairs]
        return ", ".join(texts) or "no parameter varies"

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class TableView(PlainView):
    """An `Observer` that updates a table on the terminal, below the lines."""

    def __enter__(self) -> TableView:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(stderr=True, highlight=False)
        self.live = Live(
            console=self.console, refresh_per_second=4, get_renderable=self.render, transient=True
        )
        self.live.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.live.__exit__(None, None, None)

    def print_line(self, text: str) -> None:
        """Print a line above the table."""
        from rich.text import Text

        self.console.print(Text(printable(text)))

    def render(self) -> Any:
        """Return the table: runs here, and below it the sweep as a whole.

        The last line is not padded, so that the `^C` that a terminal adds needs no further line,
        which would stay on the screen.
        """
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=None, pad_edge=False, expand=True)
        for name in ("run", "step", *map(_heading, self.columns), "seconds"):
            table.add_column(Text(name), justify="right", no_wrap=True)
        table.add_column("configuration", ratio=1, no_wrap=True)  # the rest of the line
        now, labels = time.monotonic(), _short_names(self.names)
        for number, (row, since, run) in sorted(self.rows.items()):
            cells = [str(number + 1), _step_text(row)]
            cells += [score_text(row.metrics.get(name)) for name in self.columns]
            tries = Text(self._listed(labels, run.values), overflow="ellipsis")
            table.add_row(*cells, f"{now - since:.0f}", tries)
        return Group(table, Text(self.summary(now)))

    def summary(self, now: float) -> str:
        """Return runs done and running, the best, and the time left."""
        ended, done = self.runs.how_many(*FINISHED), self.runs.how_many(RunStatus.DONE)
        running = self.runs.how_many(RunStatus.RUNNING)
        of = "" if self.limit is None else f" of {self.limit}"
        parts = [f"{ended}{of} ended{endings_note(self.runs)}", f"{running} running"]
        if best := self.runs.best(self.metric):
            parts.append(
                f"best {self.metric.name} {score_text(best.last.score)} (run {best.number + 1})"
            )
        parts.append(f"{_clock(now - self.started_at)} elapsed")
        if done and self.limit is not None and running:
            left = (self.limit - ended) * self.runs.seconds / done / running
            parts.append(f"about {_clock(left)} left")
        return ", ".join(parts)


def endings_note(runs: RunIndex) -> str:
    """Return how finished runs ended, unless all are done."""
    statuses = {each: count for each, count in runs.statuses().items() if each in FINISHED}
    return f" ({status_counts(statuses)})" if statuses.keys() - {RunStatus.DONE} else ""


def _step_text(row: Row) -> str:
    """Return `20/100`, or `20` if the last step is unknown; nothing before the first row."""
    if row.total_steps:
        return f"{row.step}/{row.total_steps}"
    return str(row.step) if row.metrics else ""


def _heading(name: str) -> str:
    """Return the end of a long name, which says more than its beginning."""
    plain = printable(name, lines=False)
    return plain if len(plain) <= LONGEST_HEADING else f"…{plain[1 - LONGEST_HEADING :]}"


def _short_names(names: Sequence[str]) -> list[str]:
    """Return the innermost names, or the full ones where two are alike."""
    short = [name.rpartition(".")[2] for name in names]
    return short if len(set(short)) == len(short) else list(names)


def open_view(space: SearchSpace, metric: Metric) -> PlainView:
    """Return a table on a terminal, else plain lines."""
    return TableView(space, metric) if sys.stderr.isatty() else PlainView(space, metric)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
