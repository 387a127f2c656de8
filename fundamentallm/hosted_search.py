"""Our search for a sweep on W&B: `wandb sweep-scheduler` asks it, `wandb agent` runs what it says.

The scheduler imports a Python file that the sweep names. A file of one line is enough:

    from fundamentallm.hosted_search import bayes, configuration

`bayes`, `random` and `grid` return the study that the scheduler asks and tells, as
`scheduler: {engine: optuna, source: FILE, optimizer: bayes, search_space: configuration}` in the
sweep file has it. docs/search.md has a whole example.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import click
import optuna
from optuna.pruners import NopPruner
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from fundamentallm.cli.sweep_flags import read_shared_settings
from fundamentallm.config.parsing import unwrapped
from fundamentallm.errors import FundamentallmError, one_line
from fundamentallm.metrics import finite
from fundamentallm.status import FINISHED, RunStatus
from fundamentallm.sweep.file.distributions import Categorical, Continuous, IntUniform, value_key
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import Metric, SweepFile, examine_mapping
from fundamentallm.sweep.program.ownership import is_ours
from fundamentallm.sweep.search.base import Search, Values, key_of
from fundamentallm.sweep.search.bayes import BayesSearch
from fundamentallm.sweep.search.choose import choose_search
from fundamentallm.sweep.search.space import SearchSpace, check_space, hyperparameter_name
from fundamentallm.sweep.store.records import Run, Trial, past_runs
from fundamentallm.sweep.store.score_cap import score_of_guess
from fundamentallm.sweep.store.stored_values import StoredError, ValueCheck
from fundamentallm.trackers.wandb_api import WandbApi, WandbApiError, address_and_key

__all__ = ["bayes", "configuration", "grid", "random"]
LOG = logging.getLogger(__name__)
VALUES, UNSCORED = "values", "unscored"
"""Attributes of a trial: the values of its parameters; true if it ended without a score."""
PAGE = 100
RUNS = """query SweepRuns(
  $entity: String!, $project: String!, $sweep: String!, $first: Int!, $cursor: String
) {
  project(name: $project, entityName: $entity) {
    sweep(sweepName: $sweep) {
      runs(first: $first, after: $cursor) {
        pageInfo { hasNextPage endCursor }
        edges { node { config summaryMetrics } }
      }
    }
  }
}"""
"""Runs of a sweep with their summaries, of which the scheduler passes on only the metric."""
STATUSES = {
    TrialState.RUNNING: RunStatus.RUNNING,
    TrialState.COMPLETE: RunStatus.DONE,
    TrialState.PRUNED: RunStatus.STOPPED,
    TrialState.FAIL: RunStatus.FAILED,
}


class HostedSweep(Protocol):
    """Facts about a sweep on W&B, as the scheduler gives them."""

    @property
    def id(self) -> str:
        """Return the sweep's id."""
        ...

    @property
    def name(self) -> str:
        """Return the name that people see."""
        ...

    @property
    def entity(self) -> str:
        """Return the W&B user or team."""
        ...

    @property
    def project(self) -> str:
        """Return the W&B project."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Return the content of the sweep file."""
        ...


def bayes(sweep: HostedSweep, *, seed: int = 0, sampler: str = "auto") -> Study:
    """Return the study of our Bayesian search.

    Args:
        sweep: The sweep on W&B.
        seed: Seed of the search, as `fundamentallm sweep --seed`.
        sampler: `auto`, `gp` or `tpe`, as `--sampler`.

    Raises:
        ValueError: The sweep cannot be searched; the message has a line for each reason.
    """
    return _study(sweep, "bayes", seed, sampler)


def random(sweep: HostedSweep, *, seed: int = 0) -> Study:
    """Return the study of our random search, without repeats; arguments as of `bayes`."""
    return _study(sweep, "random", seed)


def grid(sweep: HostedSweep) -> Study:
    """Return the study of a grid in W&B's order, without impossible configurations."""
    return _study(sweep, "grid")


def configuration(trial: optuna.Trial) -> dict[str, Any]:
    """Return the values of a trial as its run gets them: by name, nested as in the sweep file."""
    study = trial.study
    return study.configuration(trial) if isinstance(study, _HostedStudy) else {}


class _HostedStudy(Study):
    """Study whose trials get their values from our search.

    The values are an attribute of a trial, for Optuna does not know all of W&B's distributions. Its
    parameters show them to people and to Optuna's pruners and terminators.
    """

    def __init__(
        self, space: SearchSpace, metric: Metric, search: Search, hosted: HostedSweep
    ) -> None:
        storage = InMemoryStorage()
        direction = StudyDirection.MINIMIZE if metric.sign > 0 else StudyDirection.MAXIMIZE
        named = optuna.create_study(storage=storage, direction=direction)
        super().__init__(named.study_name, storage, _Sampler(), NopPruner())
        self.space, self.metric, self.search, self.hosted = space, metric, search, hosted
        self.check_values = ValueCheck(space.sweep.parameters)
        self.summaries: dict[str, Mapping[str, Any]] = {}
        """Summaries of our trainer's runs by `key_of` their values, as W&B last gave them."""

    @property
    def sweep(self) -> SweepFile:
        """The sweep file."""
        return self.space.sweep

    def is_exhausted(self) -> bool:
        """Enqueue the next trial; return whether there is none."""
        values = self._suggest()
        if values is not None:
            self._enqueue(values)
        return values is None

    def configuration(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return the values of an enqueued trial."""
        for parameter in self.space.searched:
            _record(trial, parameter)
        return self.sweep.nested(trial.user_attrs[VALUES])

    def enqueue_trial(
        self,
        params: dict[str, Any],
        user_attrs: dict[str, Any] | None = None,
        skip_if_exists: bool = False,
    ) -> None:
        """Enqueue a run that W&B has, by its whole config.

        Raises:
            ValueError: Its values are not those of the sweep, so nothing can be learned.
        """
        self._enqueue(self._values(params))

    def _enqueue(self, values: Values) -> None:
        shown = {each.name: _shown(each, values[each.name]) for each in self.space.searched}
        super().enqueue_trial(shown, {VALUES: values})

    def tell(
        self,
        trial: optuna.Trial | int,
        values: Any = None,
        state: TrialState | None = None,
        skip_if_finished: bool = False,
    ) -> FrozenTrial:
        """Finish a trial, also one whose score is no finite number, which Optuna refuses."""
        if state == TrialState.COMPLETE and (values := self._score(values)) is None:
            state = TrialState.FAIL
            if isinstance(trial, optuna.Trial):
                trial.set_user_attr(UNSCORED, True)
        return super().tell(trial, values, state, skip_if_finished)

    def _score(self, value: object) -> float | None:
        """Return a score from a run's summary, which has a mapping for `define_metric`."""
        if not isinstance(value, Mapping):
            return finite(value)
        best = "min" if self.metric.goal == "minimize" else "max"
        scores = (finite(value.get(name)) for name in (best, "best", "last"))
        return next((score for score in scores if score is not None), None)

    def _suggest(self) -> Values | None:
        """Return values for the next trial, as our engine chooses those of the next run."""
        self._read_summaries()
        runs = [run for trial in self.get_trials(deepcopy=False) if (run := self._run(trial))]
        cap = self.sweep.run_cap
        if (cap is not None and len(runs) >= cap) or self._reached_target(runs):
            return None
        known = past_runs(runs, self.metric)
        verbosity = optuna.logging.get_verbosity()  # bayes lowers it, but the scheduler logs, too
        try:
            return self.search.suggest(len(runs), known)
        finally:
            optuna.logging.set_verbosity(verbosity)

    def _run(self, trial: FrozenTrial) -> Run | None:
        """Return a trial as our engine records a run; None if it has no values yet."""
        if VALUES not in trial.user_attrs:
            return None
        values = trial.user_attrs[VALUES]
        reported = sorted(trial.intermediate_values.items())
        history = [value for _, value in reported if finite(value) is not None]
        score = self.metric.best([*history, *(trial.values or [])])
        status = STATUSES.get(trial.state, RunStatus.WAITING)
        if UNSCORED in trial.user_attrs:
            status = RunStatus.DIVERGED if self.space.is_ours else RunStatus.DONE
        summary = self.summaries.get(key_of(values), {}) if trial.state.is_finished() else {}
        if summary.get("status") in FINISHED:
            status = RunStatus(summary["status"])
            best = finite(summary.get("best_val_loss"))
            if self.metric.name == "val_loss" and best is not None:
                score = best  # of all its values; those that are told are a sample
        record = Trial(
            id=trial.number,
            run=trial.number,
            values=values,
            status=status,
            owner="",
            score=score,
            history=tuple(history),
            guess=score_of_guess(self.metric, summary),
        )
        return Run(trial.number, (record,))

    def _read_summaries(self) -> None:
        """Read the summaries of our trainer's runs, which say which of them diverged.

        Without them the search continues with what the scheduler tells.
        """
        if not self.space.is_ours or not isinstance(self.search, BayesSearch):
            return
        names = {name: getattr(self.hosted, name) for name in ("entity", "project")}
        variables = {**names, "sweep": self.hosted.id, "first": PAGE, "cursor": None}
        api = WandbApi(*address_and_key())
        try:
            while True:
                runs = api.query(RUNS, variables)["project"]["sweep"]["runs"]
                for edge in runs["edges"]:
                    self._keep_summary(edge["node"])
                if not runs["pageInfo"]["hasNextPage"]:
                    return
                variables["cursor"] = runs["pageInfo"]["endCursor"]
        except (WandbApiError, KeyError, TypeError, ValueError) as error:
            LOG.warning(
                "W&B does not say which runs diverged (%s), so they count by their scores",
                one_line(error, 200),
            )

    def _keep_summary(self, run: Mapping[str, Any]) -> None:
        config, summary = (json.loads(run[name] or "{}") for name in ("config", "summaryMetrics"))
        if isinstance(summary, dict):
            with suppress(ValueError):  # a run of which the study knows nothing either
                self.summaries[key_of(self._values(unwrapped(config) or {}))] = summary

    def _values(self, config: Mapping[str, Any]) -> Values:
        """Return the values of a run by its config on W&B.

        Raises:
            ValueError: They are not those of the sweep, so nothing can be learned.
        """
        values = {each.name: self._value(each, config) for each in self.sweep.parameters}
        try:
            self.check_values(values)
        except StoredError as error:
            raise ValueError(str(error)) from None
        return values

    def _reached_target(self, runs: Sequence[Run]) -> bool:
        """Return whether a run, finished or not, has reached the metric's target."""
        if self.metric.target is None:
            return False
        best = self.metric.best(run.last.score for run in runs if run.last.score is not None)
        sign = self.metric.sign
        return best is not None and sign * best <= sign * self.metric.target

    def _value(self, parameter: Parameter, config: Mapping[str, Any]) -> Any:
        """Return a parameter's value in the config of a run on W&B."""
        found: Any = config
        try:
            for name in parameter.path:
                found = found[name]
            return found
        except (KeyError, TypeError):
            name = hyperparameter_name(parameter)
            if self.space.is_ours and name in config:  # our trainer adds all by their own names
                return config[name]
        raise ValueError(f"its config has no {parameter.name}")


class _Sampler(RandomSampler):
    """Part that the scheduler asks whether any configuration is left; it samples nothing."""

    def is_exhausted(self, study: Study) -> bool:
        """Return whether the search has no more values."""
        assert isinstance(study, _HostedStudy)
        return study.is_exhausted()


def _shown(parameter: Parameter, value: Any) -> Any:
    """Return a value as Optuna takes it: a number, or a choice as text."""
    is_choice = isinstance(parameter.distribution, Categorical)
    return value_key(value) if is_choice else value


def _record(trial: optuna.Trial, parameter: Parameter) -> None:
    """Let an enqueued trial take its value of a parameter."""
    name, distribution = parameter.name, parameter.distribution
    if isinstance(distribution, Categorical):
        trial.suggest_categorical(name, list(dict.fromkeys(map(value_key, distribution.values))))
    elif isinstance(distribution, IntUniform):
        trial.suggest_int(name, distribution.low, distribution.high)
    elif isinstance(distribution, Continuous):
        trial.suggest_float(name, *distribution.bounds)


def _study(sweep: HostedSweep, method: str, seed: int = 0, sampler: str = "auto") -> Study:
    content = {name: value for name, value in sweep.config.items() if name != "scheduler"}
    read = examine_mapping({**content, "method": method}, f"sweep {sweep.name}")
    try:
        settings = None
        if is_ours(read):
            settings = read_shared_settings(read, []).settings
            read.diagnostics.add(check_space(read, settings))
        elif read.program == "train.py":
            LOG.warning("train.py is not in this folder, so its values are not checked")
        read.diagnostics.raise_ambiguous()
        space = SearchSpace(read, settings or {}, is_ours=settings is not None)
        chosen = choose_search(space, seed=seed, sampler=sampler)
    except FundamentallmError as error:
        raise ValueError(str(error)) from None
    except click.UsageError as error:
        raise ValueError(error.format_message()) from None
    if read.metric is None:
        raise ValueError(f"{read.diagnostics.file}: give a metric, e.g. metric: {{name: val_loss}}")
    return _HostedStudy(space, read.metric, chosen.search, sweep)
