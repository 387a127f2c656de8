"""Runs of a sweep and their trials, independent of where they are stored."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.metrics import finite, runs_text
from fundamentallm.status import FAULTS, FINISHED, RANKED, RunStatus
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.search.base import LazyPastRuns, PastRun, Values, key_of
from fundamentallm.sweep.search.racing import configurations_of, contenders
from fundamentallm.sweep.search.space import SearchSpace
from fundamentallm.sweep.store.score_cap import ScoreCap

STATUS_WORDS: Mapping[str, str] = {
    RunStatus.STOPPED: "stopped early",
    RunStatus.DIED: "failed",
    RunStatus.HUNG: "failed",
    RunStatus.OOM: "failed",
    RunStatus.LOST: "interrupted",
    RunStatus.UNFINISHED: "unfinished (in progress, or killed)",
}
"""Words shown for statuses; all others are shown as they are."""
T = TypeVar("T")
MOST_KILLS = 5
"""Trials in a row that may be killed from outside before a run needs `--retries`."""


@dataclass(frozen=True)
class Trial:
    """One trial of a run, by one worker."""

    id: int
    """Id in the storage."""
    run: int
    """Number of the run, from 0; all trials of a run share it."""
    values: Values
    status: RunStatus
    """`waiting`, `running`, or one of FINISHED and RETRYABLE."""
    owner: str
    score: float | None = None
    """Best value of the metric, as it was logged."""
    history: tuple[float, ...] = ()
    """Values of the metric in the order of their steps."""
    seconds: float = 0.0
    note: str = ""
    guess: float | None = None
    """Score of a uniform prediction; None for runs of other programs or older versions."""
    stop_requested: bool = False
    """True if a person asked to stop it."""


@dataclass(frozen=True)
class Run:
    """A run of a sweep with its trials; the last one counts."""

    number: int
    trials: tuple[Trial, ...]

    @property
    def last(self) -> Trial:
        """Return the trial that counts."""
        return self.trials[-1]

    @property
    def values(self) -> Values:
        """Return the values of the parameters, the same in every trial."""
        return self.last.values

    @property
    def history(self) -> tuple[float, ...]:
        """Return the metric's values of the last trial that has any."""
        return next((each.history for each in reversed(self.trials) if each.history), ())

    @property
    def seconds(self) -> float:
        """Return the time that its trials took together."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def is_finished(self) -> bool:
        """Return whether the run has its result."""
        return self.last.status in FINISHED

    @property
    def is_ranked(self) -> bool:
        """Return whether the score can be compared with that of other runs."""
        return self.last.status in RANKED and self.last.score is not None

    @property
    def retries_needed(self) -> int:
        """Return the least value of `--retries` at which an unfinished run is retried.

        Counts the trials that failed by an error of their own, or were killed beyond `MOST_KILLS`.
        """
        if self.last.status in (RunStatus.INTERRUPTED, RunStatus.LOST):
            return 0
        if self.last.status == RunStatus.DIED:
            in_a_row = 0
            for trial in reversed(self.trials):
                in_a_row += trial.status == RunStatus.DIED
                if trial.status not in (RunStatus.DIED, RunStatus.LOST):
                    break
            return max(0, in_a_row - MOST_KILLS + 1)
        own_faults = (RunStatus.FAILED, RunStatus.HUNG, RunStatus.OOM)
        return sum(trial.status in own_faults for trial in self.trials)


Subscriber = Callable[[Run | None, Run], None]
"""Called for every change of a run, with its state before (None for a new run) and after."""


class RunIndex(Sequence[Run]):
    """The runs of a sweep by number, with counts and rankings over all of them.

    `update` takes the trials that changed. Counts and rankings are kept up to date as well, so that
    no answer takes longer after 10,000 runs than after ten.
    """

    def __init__(self) -> None:
        """Create an index without runs."""
        self.runs: list[Run] = []
        self.positions: dict[int, int] = {}
        """Positions in `runs` by the run's number."""
        self.by_status: defaultdict[RunStatus, list[int]] = defaultdict(list)
        """Sorted numbers of the runs with each status."""
        self.failed: defaultdict[int, list[int]] = defaultdict(list)
        """Sorted numbers of the runs that a fault ended, by the retries that they need."""
        self.scores: list[tuple[float, int]] = []
        """Sorted scores of the ranked runs, each with the run's number."""
        self.seconds = 0.0
        """Total time of the finished runs."""
        self.least, self.most = math.inf, -math.inf
        """Extremes of the metric over all trials."""
        self.keys: set[str] = set()
        """`key_of` of every run's values."""
        self.subscribers: list[Subscriber] = []

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> RunIndex:
        """Return the index of these trials."""
        runs = cls()
        runs.update(trials)
        return runs

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> list[Run]: ...
    def __getitem__(self, index: int | slice) -> Run | list[Run]:
        return self.runs[index]

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def numbered(self, number: int) -> Run:
        """Return the run with this number."""
        return self.runs[self.positions[number]]

    def with_values(self, values: Values) -> Run | None:
        """Return the run with these values, if there is one."""
        key = key_of(values)
        if key not in self.keys:
            return None
        return next(run for run in self.runs if key_of(run.values) == key)

    def update(self, trials: Iterable[Trial]) -> None:
        """Take in trials that are new or have changed; later ones have higher ids."""
        for trial in trials:
            position = self.positions.get(trial.run)
            before = None if position is None else self.runs[position]
            known = () if before is None else before.trials
            same = [each for each in known if each.id != trial.id]
            run = Run(trial.run, tuple(sorted([*same, trial], key=lambda each: each.id)))
            if position is not None:
                self.runs[position] = run
            else:
                self._insert(run)
            if before is not None:
                self._count(before, _remove, -1)
            self._count(run, insort, 1)
            for value in (trial.score, *trial.history):
                if value is not None:
                    self.least, self.most = min(self.least, value), max(self.most, value)
            for subscriber in self.subscribers:
                subscriber(before, run)

    def _insert(self, run: Run) -> None:
        position = bisect_left(self.runs, run.number, key=lambda each: each.number)
        self.runs.insert(position, run)
        for index in range(position, len(self.runs)):  # nearly always only the last
            self.positions[self.runs[index].number] = index
        self.keys.add(key_of(run.values))

    def _count(self, run: Run, change: Callable[[list[Any], Any], None], by: int) -> None:
        """Add a run to all counts, or remove it."""
        status, score = run.last.status, finite(run.last.score)
        change(self.by_status[status], run.number)
        if status in FAULTS:
            change(self.failed[run.retries_needed], run.number)
        if run.is_finished:
            self.seconds += by * run.seconds
        if run.is_ranked and score is not None:
            change(self.scores, (score, run.number))

    def subscribe(self, subscriber: Subscriber) -> None:
        """Call `subscriber` for every run now, and for each change from now on."""
        for run in self.runs:
            subscriber(None, run)
        self.subscribers.append(subscriber)

    def statuses(self) -> dict[RunStatus, int]:
        """Return the number of runs with each status."""
        found = self.by_status.copy().items()  # the terminal view reads in another thread
        return {status: len(numbers) for status, numbers in found if numbers}

    def how_many(self, *statuses: RunStatus) -> int:
        """Return how many runs have one of these statuses."""
        return sum(len(self.by_status[status]) for status in statuses)

    def with_status(self, status: RunStatus) -> list[Run]:
        """Return the runs with this status."""
        return [self.numbered(number) for number in self.by_status[status]]

    def next_to_retry(self, retries: int) -> Run | None:
        """Return the first unfinished run to retry; runs without a fault come first.

        Args:
            retries: How often a run is retried that failed by an error of its own.
        """
        firsts = [
            numbers[0]
            for s in (RunStatus.INTERRUPTED, RunStatus.LOST)
            if (numbers := self.by_status[s])
        ]
        firsts = firsts or [
            numbers[0] for needed, numbers in self.failed.items() if numbers and needed <= retries
        ]
        return self.numbered(min(firsts)) if firsts else None

    def best(self, metric: Metric) -> Run | None:
        """Return the ranked run with the best score."""
        if not self.scores:
            return None
        position = 0
        if metric.sign < 0:  # the first of those with the highest score
            position = bisect_left(self.scores, (self.scores[-1][0],))
        return self.numbered(self.scores[position][1])


@dataclass(frozen=True)
class Best:
    """Best configuration of a sweep so far."""

    score: float
    """Score as logged; the mean over its seeds, if it has several."""
    runs: tuple[Run, ...]
    """Its runs with a score, the best first."""

    @property
    def who(self) -> str:
        """Return its run in words: `run 4`, or `mean of runs 4, 9, 11`."""
        numbers = ", ".join(str(number) for number in sorted(run.number + 1 for run in self.runs))
        return f"run {numbers}" if len(self.runs) == 1 else f"mean of runs {numbers}"


def best_so_far(runs: RunIndex, space: SearchSpace) -> Best | None:
    """Return the run with the best score; with several seeds, the configuration's best mean."""
    metric = space.sweep.ranks_by
    if not space.repeats_by:
        best = runs.best(metric)
        return None if best is None or best.last.score is None else Best(best.last.score, (best,))
    found = contenders(configurations_of(past_runs(runs, metric), space.repeats_by))
    if not found:
        return None
    scored = [runs[position] for position in found[0].scored]
    scored.sort(key=lambda run: metric.sign * (run.last.score or 0.0))
    return Best(metric.sign * found[0].mean, tuple(scored))


def _remove(values: list[T], value: T) -> None:
    """Remove a value from a sorted list."""
    del values[bisect_left(values, value)]  # pyright: ignore


def score_of(folder: RunFolder, status: RunStatus, metric: Metric) -> float | None:
    """Return the best value of the metric; without rows, the score in the summary."""
    values = [row[metric.name] for row in folder.rows() if metric.name in row]
    return metric.best(values) if values else summary_score(folder.read_summary(), status, metric)


def summary_score(summary: Mapping[str, Any], status: str, metric: Metric) -> float | None:
    """Return the score that a run's summary has for a metric without rows; None if it has none.

    Ours is that of a run that diverged or was impossible. Another program may log a metric only in
    W&B's summary, where `define_metric` adds the aggregate to the name: `acc.max`.
    """
    if status in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE):
        return finite(summary.get(metric.name))
    logged = summary.get("summary")
    if status not in FINISHED or not isinstance(logged, Mapping):
        return None
    best = "min" if metric.goal == "minimize" else "max"
    names = (metric.name, *(f"{metric.name}.{each}" for each in (best, "best", "last")))
    return next((value for name in names if (value := finite(logged.get(name))) is not None), None)


def status_counts(statuses: Mapping[Any, int]) -> str:
    """Return counts by status in words: `7 done, 5 stopped early, 1 diverged`."""
    counts: Counter[str] = Counter()
    for status, count in statuses.items():
        counts[STATUS_WORDS.get(status, status)] += count
    order = dict.fromkeys((*RANKED, *FINISHED, *FAULTS, *counts))
    words = dict.fromkeys(STATUS_WORDS.get(status, status) for status in order)
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def progress_text(over: int, limit: int | None, running: int) -> str:
    """Return how far a sweep is: `12 of 40 runs, 2 running`; `limit` is None if it is endless."""
    of = runs_text(over) if limit is None else f"{over} of {runs_text(limit)}"
    return f"{of}, {running} running"


def why_unranked(statuses: Mapping[Any, int]) -> str:
    """Return why none of these runs has a score that counts; "" if one should have.

    Args:
        statuses: Number of runs with each status.
    """
    counts = {status: count for status, count in statuses.items() if count}
    if not counts.keys().isdisjoint(RANKED):
        return ""
    total = sum(counts.values())
    which = "the only run" if total == 1 else f"all {total} runs"
    if counts.keys() == {RunStatus.DIVERGED}:
        return f"{which} diverged; lower the learning rate for all of them"
    if counts and counts.keys() <= set(FAULTS):
        return f"{which} failed; fundamentallm explain gives the reason"
    return f"no run has finished yet ({status_counts(counts) or 'none has started'})"


def reason_to_give_up(ends: Iterable[str], most: int) -> str:
    """Return why a worker should stop after runs with these statuses; "" if it should not.

    It should if its first `most` runs failed, as W&B's agent does.
    """
    failed = 0
    for status in ends:
        if status not in (RunStatus.FAILED, RunStatus.INTERRUPTED):
            return ""
        failed += status == RunStatus.FAILED
    return f"errors: all of the first {failed} runs here failed" if failed >= most else ""


def target_is_reached(runs: RunIndex, metric: Metric) -> bool:
    """Return whether a run, finished or not, has reached `metric.target`."""
    if metric.target is None:
        return False
    reached = runs.least if metric.sign > 0 else runs.most
    return metric.sign * reached <= metric.sign * metric.target


def loss_by(runs: Sequence[Run], metric: Metric) -> Callable[[Run, float], float]:
    """Return the function from a run's value of the metric to its capped loss; lower is better."""
    scored = [(run.last, run.last.score) for run in runs if run.is_finished]
    losses = [metric.sign * score for _, score in scored if score is not None]
    cap = ScoreCap.of(losses, (trial.guess for trial, _ in scored))
    return lambda run, value: cap.loss(metric.sign * value, run.last.guess)


def past_runs(runs: Sequence[Run], metric: Metric) -> list[PastRun]:
    """Return what a search may learn from `runs`, with W&B's `impute` applied."""
    loss = loss_by(runs, metric)
    own = {
        run.number: loss(run, run.last.score)
        for run in runs
        if run.is_finished and run.last.score is not None
    }
    worst = max(own.values(), default=None)

    def imputed(run: Run, how: str) -> float | None:
        history = [loss(run, value) for value in run.history]
        if how == "worst" or not history:
            return worst
        return history[-1] if how == "latest" else min(history)

    found: list[PastRun] = []
    for run in runs:
        status, score = run.last.status, own.get(run.number)
        running = status in (
            RunStatus.RUNNING,
            RunStatus.WAITING,
            RunStatus.INTERRUPTED,
            RunStatus.LOST,
        )
        failed = status in (*FAULTS, RunStatus.DIVERGED, RunStatus.IMPOSSIBLE)
        if failed and metric.impute != "worst":
            score, failed = imputed(run, metric.impute), False
        elif running:
            how = metric.impute_while_running
            score = imputed(run, how) if how else None
        found.append(PastRun(run.values, score, running=running, failed=failed))
    return found


def lazy_past_runs(runs: RunIndex, metric: Metric) -> LazyPastRuns:
    """Return what a search may learn from `runs`, computed when first asked for."""
    return LazyPastRuns(runs.keys, lambda: past_runs(runs, metric))
