"""Mappings as values of a sweep: each is one choice, under the name of its parameter.

A run's config has the members of the mapping instead, under names of their own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.report.results import RunResult, parameters_by_setting, setting_key
from fundamentallm.sweep.file.distributions import Categorical
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.program.logged import settings as flat_settings
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
        if not (_is_choice(parameter, run) and isinstance(parameter.distribution, Categorical)):
            continue
        members = [_members(parameter, v, run) for v in parameter.distribution.values]
        fitting = [i for i, each in enumerate(members) if each and _has(known, each)]
        if fitting:  # the fullest, if one has all members of another
            fullest = max(fitting, key=lambda i: len(members[i]))
            found[name] = parameter.distribution.values[fullest]
    return found


def _is_choice(parameter: Parameter, run: RunResult) -> bool:
    """Return whether the config may hold values of a parameter in another form."""
    if not run.program:
        return parameter.has_mappings
    distribution = parameter.distribution
    return isinstance(distribution, Categorical) and any(
        isinstance(value, Mapping | list) for value in distribution.values
    )


def _members(parameter: Parameter, value: Any, run: RunResult) -> dict[str, Any]:
    """Return the settings that a value stands for, by the names in a run's config.

    Our trainer has its default for what other values set.
    """
    if run.program:
        in_order = json.loads(json.dumps(value, sort_keys=True))  # as W&B stores it
        return flat_settings({parameter.name: in_order})
    names = [name for name in hyperparameter_names(parameter) if name in HYPERPARAMETERS]
    members: dict[str, Any] = {name: DEFAULTS[name] for name in names}
    for name, each in spread(parameter, value).items():
        with suppress(ConfigError):
            members[name] = HYPERPARAMETERS[name].parse(each) if name in HYPERPARAMETERS else each
    return members


def _has(settings: Mapping[str, Any], members: Mapping[str, Any]) -> bool:
    return all(
        name in settings and setting_key(settings[name]) == setting_key(value)
        for name, value in members.items()
    )
