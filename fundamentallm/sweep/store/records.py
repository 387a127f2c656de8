"""What a sweep knows of its runs, apart from where that is stored."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from fundamentallm.files.run_folder import RunFolder
from fundamentallm.metrics import finite
from fundamentallm.status import FAULTS, FINISHED, RANKED, RunStatus
from fundamentallm.sweep.file.sweep_file import Metric
from fundamentallm.sweep.search.base import PastRun, Tries, Values, key_of
from fundamentallm.sweep.store.score_cap import ScoreCap

WORDS: Mapping[str, str] = {
    RunStatus.STOPPED: "stopped early",
    RunStatus.DIED: "failed",
    RunStatus.HUNG: "failed",
    RunStatus.OOM: "failed",
    RunStatus.LOST: "interrupted",
    RunStatus.WAITING: "running",
    RunStatus.UNFINISHED: "unfinished (in progress, or killed)",
}
"""What is said of a run whose status is another word."""
FEWEST_IN_VAIN = 5  # as W&B's agent gives up
T = TypeVar("T")
DEATHS = 5  # attempts in a row that may be killed from outside, before a run is given up


@dataclass(frozen=True)
class Trial:
    """One try at a run, by one worker."""

    id: int
    """In the storage."""
    run: int
    """Counted from 0; a run that is tried again is the same run."""
    values: Values
    status: RunStatus
    """`waiting`, `running`, or one of FINISHED and RETRYABLE."""
    owner: str
    score: float | None = None
    """The best value of the metric that it reached, as it was logged."""
    history: tuple[float, ...] = ()
    """The values of the metric, in the order of the step."""
    seconds: float = 0.0
    note: str = ""
    guess: float | None = None
    """What a uniform guess scores by the metric; None of runs of other programs, or older ones."""


@dataclass(frozen=True)
class Run:
    """A run of a sweep: its attempts, the last of which counts."""

    number: int
    attempts: tuple[Trial, ...]

    @property
    def last(self) -> Trial:
        """The attempt that counts."""
        return self.attempts[-1]

    @property
    def values(self) -> Values:
        """What it tries; the same in every attempt."""
        return self.last.values

    @property
    def history(self) -> tuple[float, ...]:
        """Of the attempt that counts, or, until it has any, of the one that it goes on from."""
        return next((each.history for each in reversed(self.attempts) if each.history), ())

    @property
    def is_finished(self) -> bool:
        """Whether it has its result."""
        return self.last.status in FINISHED

    @property
    def is_ranked(self) -> bool:
        """Whether its score says something of its settings."""
        return self.last.status in RANKED and self.last.score is not None

    @property
    def retries_needed(self) -> int:
        """How many `retries` it takes for an unfinished run to be tried again.

        So many attempts failed by an error of their own, or were killed beyond `DEATHS`.
        """
        if self.last.status in (RunStatus.INTERRUPTED, RunStatus.LOST):
            return 0
        if self.last.status == RunStatus.DIED:
            in_a_row = 0
            for attempt in reversed(self.attempts):
                in_a_row += attempt.status == RunStatus.DIED
                if attempt.status not in (RunStatus.DIED, RunStatus.LOST):
                    break
            return max(0, in_a_row - DEATHS + 1)
        own_faults = (RunStatus.FAILED, RunStatus.HUNG, RunStatus.OOM)
        return sum(attempt.status in own_faults for attempt in self.attempts)


Reader = Callable[[Run | None, Run], None]
"""Told of a run that has changed: what it was, if it was there, and what it is."""


class RunIndex(Sequence[Run]):
    """The runs of a sweep in the order of their numbers, and what is to be known of all together.

    Brought up to date by the attempts that changed. What is asked of it for every run or row of a
    sweep is kept up to date, too, so that no answer takes longer after 10,000 runs than after ten.
    """

    def __init__(self) -> None:
        """There is none yet."""
        self.runs: list[Run] = []
        self.places: dict[int, int] = {}
        """Of runs in `runs`, by their numbers."""
        self.by_status: defaultdict[RunStatus, list[int]] = defaultdict(list)
        """Numbers of runs by how they stand, rising as all that is sorted here."""
        self.failed: defaultdict[int, list[int]] = defaultdict(list)
        """Numbers of runs that a fault ended, by the retries that they need."""
        self.scores: list[tuple[float, int]] = []
        """Of the runs that are ranked, each with the number."""
        self.seconds = 0.0
        """That the runs which are `done` took together."""
        self.least, self.most = math.inf, -math.inf
        """Values of the metric that any attempt reached."""
        self.keys: set[str] = set()
        """`key_of` the values of every run."""
        self.readers: list[Reader] = []

    @classmethod
    def of(cls, attempts: Iterable[Trial]) -> RunIndex:
        """The runs that were attempted."""
        runs = cls()
        runs.take(attempts)
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
        """The run of this number."""
        return self.runs[self.places[number]]

    def take(self, attempts: Iterable[Trial]) -> None:
        """Note attempts that are new or have changed; one that was made later has a higher id."""
        for attempt in attempts:
            place = self.places.get(attempt.run)
            before = None if place is None else self.runs[place]
            known = () if before is None else before.attempts
            same = [each for each in known if each.id != attempt.id]
            run = Run(attempt.run, tuple(sorted([*same, attempt], key=lambda each: each.id)))
            if place is not None:
                self.runs[place] = run
            else:
                self._insert(run)
            if before is not None:
                self._count(before, _remove, -1)
            self._count(run, insort, 1)
            for value in (attempt.score, *attempt.history):
                if value is not None:
                    self.least, self.most = min(self.least, value), max(self.most, value)
            for reader in self.readers:
                reader(before, run)

    def _insert(self, run: Run) -> None:
        place = bisect_left(self.runs, run.number, key=lambda each: each.number)
        self.runs.insert(place, run)
        for index in range(place, len(self.runs)):  # nearly always it alone, the last
            self.places[self.runs[index].number] = index
        self.keys.add(key_of(run.values))

    def _count(self, run: Run, change: Callable[[list[Any], Any], None], by: int) -> None:
        """Take a run into all that is counted, or out of it again."""
        status, score = run.last.status, finite(run.last.score)
        change(self.by_status[status], run.number)
        if status in FAULTS:
            change(self.failed[run.retries_needed], run.number)
        if status == RunStatus.DONE:
            self.seconds += by * run.last.seconds
        if run.is_ranked and score is not None:
            change(self.scores, (score, run.number))

    def read_by(self, reader: Reader) -> None:
        """Tell `reader` of every run, and from now on of each change: what it was, what it is."""
        for run in self.runs:
            reader(None, run)
        self.readers.append(reader)

    def statuses(self) -> dict[RunStatus, int]:
        """How many runs stand how."""
        found = self.by_status.copy().items()  # a terminal view reads in a thread of its own
        return {status: len(numbers) for status, numbers in found if numbers}

    def how_many(self, *statuses: RunStatus) -> int:
        """How many runs have one of these statuses."""
        return sum(len(self.by_status[status]) for status in statuses)

    def standing(self, status: RunStatus) -> list[Run]:
        """The runs with this status."""
        return [self.numbered(number) for number in self.by_status[status]]

    def to_try_again(self, retries: int) -> Run | None:
        """The first unfinished run that is worth another attempt; those without a fault go first.

        `retries`: how many more attempts than one may fail by an error of their own.
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
        """The run with the best score, of those that neither diverged nor could not be."""
        if not self.scores:
            return None
        place = 0
        if metric.sign < 0:  # the first of the runs that share the highest score
            place = bisect_left(self.scores, (self.scores[-1][0],))
        return self.numbered(self.scores[place][1])


def _remove(values: list[T], value: T) -> None:
    """Take a value out of a list that is sorted."""
    del values[bisect_left(values, value)]  # pyright: ignore


def score_of(folder: RunFolder, status: RunStatus, metric: Metric) -> float | None:
    """The best value of the metric; of a run that never had one, what its summary says."""
    values = [row[metric.name] for row in folder.rows() if metric.name in row]
    if values:
        return metric.best(values)
    if status not in (RunStatus.DIVERGED, RunStatus.IMPOSSIBLE):
        return None
    return finite(folder.read_summary().get(metric.name))


def told(statuses: Mapping[Any, int]) -> str:
    """How runs stand, by how many have which status: `7 done, 5 stopped early, 1 diverged`."""
    counts: Counter[str] = Counter()
    for status, count in statuses.items():
        counts[WORDS.get(status, status)] += count
    order = dict.fromkeys((*RANKED, *FINISHED, *FAULTS, *counts))
    words = dict.fromkeys(WORDS.get(status, status) for status in order)
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def in_vain(ends: Iterable[str]) -> str:
    """Why a worker whose runs ended with these statuses had better stop; "" if it need not."""
    failed = 0
    for status in ends:
        if status not in (RunStatus.FAILED, RunStatus.INTERRUPTED):
            return ""
        failed += status == RunStatus.FAILED
    return f"errors: all of the first {failed} runs here failed" if failed >= FEWEST_IN_VAIN else ""


def target_is_reached(runs: RunIndex, metric: Metric) -> bool:
    """Whether a run, also one that goes on, has come as far as `metric.target` asks."""
    if metric.target is None:
        return False
    reached = runs.least if metric.sign > 0 else runs.most
    return metric.sign * reached <= metric.sign * metric.target


def loss_by(runs: Sequence[Run], metric: Metric) -> Callable[[Run, float], float]:
    """How a run's value of the metric counts beside `runs`: less is better, and capped."""
    scored = [(run.last, run.last.score) for run in runs if run.is_finished]
    losses = [metric.sign * score for _, score in scored if score is not None]
    cap = ScoreCap.of(losses, (attempt.guess for attempt, _ in scored))
    return lambda run, value: cap.loss(metric.sign * value, run.last.guess)


def tried(runs: Sequence[Run], metric: Metric) -> list[PastRun]:
    """What a search may learn from `runs`, with W&B's `impute` applied."""
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


def tries(runs: RunIndex, metric: Metric) -> Tries:
    """What a search may learn from `runs`; no more is worked out than it asks for."""
    return Tries(runs.keys, lambda: tried(runs, metric))
