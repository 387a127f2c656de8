"""Repair of a sweep file: the file that `check` offers instead of one that it warns about."""

from __future__ import annotations

from copy import deepcopy

from fundamentallm.sweep.check.warnings import linear_where_logs_are_meant
from fundamentallm.sweep.file.diagnostics import key_text
from fundamentallm.sweep.file.distributions import Continuous
from fundamentallm.sweep.file.schema import ENDS
from fundamentallm.sweep.file.yaml_writer import Commented, sweep_text
from fundamentallm.sweep.search.space import SearchSpace, fitting_heads, hyperparameter_name

RUNS = 20
"""Value of a missing run_cap."""


def repaired(space: SearchSpace) -> str | None:
    """Return the file's text with log scales, numbers that W&B reads, and no impossible runs.

    None if there is nothing to repair, or no known repair.
    """
    sweep = space.sweep
    content = deepcopy(dict(sweep.content))
    changed = sweep.method != "grid" and sweep.run_cap is None
    if changed:
        content["run_cap"] = Commented(RUNS, "otherwise it never ends")
    for parameter in sweep.parameters:
        refused = [
            each
            for each in sweep.diagnostics.found
            if each.is_unambiguous and f"{each.key}.".startswith(f"{key_text(parameter.key)}.")
        ]
        if refused and isinstance(parameter.distribution, Continuous):
            entry = parameter.entry(content)
            ends = [name for name in ENDS if name in entry]
            entry |= {name: Commented(float(entry[name]), "as W&B reads it") for name in ends}
            changed = True
        ends = linear_where_logs_are_meant(sweep, parameter)
        if ends is not None:
            entry = parameter.entry(content)
            entry.clear()
            entry["distribution"] = Commented(
                "log_uniform_values", "equal factors are equally likely"
            )
            entry |= dict(zip(("min", "max"), ends, strict=True))
            changed = True
    if fit := fitting_heads(space):
        heads = next(p for p in sweep.parameters if hyperparameter_name(p) == "num_heads")
        entry = heads.entry(content)
        entry.clear()
        entry["values"] = Commented(fit, "those that divide every model_dim")
        changed = True
    return sweep_text(content, f"{sweep.name}, repaired") if changed else None
