"""The `scheduler` of a sweep file: who searches for a sweep on W&B, instead of W&B's server.

Source: schema and code of W&B's own `sweeps` package, version 0.3.0, and wandb 0.31. W&B Launch has
another `scheduler`, which is not read here.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.schema import METHODS, SCHEDULER_FIELDS

KEY = ("scheduler",)
SEARCHED = tuple(method for method in METHODS if method != "custom")
ENGINES: Mapping[str, tuple[str, ...]] = {
    "wandb": SEARCHED,
    "optuna": ("custom",),
    "ax": ("custom",),
}
"""Engines of `wandb sweep-scheduler`, each with the methods that it takes."""
SEARCH_SPACE = "configuration"
"""Name of our function that gives each run its values (hosted_search.py)."""


def hosted_method(content: Mapping[str, Any]) -> str | None:
    """Return the method with which our search drives the sweep on W&B; None if it does not."""
    scheduler = content.get("scheduler")
    if content.get("method") != "custom" or not isinstance(scheduler, Mapping):
        return None
    method, space = scheduler.get("optimizer"), scheduler.get("search_space")
    ours = scheduler.get("engine") == "optuna" and method in SEARCHED and space == SEARCH_SPACE
    return method if ours else None


def check_scheduler(content: Mapping[str, Any], diagnostics: Diagnostics) -> None:
    """Add an error for all that W&B refuses; none of it matters on the user's own machines."""
    refuse, scheduler = diagnostics.refused_by_wandb, content["scheduler"]
    if not isinstance(scheduler, Mapping):
        refuse(KEY, f"got {scheduler!r}; give a mapping with an engine: {{engine: optuna}}")
        return
    for name in scheduler:
        if name not in SCHEDULER_FIELDS:
            near = get_close_matches(str(name), SCHEDULER_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            refuse((*KEY, name), f"W&B refuses this field{hint}")
        elif not isinstance(scheduler[name], str):
            refuse((*KEY, name), f"got {scheduler[name]!r}; give text")
    engine, method = str(scheduler.get("engine")), str(content.get("method"))
    if engine not in ENGINES:
        got = f"got {engine}; give" if "engine" in scheduler else "is missing; give"
        refuse((*KEY, "engine"), f"{got} {', '.join(ENGINES)}")
    elif method in METHODS and method not in ENGINES[engine]:
        takes = " or ".join(ENGINES[engine])
        refuse(("method",), f"W&B takes only {takes} together with scheduler.engine {engine}")
    for name in ("optimizer", "search_space"):
        if name in scheduler and "source" not in scheduler:
            refuse((*KEY, name), "needs source, the Python file that has this function")
    if "early_terminate" in content:
        refuse(
            ("early_terminate",),
            "W&B refuses it together with scheduler; remove one of them (scheduler, to stop runs "
            "early on your own machines)",
        )
    controller = content.get("controller")
    if isinstance(controller, Mapping) and controller.get("type") == "local":
        refuse(("controller",), "W&B refuses type local together with scheduler; remove it")
    if engine in ("optuna", "ax") and not {"metric", "metrics"} & content.keys():
        refuse(KEY, "wandb sweep-scheduler needs a metric, e.g. metric: {name: val_loss}")
