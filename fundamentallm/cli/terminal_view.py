"""Progress display of a sweep: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from fundamentallm.cli.messages import show
from fundamentallm.cli.time_left import TrialProgress, done_share, seconds_left
from fundamentallm.config.fields import ConfigError, setting_text
from fundamentallm.metrics import score_text
from fundamentallm.printable import printable
from fundamentallm.status import FAULTS, FINISHED, OVER, RunStatus
from fundamentallm.sweep.engine.job import Row
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.records import (
    Best,
    Run,
    RunIndex,
    Trial,
    best_so_far,
    progress_text,
    status_counts,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LONGEST_HEADING = 20
OUTCOMES: Mapping[str, str] = {
    RunStatus.DIED: "was killed",
    RunStatus.OOM: "ran out of memory",
    RunStatus.INTERRUPTED: "interrupted",
}
STYLES: Mapping[str, str] = {
    RunStatus.DONE: "",
    RunStatus.STOPPED: "dim",
    **dict.fromkeys((RunStatus.DIVERGED, RunStatus.IMPOSSIBLE, RunStatus.INTERRUPTED), "yellow"),
    **dict.fromkeys(FAULTS, "red"),
}
"""Colours of the lines about ended runs, by status."""
BEST_STYLE = "green"
LINE_SECONDS = 60.0
"""Time between two lines about the state of the sweep, where there is no table."""
REFRESH_SECONDS = 0.25
MOST_LISTED = 4
"""Most running trials in one line."""
WIDE = 160
"""Columns from which the table has steps and longer bars; the configuration then has room too."""
NARROW = 70
"""Columns below which the table has no bars."""
LINES_BESIDE = 5
"""Lines that running trials leave free: heading, number of others, sweep, best, and one more."""
MOST_PRINTED = 200
"""Most lines above the table that are drawn again when the terminal gets narrower."""


class PlainView:
    """An `Observer` that prints a line at each start and end of a run, and one a minute."""

    def __init__(
        self,
        space: SearchSpace,
        metric: Metric,
        *,
        count: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Set up the view.

        Args:
            space: The sweep's search space.
            metric: Metric that ranks the runs.
            count: Most runs that start here; None for no limit.
            clock: Returns the time in seconds.
        """
        self.space = space
        self.names = [parameter.name for parameter in space.searched]
        self.is_ours = space.is_ours
        own = (metric.name,) if self.is_ours or space.sweep.metric else ()
        self.columns = tuple(dict.fromkeys(("train_loss", *own) if self.is_ours else own))
        """Metrics of the table; another program's sweep may name none."""
        self.metric = metric
        self.limit: int | None = None
        self.left_to_start = math.inf if count is None else count
        """Most runs that still start here."""
        self.is_paused = False
        self.runs = RunIndex()
        self.best: Best | None = None
        self.trials: dict[int, TrialProgress] = {}
        """Trials in progress here, by the number of their run."""
        self.clock = clock
        self.started_at = self.stated_at = clock()

    def started(self, run: Run, *, resumes: bool) -> None:
        """Print the configuration."""
        self.left_to_start -= 1
        self.trials[run.number] = TrialProgress(
            run, self.clock(), resumes=resumes, most_seconds=self._most_seconds(run)
        )
        verb = " resumes" if resumes else " restarts" if len(run.trials) > 1 else " starts"
        self.print_line(f"run {self.numbered(run.number)}{verb}: {self.values(run.values)}")

    def _most_seconds(self, run: Run) -> float:
        """Return how long a run of our trainer may train."""
        if self.is_ours:
            with suppress(ConfigError):
                return 60 * self.space.settings(run.values).get("max_minutes", 0) or math.inf
        return math.inf

    def row(self, run: Run, row: Row) -> None:
        """Keep it for the table."""
        now = self.clock()
        self.trials.setdefault(run.number, TrialProgress(run, now)).add(row, now)

    def ended(self, run: Run, ended: Trial) -> None:
        """Print the outcome and the best so far."""
        self.trials.pop(run.number, None)
        outcome = OUTCOMES.get(ended.status, ended.status)
        if ended.status == RunStatus.STOPPED:
            outcome = f"stopped early by {ended.note}"
        if ended.status == RunStatus.INTERRUPTED and self.is_ours:
            outcome += " and saved"
        if ended.status in FAULTS:
            outcome += f": {ended.note}"
        score = "" if ended.score is None else f", {self.metric.name} {score_text(ended.score)}"
        best, style = self._best_with(run, ended), STYLES.get(ended.status, "")
        if best is not None and run.number in (each.number for each in best.runs):
            style = BEST_STYLE
        best_text = "" if best is None else f" (best {score_text(best.score)}, {best.who})"
        after = f" after {ended.seconds:.1f} s{best_text}"
        self.print_line(f"run {self.numbered(run.number)} {outcome}{score}{after}", style)

    def _best_with(self, run: Run, ended: Trial) -> Best | None:
        """Return the best so far, with the end of a run that `runs` may not yet have."""
        this = [*run.trials[:-1], ended]
        if self.space.repeats_by:
            others = [
                trial for each in self.runs if each.number != run.number for trial in each.trials
            ]
            return best_so_far(RunIndex.of([*others, *this]), self.space)
        own = best_so_far(RunIndex.of(this), self.space)
        found = [best for best in (self.best, own) if best is not None]
        return min(
            found, key=lambda b: (self.metric.sign * b.score, b.runs[0].number), default=None
        )

    def notify(self, line: str) -> None:
        """Pass it on."""
        self.print_line(line)

    def update(self, runs: RunIndex, limit: int | None, *, is_paused: bool = False) -> None:
        """Keep them for the count and the best; print the state of the sweep once a minute."""
        self.runs, self.limit, self.is_paused = runs, limit, is_paused
        self.best = best_so_far(runs, self.space)
        now = self.clock()
        if now - self.stated_at >= LINE_SECONDS:
            self.stated_at = now
            self.print_state(now)

    def print_state(self, now: float) -> None:
        """Print one line about the state of the sweep."""
        self.print_line("; ".join((*self.state(now), *self._shares(now))))

    def _shares(self, now: float) -> Iterator[str]:
        """Yield how far the running trials are: `run 3 at 40%, run 4 at step 120`."""
        shares = [
            f"run {number + 1} at {_share_text(trial, now)}"
            for number, trial in sorted(self.trials.items())
            if trial.metrics
        ]
        if shares:
            more = f" and {len(shares) - MOST_LISTED} more" if len(shares) > MOST_LISTED else ""
            yield ", ".join(shares[:MOST_LISTED]) + more

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line; `style` is its colour on a terminal."""
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

    def state(self, now: float) -> tuple[str, str]:
        """Return how many runs there are, and the time with the best."""
        times = [f"{_clock(now - self.started_at)} elapsed"]
        trials = list(self.trials.copy().values())
        if (left := seconds_left(self.runs, trials, self._to_start(), now)) is not None:
            times.append(f"about {_clock(left)} left")
        if self.best is not None:
            score = f"{_heading(self.metric.name)} {score_text(self.best.score)}"
            times.append(f"best {score} ({self.best.who})")
        over, running = self.runs.how_many(*OVER), self.runs.how_many(RunStatus.RUNNING)
        counts = progress_text(over, self.limit, running)
        if waiting := self.runs.how_many(RunStatus.WAITING):
            counts += f", {waiting} waiting"
        if self.is_paused:
            counts += ", paused"
        counts += endings_note(self.runs, OVER)
        return counts, ", ".join(times)

    def _to_start(self) -> float:
        """Return how many runs will start or resume; infinite if nothing limits them."""
        unstarted = (RunStatus.INTERRUPTED, RunStatus.LOST, RunStatus.WAITING)
        to_resume = self.runs.how_many(*unstarted)
        new = math.inf if self.limit is None else max(0, self.limit - len(self.runs))
        return min(new + to_resume, self.left_to_start)

    def __enter__(self) -> PlainView:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class TableView(PlainView):
    """An `Observer` that updates a table on the terminal, below the lines."""

    def __init__(
        self, space: SearchSpace, metric: Metric, *, console: Console, **options: Any
    ) -> None:
        """Set up the view on a console; `options` are those of `PlainView`."""
        super().__init__(space, metric, **options)
        self.console = console
        self.printed: deque[Text] = deque(maxlen=MOST_PRINTED)
        self.drawing = threading.RLock()
        self.is_over = threading.Event()
        self.width = 0
        """Columns of the terminal when the table was last drawn."""

    def __enter__(self) -> TableView:
        self._open()
        threading.Thread(target=self._refresh, daemon=True).start()
        return self

    def _open(self) -> None:
        from rich.live import Live

        self.live = Live(
            console=self.console, auto_refresh=False, get_renderable=self.render, transient=True
        )
        self.width = self.console.width
        self.live.start()

    def _refresh(self) -> None:
        while not self.is_over.wait(REFRESH_SECONDS):
            self.draw()

    def draw(self) -> None:
        """Draw the table as it is now, unless the view is closed."""
        with self.drawing:
            if not self.is_over.is_set():
                self._fit_terminal()
                self.live.refresh()

    def __exit__(self, *exception: object) -> None:
        with self.drawing:
            self.is_over.set()
            self._fit_terminal()
            self.live.stop()

    def _fit_terminal(self) -> None:
        """Draw everything again if the terminal got narrower.

        Most terminals then break lines of the table into two. Their number is unknown, so the table
        cannot be erased alone.
        """
        if self.console.width < self.width:
            self.live.stop()
            self.console.clear()
            for line in self._last_printed():
                self.console.print(line)
            self._open()
        self.width = self.console.width

    def _last_printed(self) -> list[Text]:
        """Return the last printed lines that fit the terminal above the table."""
        room = self.console.height - len(self.trials) - LINES_BESIDE
        found: list[Text] = []
        for line in reversed(self.printed):
            room -= math.ceil(max(1, line.cell_len) / self.console.width)
            if room < 0:
                break
            found.insert(0, line)
        return found

    def print_line(self, text: str, style: str = "") -> None:
        """Print a line above the table."""
        from rich.text import Text

        line = Text(printable(text), style=style)
        with self.drawing:
            self._fit_terminal()
            self.printed.append(line)
            self.console.print(line)

    def print_state(self, now: float) -> None:
        """Print nothing: the table shows the state."""

    def render(self) -> Any:
        """Return the table: trials that run here, and below it the sweep as a whole.

        The last line is not padded, so that the `^C` that a terminal adds needs no further line,
        which would stay on the screen.
        """
        from rich.console import Group
        from rich.text import Text

        now, trials = self.clock(), sorted(self.trials.copy().items())
        room = max(1, self.console.height - LINES_BESIDE)
        lines: list[Any] = [self._table([trial for _, trial in trials[:room]], now)]
        if len(trials) > room:
            lines.append(Text(f"and {len(trials) - room} more", style="dim"))
        counts, times = self.state(now)
        lines += [self._of_sweep(counts, now), self._shortened(times, 2)]
        return Group(*lines)

    def _table(self, trials: Sequence[TrialProgress], now: float) -> Any:
        """Return a row for each of these trials; the configuration gets the rest of the line."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
        for heading in self._headings():
            side = "left" if heading in ("status", "progress") else "right"
            least = len("starting") if heading == "status" else None
            table.add_column(Text(heading), justify=side, no_wrap=True, min_width=least)
        table.add_column("configuration", ratio=1, no_wrap=True)
        labels = _short_names(self.names)
        for trial in trials:
            values = Text(self._listed(labels, trial.run.values), overflow="ellipsis")
            table.add_row(*self._cells(trial, now), values)
        return table

    def _headings(self) -> list[str]:
        """Return the columns before the configuration."""
        status = ["status"] if self.has_bars else []
        steps = ["step"] if self.console.width >= WIDE else []
        time = "left" if self.is_ours else "time"
        return ["run", *status, "progress", *steps, *map(_heading, self.columns), time]

    def _cells(self, trial: TrialProgress, now: float) -> list[Any]:
        """Return a trial's cells below `_headings`."""
        share = trial.share(now)
        progress = _step_text(trial) if share is None else self._bar(share)
        status = [_status(trial)] if self.has_bars else []
        steps = [_step_text(trial)] if self.console.width >= WIDE else []
        scores = [score_text(trial.metrics.get(name)) for name in self.columns]
        time = _left_text(trial, now) if self.is_ours else _clock(now - trial.started_at)
        return [str(trial.run.number + 1), *status, progress, *steps, *scores, time]

    @property
    def has_bars(self) -> bool:
        """Return whether the terminal is wide enough for bars and statuses."""
        return self.console.width >= NARROW

    @property
    def bar_width(self) -> int:
        """Return the columns of a bar without its percentage."""
        return 20 if self.console.width >= WIDE else 10

    def _bar(self, share: float) -> Any:
        """Return a bar with a percentage, or the percentage alone."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        if not self.has_bars:
            return _percent(share)
        bar = Table.grid(padding=(0, 1, 0, 0))
        drawn = ProgressBar(1.0, share, width=self.bar_width, complete_style="cyan")
        bar.add_row(drawn, f"{_percent(share):>4}")
        return bar

    def _of_sweep(self, counts: str, now: float) -> Any:
        """Return the line of the whole sweep, with a bar if its length is known."""
        from rich.table import Table

        line = Table.grid(padding=(0, 2, 0, 0))
        if self.limit is None:
            line.add_row("sweep", self._shortened(counts, 7))
            return line
        bar = self._bar(done_share(self.runs, self.trials.copy(), self.limit, now))
        taken = 7 + (self.bar_width + 5 if self.has_bars else 4) + 2
        line.add_row("sweep", bar, self._shortened(counts, taken))
        return line

    def _shortened(self, text: str, taken: int) -> Text:
        """Return a text that fits a line of which some columns are taken."""
        from rich.text import Text

        line = Text(text, no_wrap=True)
        line.truncate(max(1, self.console.width - taken), overflow="ellipsis")
        return line


def endings_note(runs: RunIndex, ended: Sequence[RunStatus] = FINISHED) -> str:
    """Return how the `ended` runs ended, unless all are done."""
    statuses = {each: count for each, count in runs.statuses().items() if each in ended}
    return f" ({status_counts(statuses)})" if statuses.keys() - {RunStatus.DONE} else ""


def _status(trial: TrialProgress) -> str:
    if trial.metrics:
        return "running"
    return "resuming" if trial.resumes else "starting"


def _step_text(trial: TrialProgress) -> str:
    """Return `20/100`, or `20` if the last step is unknown; nothing before the first row."""
    if trial.total_steps:
        return f"{trial.step}/{trial.total_steps}"
    return str(trial.step) if trial.metrics else ""


def _share_text(trial: TrialProgress, now: float) -> str:
    share = trial.share(now)
    return f"step {trial.step}" if share is None else _percent(share)


def _percent(share: float) -> str:
    return f"{math.floor(100 * share)}%"


def _left_text(trial: TrialProgress, now: float) -> str:
    left = trial.seconds_left(now)
    return "" if left is None else _clock(left)


def _heading(name: str) -> str:
    """Return the end of a long name, which says more than its beginning."""
    plain = printable(name, lines=False)
    return plain if len(plain) <= LONGEST_HEADING else f"…{plain[1 - LONGEST_HEADING :]}"


def _short_names(names: Sequence[str]) -> list[str]:
    """Return the innermost names, or the full ones where two are alike."""
    short = [name.rpartition(".")[2] for name in names]
    return short if len(set(short)) == len(short) else list(names)


def open_view(space: SearchSpace, metric: Metric, *, count: int | None = None) -> PlainView:
    """Return a table on a terminal that can update it, else plain lines.

    `count` is the most runs that start here; None for no limit.
    """
    if sys.stderr.isatty():
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        if console.is_interactive:  # not TERM=dumb
            return TableView(space, metric, console=console, count=count)
    return PlainView(space, metric, count=count)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
