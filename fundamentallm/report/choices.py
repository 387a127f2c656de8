"""Mappings as values of a sweep: each is one choice, under the name of its parameter.

A run's config has the members of the mapping instead, under names of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.report.results import RunResult, parameters_by_setting, setting_key
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.space import hyperparameter_names, spread

DEFAULTS = {name: known.default for name, known in HYPERPARAMETERS.items()}


def with_choices(runs: Sequence[RunResult], sweep: SweepFile | None) -> list[RunResult]:
    """Return the runs of a sweep, each with the mappings that its settings hold."""
    return [replace(run, settings={**run.settings, **_choices(run, sweep)}) for run in runs]


def _choices(run: RunResult, sweep: SweepFile | None) -> dict[str, Any]:
    """Return the mapping that a run was given for each parameter that has mappings."""
    found: dict[str, Any] = {}
    known = run.settings if run.program else {**DEFAULTS, **run.settings}
    for name, parameter in parameters_by_setting(sweep, is_ours=not run.program).items():
        if parameter.has_mappings and name not in run.settings:
            assert isinstance(parameter.distribution, Categorical)
            members = [_members(parameter, v, run) for v in parameter.distribution.values]
            fitting = [i for i, each in enumerate(members) if each and _has(known, each)]
            if fitting:  # the fullest, if one has all members of another
                fullest = max(fitting, key=lambda i: len(members[i]))
                found[name] = parameter.distribution.values[fullest]
    return found


def _members(parameter: Parameter, value: Any, run: RunResult) -> dict[str, Any]:
    """Return the settings that a value stands for, by the names in a run's config.

    Our trainer has its default for what other values set.
    """
    if run.program:
        return dict(_joined(value, parameter.name))
    names = [name for name in hyperparameter_names(parameter) if name in HYPERPARAMETERS]
    members: dict[str, Any] = {name: DEFAULTS[name] for name in names}
    for name, each in spread(parameter, value).items():
        with suppress(ConfigError):
            members[name] = HYPERPARAMETERS[name].parse(each) if name in HYPERPARAMETERS else each
    return members


def _joined(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield the innermost values, their names joined by dots."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, each in value.items():
        yield from _joined(each, f"{name}.{key}")


def _has(settings: Mapping[str, Any], members: Mapping[str, Any]) -> bool:
    return all(
        name in settings and setting_key(settings[name]) == setting_key(value)
        for name, value in members.items()
    )
