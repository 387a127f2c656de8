"""Every word of W&B's sweep format with its meaning; docs/sweep-file.md is generated from it.

Source: the schema of W&B's own `sweeps` package, version 0.3.0.
"""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "grid": "Every combination once; the last of the sorted names changes fastest.",
    "random": "Independent draws; needs a `run_cap` to end.",
    "bayes": "Draws that learn from earlier runs; needs a `run_cap` to end.",
    "custom": "Another search on W&B; refused here unless it is "
    "[ours](search.md#on-wb-with-wandb-agent).",
}

FIELDS: Mapping[str, str] = {
    "program": "The script of a run: `train.py`. Required unless `command` omits `${program}`.",
    "method": "The search: `grid`, `random` or `bayes`. Required.",
    "parameters": "The search space: each name with its values. Required.",
    "metric": "The score of a run. Required for `bayes` and `early_terminate`.",
    "run_cap": "Most runs, a whole number.",
    "early_terminate": "When to stop a run that is behind.",
    "command": "The words that start a run, with macros.",
    "name": "Name of the sweep and its folder `runs/NAME`; default: the file's.",
    "description": "A note for people.",
    "project": "The W&B project.",
    "entity": "The W&B user or team.",
    "apiVersion": "Ignored.",
    "kind": "Ignored.",
    "controller": "W&B only: a warning here.",
    "job": "W&B Launch only: a warning here.",
    "image_uri": "W&B Launch only: a warning here.",
    "scheduler": "W&B only, for `wandb sweep-scheduler` or Launch.",
    "metrics": "`method: custom` only: a warning here.",
}
TEXT_FIELDS = ("apiVersion", "kind", "description", "program", "job", "image_uri", "entity")
TEXT_FIELDS += ("project", "name")
ALSO_CALLED = {"count": "run_cap", "max_runs": "run_cap", "early_stopping": "early_terminate"}
"""Common wrong names of top-level fields."""
NOT_HERE = {
    "job": "W&B Launch, which starts runs from a queue",
    "image_uri": "W&B Launch, which starts runs from a queue",
    "controller": "wandb controller, which searches for a sweep on W&B",
    "scheduler": "wandb sweep-scheduler, which searches for a sweep on W&B",
}

METRIC_FIELDS: Mapping[str, str] = {
    "name": "A metric that a [run logs](metrics.md): `val_loss`. Required.",
    "goal": "`minimize`, the default, or `maximize`.",
    "target": "Start no new run once a run has reached this value.",
    "impute": "Score of a failed run: its `latest` or `best` value, or the `worst` of all runs "
    "(default).",
    "impute_while_running": "The same for a run in progress; by default the search decides.",
}
GOALS = ("minimize", "maximize")
IMPUTES = ("latest", "best", "worst")

EARLY_TERMINATE_FIELDS: Mapping[str, str] = {
    "type": "`hyperband`, the only type. Required.",
    "min_iter": "The first band, in values of the metric; each next band is `eta` times later. "
    "Required without `max_iter` and `s`.",
    "max_iter": "The last band is `max_iter / eta`. Needs `s`.",
    "s": "Number of bands, each `eta` times the one before.",
    "eta": "At a band, the best 1/`eta` of the runs that reached it continue; default 3.",
    "strict": "`true` (default): judge a run by its value at the band; `false`: by its best.",
}

SCHEDULER_FIELDS: Mapping[str, str] = {
    "engine": "`optuna` or `ax`, with `method: custom`; or `wandb`, with any other. Required.",
    "source": "A Python file in the folder where `wandb sweep-scheduler` starts.",
    "optimizer": "The function in `source` that returns the study: for our search, the method.",
    "search_space": "The function in `source` that gives a run its values: ours is "
    "`configuration`.",
}

MACROS: Mapping[str, str] = {
    "env": "`/usr/bin/env`, on Unix.",
    "interpreter": "`python`, the first on your PATH.",
    "program": "The `program` of the file.",
    "args": "`--name=value` for each parameter.",
    "args_no_hyphens": "`name=value`.",
    "args_no_equals": "`--name value`.",
    "args_no_boolean_flags": "`--name` for true, nothing for false.",
    "args_append_hydra": "`+name=value`.",
    "args_override_hydra": "`++name=value`.",
    "args_json": "All parameters as one word of JSON.",
    "args_json_file": "Name of a JSON file with all parameters.",
}
"""Macros of `command`, as `${name}`; `${envvar:NAME}` is an environment variable."""

ENDS = ("min", "max")
_UNROUNDED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "constant": (("value",), "Always `value`."),
    "categorical": (("values",), "One of the list, all equally likely."),
    "categorical_w_probabilities": (
        ("values", "probabilities"),
        "One of the list by its probability; they add up to 1.",
    ),
    "int_uniform": (ENDS, "A whole number, ends included."),
    "uniform": (ENDS, "A number; equal steps are equally likely."),
    "log_uniform_values": (ENDS, "A number; equal factors are equally likely: for learning rates."),
    "inv_log_uniform_values": (ENDS, "A number whose inverse is drawn as by `log_uniform_values`."),
    "log_uniform": (ENDS, "Deprecated by W&B: exponents of e. A warning gives the values."),
    "inv_log_uniform": (ENDS, "Deprecated likewise; exponents of the inverse."),
    "normal": (("mu", "sigma"), "A normal distribution."),
    "log_normal": (("mu", "sigma"), "e to the power of a normal distribution."),
    "beta": (("a", "b"), "A beta distribution, between 0 and 1."),
}
_ROUNDED: Mapping[str, tuple[tuple[str, ...], str]] = {
    f"q_{kind}": ((*_UNROUNDED[kind][0], "q"), "The same, rounded to a multiple of `q`.")
    for kind in ("uniform", "log_uniform_values", "log_uniform", "normal", "log_normal", "beta")
}
DISTRIBUTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {**_UNROUNDED, **_ROUNDED}
"""Distributions of W&B's schema, each with its fields and what it draws."""
DEFAULTS: Mapping[str, float] = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1.0}
"""Defaults of optional fields."""
BY_EXPONENTS = {"log_uniform", "q_log_uniform", "inv_log_uniform"}
"""Deprecated distributions whose `min` and `max` are exponents of e."""
