"""A sweep file without its traps: what `check` offers in place of one that it warns of."""

from __future__ import annotations

from copy import deepcopy

from fundamentallm.sweep.check.warnings import linear_where_logs_are_meant
from fundamentallm.sweep.file.yaml_writer import Commented, sweep_text
from fundamentallm.sweep.search.space import SearchSpace, fitting_heads, hyperparameter_name

RUNS = 20


def repaired(points: SearchSpace) -> str | None:
    """The file's text, with logarithms where they are meant and without impossible points.

    None if there is nothing to mend, or nothing that would mend it.
    """
    sweep = points.sweep
    content = deepcopy(dict(sweep.content))
    changed = sweep.method != "grid" and sweep.run_cap is None
    if changed:
        content["run_cap"] = Commented(RUNS, "else it never ends")
    for parameter in sweep.parameters:
        ends = linear_where_logs_are_meant(sweep, parameter)
        if ends is not None:
            entry = parameter.entry(content)
            entry.clear()
            entry["distribution"] = Commented("log_uniform_values", "equal factors are as likely")
            entry |= dict(zip(("min", "max"), ends, strict=True))
            changed = True
    if fit := fitting_heads(points):
        heads = next(p for p in sweep.parameters if hyperparameter_name(p) == "num_heads")
        entry = heads.entry(content)
        entry.clear()
        entry["values"] = Commented(fit, "those that divide every model_dim")
        changed = True
    return sweep_text(content, f"{sweep.name}, repaired") if changed else None
