"""Runs of an earlier sweep that a new sweep's search may learn from, and why not the others.

A run is used if it could be one of the new sweep's: the same metric, text and length, the new
sweep's value of every setting that it does not search, and values in the ranges that it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.config.parsing import DATA
from fundamentallm.metrics import runs_text
from fundamentallm.report.results import Results, RunResult, setting_key
from fundamentallm.status import FAULTS, FINISHED, RunStatus
from fundamentallm.sweep.file.distributions import (
    Categorical,
    Continuous,
    Distribution,
    IntUniform,
    rounded_quantile,
)
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.program.command import command_line
from fundamentallm.sweep.search.base import Values
from fundamentallm.sweep.search.seeds import SEED, names_seed
from fundamentallm.sweep.search.space import hyperparameter_name, hyperparameter_names, spread
from fundamentallm.sweep.store.definition import SweepDefinition
from fundamentallm.sweep.store.records import Trial
from fundamentallm.sweep.store.score_cap import score_of_guess

FREE = (SEED, "compile")
"""Hyperparameters that may differ: they change no result beyond the noise of the seed."""
MOST_NAMED = 3
"""Most differing values, or values of a list, in a message."""


class UnfitError(Exception):
    """A run cannot be used.

    The message is what it `have`s: `num_layers VALUE, outside this sweep's 2 to 6`.
    """

    def __init__(self, before: str, value: object = None, after: str = "") -> None:
        super().__init__(before)
        self.reason = before, after
        self.value = value


@dataclass(frozen=True)
class Usable:
    """The runs of one earlier sweep that can be used."""

    trials: tuple[Trial, ...]
    """The runs as a sweep's storage has them, with values of the new sweep's parameters."""
    line: str
    """How many are used, and why not the others."""


def usable_runs(results: Results, definition: SweepDefinition) -> Usable:
    """Return the runs of an earlier sweep that fit a new one.

    Args:
        results: The earlier sweep's runs, compared by its own metric.
        definition: The new sweep, with the hashes of its texts.
    """
    if why := _why_none(results, definition):
        return Usable((), f"{results.title}: no run used; {why}")
    used: list[Trial] = []
    unfit: dict[tuple[str, str], list[Any]] = {}
    for run in results.runs:
        try:
            _check_end(run, results, definition)
            values = _values(run, definition)
        except UnfitError as error:
            unfit.setdefault(error.reason, []).append(error.value)
        else:
            used.append(_trial(run, values, results))
    total = runs_text(len(results.runs))
    parts = [f"{results.title}: {len(used)} of {total} used", *_reasons(unfit)]
    if used and not definition.space.is_ours:
        parts.append("whether they trained on the same text and as long cannot be checked")
    return Usable(tuple(used), "; ".join(parts))


def _reasons(unfit: Mapping[tuple[str, str], list[Any]]) -> Iterator[str]:
    """Yield why runs are not used, the same reason once, with some of the values."""
    for (before, after), values in unfit.items():
        named = list(dict.fromkeys(str(value) for value in values if value is not None))
        shown = " or ".join(named[:MOST_NAMED]) + (" or others" if named[MOST_NAMED:] else "")
        count = len(values)
        verb = before if count > 1 else before.replace("have ", "has ", 1).replace("were", "was", 1)
        yield f"{count} {verb}{' ' * bool(shown)}{shown}{after}"


def _why_none(results: Results, definition: SweepDefinition) -> str:
    """Return why no run of a sweep can be used; "" if some may."""
    old, new = results.metric, definition.sweep.ranks_by
    if (old.name, old.goal) != (new.name, new.goal):
        return f"it {old.goal}s {old.name}, and this sweep {new.goal}s {new.name}"
    if definition.space.is_ours == results.is_foreign:
        made = "another program" if results.is_foreign else "our trainer"
        return f"{made} made its runs, and this sweep runs {definition.runs_what}"
    if not results.is_foreign:
        return ""
    if results.sweep is None:
        return "its sweep file is unknown, and so is what it searched"
    lines = [command_line(sweep) for sweep in (results.sweep, definition.sweep)]
    if lines[0] != lines[1]:
        return f"it starts `{lines[0]}`, and this sweep `{lines[1]}`"
    own = {parameter.name for parameter in definition.sweep.parameters}
    theirs = {parameter.name for parameter in results.sweep.parameters}
    for names, whose in ((theirs - own, "it"), (own - theirs, "this sweep")):
        if names:
            some = ", ".join(sorted(names)[:MOST_NAMED])
            return f"only {whose} sets {some}, and the program's own value is unknown"
    return ""


def _check_end(run: RunResult, results: Results, definition: SweepDefinition) -> None:
    """Check that a run has a result that compares with those of whole runs, or diverged.

    Raises:
        UnfitError: It has none.
    """
    if run.is_range_test:
        raise UnfitError("were tests of the learning rate")
    if run.status in FAULTS:
        raise UnfitError("failed")
    if run.status not in FINISHED:
        raise UnfitError("have not finished")
    if run.status == RunStatus.STOPPED and definition.sweep.hyperband is None:
        raise UnfitError("were stopped early, and this sweep stops no run early")
    if run.status == RunStatus.DONE and run.score is None:
        raise UnfitError(f"have not logged {results.metric.name}")


def _values(run: RunResult, definition: SweepDefinition) -> Values:
    """Return the values that a run has of the new sweep's parameters.

    Raises:
        UnfitError: It could not be a run of that sweep.
    """
    parameters = definition.sweep.parameters
    if not definition.space.is_ours:
        return {each.name: _program_value(run, each) for each in parameters}
    named = {name for each in parameters for name in hyperparameter_names(each)}
    if DATA not in named and run.settings.get("data_sha256") != definition.data_sha256:
        raise UnfitError("were trained on another text")
    for name in HYPERPARAMETERS:
        if name in named or name in FREE:
            continue
        wanted, value = _shared(definition, name), _setting(run, name)
        if setting_key(value) != setting_key(wanted):
            raise UnfitError(f"have {name}", _shown(value), f", not {_shown(wanted)} as here")
    return {each.name: _value(run, each, definition) for each in parameters}


def _program_value(run: RunResult, parameter: Parameter) -> Any:
    if names_seed(parameter.name):
        return _seed(run.settings.get(parameter.name), parameter)
    if parameter.name not in run.settings:
        raise UnfitError(f"have no value of {parameter.name}")
    return _in_range(run.settings[parameter.name], parameter.distribution, parameter.name)


def _value(run: RunResult, parameter: Parameter, definition: SweepDefinition) -> Any:
    """Return the value of our trainer's parameter; of a list, the entry that sets the same."""
    name, distribution = hyperparameter_name(parameter), parameter.distribution
    if name == SEED:
        return _seed(_setting(run, name), parameter)
    if name == DATA:
        sha256 = run.settings.get("data_sha256")
        texts = definition.texts or {}
        same = (each for each in _choices(distribution) if sha256 and texts.get(each) == sha256)
        if (text := next(same, None)) is None:
            raise UnfitError("were trained on another text")
        return text
    if not isinstance(distribution, Categorical):
        return _in_range(_setting(run, name), distribution, name)
    names = hyperparameter_names(parameter)
    own = {each: _setting(run, each) for each in names}
    for option in distribution.choices:
        sets = {each: _shared(definition, each) for each in names}
        sets |= {
            each: HYPERPARAMETERS[each].parse(value)
            for each, value in spread(parameter, option).items()
        }
        if setting_key(sets) == setting_key(own):
            return option
    if parameter.has_mappings:
        raise UnfitError(f"have none of the combinations of {parameter.name}")
    raise _outside(own[name], distribution, name)


def _seed(value: Any, parameter: Parameter) -> Any:
    """Return the run's seed if the sweep has it, else any: the search takes seeds for noise."""
    try:
        return _in_range(value, parameter.distribution, SEED)
    except UnfitError:
        return rounded_quantile(parameter.distribution, 0.5)


def _in_range(value: Any, distribution: Distribution, name: str) -> Any:
    """Return the value as the distribution has it.

    Raises:
        UnfitError: It is not one of the distribution's.
    """
    if isinstance(distribution, Categorical):
        for option in distribution.choices:
            if setting_key(option) == setting_key(value):
                return option
    elif type(value) in (int, float) and _contains(distribution, value):
        return int(value) if isinstance(distribution, IntUniform) else value
    raise _outside(value, distribution, name)


def _contains(distribution: Distribution, value: float) -> bool:
    if isinstance(distribution, IntUniform):
        return distribution.low <= value <= distribution.high and value == int(value)
    assert isinstance(distribution, Continuous)
    both = distribution.bounds, distribution.ends
    return min(low for low, _ in both) <= value <= max(high for _, high in both)


def _outside(value: Any, distribution: Distribution, name: str) -> UnfitError:
    """Return the error of a value that the new sweep cannot have."""
    if isinstance(distribution, Categorical):
        options = list(map(_shown, distribution.choices))
        if len(options) == 1:
            return UnfitError(f"have {name}", _shown(value), f", not {options[0]} as here")
        some = ", ".join(options[:MOST_NAMED]) + (", ..." if options[MOST_NAMED:] else "")
        return UnfitError(f"have {name}", _shown(value), f", which is not one of {some}")
    ends = (distribution.low, distribution.high) if isinstance(distribution, IntUniform) else None
    low, high = ends or distribution.bounds  # pyright: ignore
    return UnfitError(f"have {name}", _shown(value), f", outside this sweep's {low:g} to {high:g}")


def _choices(distribution: Distribution) -> tuple[Any, ...]:
    return distribution.choices if isinstance(distribution, Categorical) else ()


def _setting(run: RunResult, name: str) -> Any:
    """Return a run's hyperparameter; a run of an older version had its default."""
    return run.settings.get(name, HYPERPARAMETERS[name].default)


def _shared(definition: SweepDefinition, name: str) -> Any:
    """Return the hyperparameter of the new sweep's runs where no parameter sets it."""
    known = HYPERPARAMETERS[name]
    return known.parse(definition.fixed.get(name, known.default))


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value) or '""'


def _trial(run: RunResult, values: Values, results: Results) -> Trial:
    """Return a run as a sweep's storage has it, without its number."""
    return Trial(
        0, 0, values, RunStatus(run.status), "", run.score,
        run.curve(results.metric.name).values,
        guess=score_of_guess(results.metric, run.summary),
    )  # fmt: skip
