"""What a sweep knows of its runs, apart from where that is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fundamentallm.metrics import finite
from fundamentallm.run_folder import RunFolder
from fundamentallm.sweep.score_cap import ScoreCap
from fundamentallm.sweep.search import Tried, Values
from fundamentallm.sweep.spec import Metric

RANKED = ("done", "stopped")
"""How a run can have ended whose score says something of its settings."""
FINISHED = ("done", "diverged", "impossible", "stopped")
"""How an attempt can end so that its run is over; `stopped` is hyperband's doing."""
FAILED = ("failed", "hung", "oom", "died")
"""How an attempt can end by a fault: an error of its own, no step for far longer than its steps
take, no memory, or killed from outside."""
UNFINISHED = (*FAILED, "interrupted", "lost")
"""How an attempt can end so that its run may be tried again: by a fault, asked to stop, or given
up because nothing was heard of its worker."""
WORDS = {"stopped": "stopped early", "died": "failed", "hung": "failed", "oom": "failed"}
WORDS |= {"lost": "interrupted", "waiting": "running"}
WORDS |= {"unfinished": "unfinished (in progress, or killed)"}
"""What is said of a run whose status is another word."""
FEWEST_IN_VAIN = 5  # as W&B's agent gives up
DEATHS = 5  # attempts in a row that may be killed from outside, before a run is given up


@dataclass(frozen=True)
class Attempt:
    """One try at a run, by one worker."""

    id: int
    """In the storage."""
    run: int
    """Counted from 0; a run that is tried again is the same run."""
    values: Values
    status: str
    """`waiting`, `running`, or one of FINISHED and UNFINISHED."""
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
    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
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

    def may_be_tried_again(self, retries: int) -> bool:
        """Whether an unfinished run is worth another attempt.

        `retries` attempts may fail by an error of their own, or be killed beyond `DEATHS`.
        """
        return self.last.status in UNFINISHED and self.retries_needed <= retries

    @property
    def retries_needed(self) -> int:
        """How many `retries` it takes for an unfinished run to be tried again."""
        if self.last.status in ("interrupted", "lost"):
            return 0
        if self.last.status == "died":
            in_a_row = 0
            for attempt in reversed(self.attempts):
                in_a_row += attempt.status == "died"
                if attempt.status not in ("died", "lost"):
                    break
            return max(0, in_a_row - DEATHS + 1)
        return sum(attempt.status in FAILED[:-1] for attempt in self.attempts)


class Runs:
    """The runs of a sweep, brought up to date by the attempts that changed."""

    def __init__(self) -> None:
        """There is none yet."""
        self.known: dict[int, Run] = {}
        self.open: dict[int, Run] = {}
        """Those without a result."""

    def take(self, attempts: Iterable[Attempt]) -> None:
        """Note attempts that are new or have changed; one that was made later has a higher id."""
        for attempt in attempts:
            number = attempt.run
            run = self.known.get(number)
            if run is None and self.known and number < next(reversed(self.known)):
                later = {n: self.known.pop(n) for n in sorted(self.known) if n > number}
            else:
                later = {}
            known = () if run is None else run.attempts
            same = [each for each in known if each.id != attempt.id]
            made = Run(number, tuple(sorted([*same, attempt], key=lambda each: each.id)))
            self.known[number] = made
            self.known.update(later)
            self.open.pop(number, None)
            if not made.is_finished:
                self.open[number] = made

    def all(self) -> list[Run]:
        """Every run, in the order of their numbers."""
        return list(self.known.values())

    def unfinished(self, *statuses: str) -> list[Run]:
        """The runs without a result whose last attempt has one of these statuses, in order."""
        open_runs = [self.open[number] for number in sorted(self.open)]
        return [run for run in open_runs if run.last.status in statuses]


def runs_of(attempts: Sequence[Attempt]) -> list[Run]:
    """Runs in the order of their numbers, attempts in the order in which they were made."""
    runs = Runs()
    runs.take(attempts)
    return runs.all()


def score_of(folder: RunFolder, status: str, metric: Metric) -> float | None:
    """The best value of the metric; of a run that never had one, what its summary says."""
    values = [row[metric.name] for row in folder.rows() if metric.name in row]
    if values:
        return metric.best(values)
    if status not in ("diverged", "impossible"):
        return None
    return finite(folder.read_summary().get(metric.name))


def told(statuses: Iterable[str]) -> str:
    """How runs stand: `7 done, 5 stopped early, 1 diverged`."""
    counts = Counter(WORDS.get(status, status) for status in statuses)
    order = dict.fromkeys((*RANKED, *FINISHED, *FAILED, *counts))
    words = dict.fromkeys(WORDS.get(status, status) for status in order)
    return ", ".join(f"{counts[word]} {word}" for word in words if counts[word])


def in_vain(ends: Iterable[str]) -> str:
    """Why a worker whose runs ended with these statuses had better stop; "" if it need not."""
    counted = [status for status in ends if status != "interrupted"]
    if len(counted) < FEWEST_IN_VAIN or set(counted) != {"failed"}:
        return ""
    return f"errors: all of the first {len(counted)} runs here failed"


def best_of(runs: Sequence[Run], metric: Metric) -> Run | None:
    """The run with the best score, of those that neither diverged nor could not be."""
    ranked = [run for run in runs if run.is_ranked]
    return min(ranked, key=lambda run: metric.sign * (run.last.score or 0.0), default=None)


def target_is_reached(runs: Sequence[Run], metric: Metric) -> bool:
    """Whether a run, also one that goes on, has come as far as `metric.target` asks."""
    if metric.target is None:
        return False
    attempts = (attempt for run in runs for attempt in run.attempts)
    reached = (value for each in attempts for value in (each.score, *each.history))
    aim = metric.sign * metric.target
    return any(value is not None and metric.sign * value <= aim for value in reached)


def loss_by(runs: Sequence[Run], metric: Metric) -> Callable[[Run, float], float]:
    """How a run's value of the metric counts beside `runs`: less is better, and capped."""
    scored = [(run.last, run.last.score) for run in runs if run.is_finished]
    losses = [metric.sign * score for _, score in scored if score is not None]
    cap = ScoreCap.of(losses, (attempt.guess for attempt, _ in scored))
    return lambda run, value: cap.loss(metric.sign * value, run.last.guess)


def tried(runs: Sequence[Run], metric: Metric) -> list[Tried]:
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

    found: list[Tried] = []
    for run in runs:
        status, score = run.last.status, own.get(run.number)
        running = status in ("running", "waiting", "interrupted", "lost")
        failed = status in (*FAILED, "diverged", "impossible")
        if failed and metric.impute != "worst":
            score, failed = imputed(run, metric.impute), False
        elif running:
            how = metric.impute_while_running
            score = imputed(run, how) if how else None
        found.append(Tried(run.values, score, running=running, failed=failed))
    return found
