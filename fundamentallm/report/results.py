"""Results of runs, from folders or W&B: the input of every table, figure and rule."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.data.builtin_corpus import BUILTIN
from fundamentallm.data.unknown_characters import describe_unscored
from fundamentallm.files.samples import Sample
from fundamentallm.metrics import LARGER_IS_BETTER, METRICS, finite
from fundamentallm.significance import Noise, pooled_noise
from fundamentallm.status import RANKED, RunStatus
from fundamentallm.sweep.file.distributions import value_key
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile
from fundamentallm.sweep.search.seeds import SEED, names_seed
from fundamentallm.sweep.search.space import SearchSpace, hyperparameter_name, hyperparameter_names
from fundamentallm.sweep.store.records import summary_score
from fundamentallm.sweep.store.score_cap import ScoreCap, score_of_guess

NOT_SETTINGS = ("data_sha256",)
LOSS_DEFINING = ("data", "data_sha256", "tokenizer", "val_split")
"""Settings that define what a loss measures: losses across their values are not comparable."""
PROGRESS_ORDER: Mapping[str, int] = {
    RunStatus.DONE: 0,
    RunStatus.DIVERGED: 0,
    RunStatus.STOPPED: 1,
    RunStatus.IMPOSSIBLE: 2,
}
"""Statuses by how far runs of them came; all others came less far."""
TEXT_FIELDS = ("status", "stopped_by", "device", "precision", "program", "reused_from")
NUMBER_FIELDS = (
    *("best_step", "step", "total_steps", "reused_steps", "seconds", "parameters"),
    *("vocabulary_size", "characters_per_token", "unknown_characters", "exit_code"),
)
"""Fields of a run's summary that hold numbers."""
MAX_NAMES = 30  # of metrics, in a message


@dataclass(frozen=True)
class Curve:
    """Values of one metric of one run."""

    steps: tuple[int, ...]
    """Steps, rising: our optimizer's, or those under which another program logs."""
    values: tuple[float, ...]
    """Finite."""

    @classmethod
    def of(cls, by_step: Mapping[int, float]) -> Curve:
        """Return the curve of values by step, in any order."""
        steps = sorted(by_step)
        return cls(tuple(steps), tuple(float(by_step[step]) for step in steps))

    def __len__(self) -> int:
        return len(self.steps)


EMPTY = Curve((), ())


@dataclass(frozen=True)
class RunResult:
    """Result of one run."""

    name: str
    status: str
    """`done`, `stopped` (early), `diverged`, `impossible`, `failed`, `interrupted`,
    `running`, or `unfinished`: in progress on another machine, or killed."""
    settings: Mapping[str, Any]
    """Hyperparameters, `data` and its hash, or another program's config, as in config.yaml."""
    score: float | None
    """Best value of the metric, as logged; `Results.loss` compares runs."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """Curves by metric."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[tuple[int, Sample]] = ()
    location: str = ""
    """Folder, or address on W&B."""
    period: tuple[float, float] | None = None
    """Start and end, or last sign of life, in seconds since 1970; None if unknown."""

    @property
    def is_ranked(self) -> bool:
        """Return whether its score can be compared."""
        return self.status in RANKED and self.score is not None and not self.is_range_test

    @property
    def is_range_test(self) -> bool:
        """Return whether it is a learning-rate range test."""
        return "range_test" in self.summary

    @property
    def program(self) -> str:
        """The command of another program; empty for a run of our trainer."""
        return str(self.summary.get("program", ""))

    @property
    def last_values(self) -> dict[str, float]:
        """The numbers in the summary of another program's run, by metric."""
        logged = self.summary.get("summary", {})
        return {name: value for name, value in logged.items() if finite(value) is not None}

    def observation(self, metric: Metric) -> str:
        """Return text that identifies an observation: same settings, seed and text.

        Without a known seed, or from another program, copies must also have the same values.
        """
        settings = {
            **self.settings,
            "data": self.settings.get("data_sha256", self.settings.get("data")),
        }
        key: list[Any] = [settings]
        if SEED not in settings or self.program:
            key += [self.score, self.curve(metric.name).values]
        return _canonical_text(key)

    def best_step(self, metric: Metric) -> int | None:
        """Return the step of its best value of the metric; None if it has none."""
        curve = self.curve(metric.name)
        best = metric.best(curve.values)
        return None if best is None else curve.steps[curve.values.index(best)]

    def curve(self, metric: str) -> Curve:
        """Return the values of one metric; empty if it was never logged."""
        return self.curves.get(metric, EMPTY)


@dataclass(frozen=True)
class Results:
    """Runs that are analyzed together: a sweep's, or any."""

    title: str
    metric: Metric
    runs: Sequence[RunResult]
    sweep: SweepFile | None = None
    """Sweep file, if all runs belong to one sweep."""
    notes: Sequence[str] = ()
    """Sentences about missing or unreadable parts."""
    when: str = ""
    """Words like ` after 3 evaluations`, if scores are not of whole runs."""
    refinable: bool = False
    """True for a sweep of our trainer in a folder, whose best `fundamentallm refine` repeats."""
    remarks: str = ""
    """The user's notes on the sweep, from `notes.md`."""
    searched: Sequence[str] | None = None
    """Settings that sweeps of another program searched, which alone are compared; None for all."""

    @cached_property
    def is_foreign(self) -> bool:
        """True if another program made any of the runs: nothing of our trainer applies then."""
        return any(run.program for run in self.runs)

    def space(self, fixed: Mapping[str, Any]) -> SearchSpace | None:
        """Return the sweep's search space with these `fixed` settings."""
        if self.sweep is None:
            return None
        return SearchSpace(self.sweep, fixed, is_ours=not self.is_foreign)

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The sweep's parameters by the name of their setting; empty without a sweep."""
        return parameters_by_setting(self.sweep, is_ours=not self.is_foreign)

    def is_seed(self, name: str) -> bool:
        """Return whether a setting only repeats a configuration."""
        return name == SEED or (self.is_foreign and names_seed(name))

    @property
    def loss_defining(self) -> Sequence[str]:
        """Settings that define what a loss measures: losses across them are not comparable."""
        return () if self.is_foreign else LOSS_DEFINING

    @cached_property
    def _kept(self) -> dict[str, RunResult]:
        """The run that counts for each observation: the one that came farthest."""
        found: dict[str, RunResult] = {}
        for run in sorted(self.runs, key=_progress_key):
            found.setdefault(run.observation(self.metric), run)
        return found

    def original(self, run: RunResult) -> RunResult:
        """Return the run that counts if this one repeats it; else the run itself."""
        return self._kept.get(run.observation(self.metric), run)

    @cached_property
    def observations(self) -> list[RunResult]:
        """Runs that repeat no other; of repeated ones, the one that came farthest.

        Counts and conclusions use these.
        """
        kept = set(map(id, self._kept.values()))
        return [run for run in self.runs if id(run) in kept]

    @cached_property
    def ranked(self) -> list[RunResult]:
        """Observations with a score that can be compared, the best first."""
        return self.by_loss(self.observations)

    @cached_property
    def comparable(self) -> list[RunResult]:
        """Ranked runs that went on to their end, or all where none did; the best first.

        One that was stopped early has the score of a shorter run, and was stopped for being worse.
        """
        return [run for run in self.ranked if run.status == RunStatus.DONE] or self.ranked

    @cached_property
    def best(self) -> RunResult | None:
        """The run with the best score; of the best configuration where seeds were repeated."""
        if any(len(runs) > 1 for runs in self.configurations):
            return self.contenders[0][0]
        return self.ranked[0] if self.ranked else None

    @property
    def best_score(self) -> float | None:
        """The score of the best; the mean over its seeds where seeds were repeated."""
        if self.best is None:
            return None
        seeds = next((runs for runs in self.configurations if self.best in runs), [])
        if len(seeds) < 2:
            return self.best.score
        return self.metric.sign * sum(map(self.loss, seeds)) / len(seeds)

    def by_loss(self, runs: Sequence[RunResult]) -> list[RunResult]:
        """Return runs with a comparable score, the best first; beyond the cap by score."""
        scored = [run for run in runs if run.is_ranked]
        scored.sort(key=lambda run: self.metric.sign * (run.score or 0.0))
        return sorted(scored, key=self.loss)

    def loss(self, run: RunResult) -> float:
        """Return the score, negated if higher is better, and capped against blow-ups."""
        assert run.score is not None
        guess = score_of_guess(self.metric, run.summary)
        return self._cap.loss(self.metric.sign * run.score, guess)

    def shown_score(self, run: RunResult) -> float | None:
        """Return the capped score for an axis; None if there is none."""
        return None if run.score is None else self.metric.sign * self.loss(run)

    def is_capped(self, run: RunResult) -> bool:
        """Return whether a run scored beyond the cap."""
        return run.score is not None and self.loss(run) < self.metric.sign * run.score

    @cached_property
    def _cap(self) -> ScoreCap:
        scored = [run for run in self.observations if run.score is not None]
        losses = [self.metric.sign * (run.score or 0.0) for run in scored]
        return ScoreCap.of(losses, (score_of_guess(self.metric, run.summary) for run in scored))

    @cached_property
    def differing(self) -> list[str]:
        """Settings in which runs differ: the sweep's first, in its order; then others.

        The members of a choice are part of it.
        """
        own = (*self.parameters, *(self.searched or ()))
        known = () if self.is_foreign else HYPERPARAMETERS
        names = dict.fromkeys((*own, *known, *self._all_names))
        left_out = {*NOT_SETTINGS, *self._members}
        return [name for name in names if name not in left_out and self._differs(name)]

    @cached_property
    def varied(self) -> list[str]:
        """Settings that are compared: those that differ, of another program's only the searched.

        A program may put the time and its paths into its config.
        """
        return [n for n in self.differing if self.searched is None or n in self.searched]

    @cached_property
    def fixed(self) -> dict[str, Any]:
        """Settings that are the same in every run that has them."""
        every: dict[str, Any] = {}
        for run in self.runs:
            every = {**run.settings, **every}
        left_out = {*self.differing, *self._members, *NOT_SETTINGS}
        return {name: value for name, value in every.items() if name not in left_out}

    @cached_property
    def _members(self) -> set[str]:
        """Settings that are members of a choice among mappings."""
        names = self._all_names
        if self.is_foreign:
            choices = tuple(f"{n}." for n in (self.searched or self.parameters) if n in names)
            return {name for name in names if name.startswith(choices)}
        choices = [p for name, p in self.parameters.items() if p.has_mappings and name in names]
        return {name for each in choices for name in hyperparameter_names(each)}

    @cached_property
    def configurations(self) -> list[list[RunResult]]:
        """Comparable runs, those that differ in nothing but the seed together; best mean first."""
        groups: dict[str, list[RunResult]] = {}
        for run in self.comparable:
            groups.setdefault(self._configuration(run), []).append(run)
        return sorted(groups.values(), key=lambda runs: sum(map(self.loss, runs)) / len(runs))

    @cached_property
    def noise(self) -> Noise | None:
        """Spread between seeds; None if no configuration was repeated."""
        return pooled_noise([[self.loss(run) for run in runs] for runs in self.configurations])

    @cached_property
    def contenders(self) -> list[list[RunResult]]:
        """Configurations that diverged with no seed; all of them, if each did with one."""
        risky = {self._configuration(run) for run in self.runs if run.status == RunStatus.DIVERGED}
        safe = [g for g in self.configurations if self._configuration(g[0]) not in risky]
        return safe or self.configurations

    def _configuration(self, run: RunResult) -> str:
        """Return text that identifies a configuration: all settings but the seed."""
        names = [name for name in (*self.varied, *NOT_SETTINGS) if not self.is_seed(name)]
        return repr([_key(run, name) for name in names])

    def _differs(self, name: str) -> bool:
        """Return whether runs differ; one that never started may have only searched settings."""
        return len({_key(run, name) for run in self.observations if name in run.settings}) > 1

    @cached_property
    def _all_names(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.settings))


def parameters_by_setting(sweep: SweepFile | None, *, is_ours: bool) -> dict[str, Parameter]:
    """Return a sweep's parameters by the name under which a run has the value."""
    parameters = () if sweep is None else sweep.parameters
    return {_setting_name(p) if is_ours else p.name: p for p in parameters}


def _setting_name(parameter: Parameter) -> str:
    """Return the hyperparameter, or the name of a choice among mappings of hyperparameters."""
    name = hyperparameter_name(parameter)
    is_taken = parameter.has_mappings and name in HYPERPARAMETERS
    return "+".join(hyperparameter_names(parameter)) if is_taken else name


def choose_metric(name: str, own: Metric | None) -> Metric:
    """Return the named metric with its goal, else the sweep's own, else `val_loss`."""
    own = own or Metric("val_loss")
    if not name or name == own.name:
        return own
    return Metric(name, "maximize" if name in LARGER_IS_BETTER else "minimize")


def score_of(
    curves: Mapping[str, Curve], summary: Mapping[str, Any], status: str, metric: Metric
) -> float | None:
    """Return a run's score: the best value of its curve, else what its summary has."""
    best = metric.best(curves[metric.name].values) if metric.name in curves else None
    return summary_score(summary, status, metric) if best is None else best


def assumed_goal_notes(metric: Metric, own: Metric | None) -> list[str]:
    """Return a note if the goal of a metric is unknown."""
    if metric.name in METRICS or metric == own:
        return []
    return [f"lower {metric.name} counts as better, because no sweep file gives its goal"]


def unscored_notes(runs: Sequence[RunResult]) -> list[str]:
    """Return a note for each text whose validation part has unknown characters."""
    notes: dict[str, None] = {}
    for run in runs:
        count, characters = map(run.summary.get, ("unknown_characters", "unknown_examples"))
        if count and isinstance(characters, str):
            name = str(run.settings.get("data", BUILTIN))
            notes[describe_unscored(name, count, characters)] = None
    return list(notes)


def missing_metric_note(runs: Sequence[RunResult], metric: Metric, sweep: SweepFile | None) -> str:
    """Return a note that no run has the metric, with those that they have."""
    known = sorted({name for run in runs for name in (*run.curves, *run.last_values)})
    if not known:
        return "no run has logged a metric yet"
    if sweep is not None and metric == sweep.ranks_by and sweep.metric is None:
        return f"the sweep file gives no metric; runs have {_list(known)}; choose one with --metric"
    near = get_close_matches(metric.name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"no run has logged {metric.name}; {hint}they have {_list(known)}; choose one with --metric"
    )


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def plain_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return another program's config with numbers that no float can hold as text."""

    def plain(value: Any) -> Any:
        return str(value) if type(value) in (int, float) and finite(value) is None else value

    return {name: plain(value) for name, value in config.items()}


def plain_summary(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the summary without fields of a wrong type."""
    kept = {
        name: value
        for name, value in summary.items()
        if (name not in NUMBER_FIELDS or finite(value) is not None)
        and (name not in TEXT_FIELDS or isinstance(value, str))
    }
    test = summary.get("range_test")
    if not (isinstance(test, Mapping) and all(finite(test.get(end)) for end in ("low", "high"))):
        kept.pop("range_test", None)
    if not isinstance(summary.get("summary"), Mapping):
        kept.pop("summary", None)
    return kept


def _progress_key(run: RunResult) -> tuple[bool, int]:
    """Return a sorting key: runs that came farthest first."""
    return run.score is None and run.status != RunStatus.DIVERGED, PROGRESS_ORDER.get(run.status, 3)


def setting_key(value: object) -> str:
    """Return text that is equal for equal values, 1 and 1.0 among them; YAML has dates too."""
    try:
        return value_key(value)
    except (TypeError, RecursionError):
        return repr(value)


def _key(run: RunResult, name: str) -> str:
    """Return text that is equal for equal values of `name`."""
    return _canonical_text(run.settings.get(name))


def _canonical_text(value: object) -> str:
    """Return text that is equal for equal values; other programs mix types of keys."""
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except TypeError:
        return repr(value)
