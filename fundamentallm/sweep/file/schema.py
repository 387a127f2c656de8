"""Every word of W&B's sweep format, and what it means here; docs/sweep-file.md is made of this.

Source: the schema of W&B's own `sweeps` package, version 0.3.0.
"""

from __future__ import annotations

from collections.abc import Mapping

METHODS: Mapping[str, str] = {
    "grid": "Every combination once; of the sorted names the last one's values change fastest.",
    "random": "Independent draws; never ends by itself.",
    "bayes": "Draws that learn from the runs before; never ends by itself.",
    "custom": "Refused: a scheduler of your own runs it, with `wandb sweep-scheduler`.",
}

FIELDS: Mapping[str, str] = {
    "program": "The script that a run starts: `train.py`. Needed, unless `command` leaves it out.",
    "method": "How points are chosen: `grid`, `random` or `bayes`. Needed.",
    "parameters": "What is searched: a mapping from each name to its values. Needed.",
    "metric": "What runs are compared by. Needed for `bayes` and `early_terminate`.",
    "run_cap": "The most runs, a whole number.",
    "early_terminate": "When a run that is behind is stopped.",
    "command": "The words that start a run, with macros. Here those after the program count.",
    "name": "The sweep's and its folder's, `runs/NAME`; else that of the file.",
    "description": "For people.",
    "project": "The W&B project.",
    "entity": "The W&B user or team.",
    "apiVersion": "Of the format; not looked at.",
    "kind": "Of the file; not looked at.",
    "controller": "W&B's own; a warning, no meaning here.",
    "job": "W&B Launch's; a warning, no meaning here.",
    "image_uri": "W&B Launch's; a warning, no meaning here.",
    "scheduler": "That of `wandb sweep-scheduler`; a warning, no meaning here.",
    "metrics": "A warning: W&B takes several metrics with `method: custom` alone.",
}
TEXT_FIELDS = ("apiVersion", "kind", "description", "program", "job", "image_uri", "entity")
TEXT_FIELDS += ("project", "name")
ALSO_CALLED = {"count": "run_cap", "max_runs": "run_cap", "early_stopping": "early_terminate"}
"""What people write at the top level for a field of another name."""
NOT_HERE = {
    "job": "W&B Launch",
    "image_uri": "W&B Launch",
    "controller": "W&B's own controller",
    "scheduler": "wandb sweep-scheduler",
}

METRIC_FIELDS: Mapping[str, str] = {
    "name": "Of something that a [run logs](metrics.md): `val_loss`. Needed.",
    "goal": "`minimize`, the default, or `maximize`.",
    "target": "No new run is begun once one has reached it.",
    "impute": "What a failed run counts as: its `latest` value, its `best`, or the `worst` of all, "
    "the default.",
    "impute_while_running": "The same for a run in progress; left out, the search decides.",
}
GOALS = ("minimize", "maximize")
IMPUTES = ("latest", "best", "worst")

EARLY_TERMINATE_FIELDS: Mapping[str, str] = {
    "type": "`hyperband`, the only one. Needed.",
    "min_iter": "The first band: runs are looked at after this many values of the metric, and "
    "after each power of `eta` times as many. Needed, unless `max_iter` and `s` are given.",
    "max_iter": "The last band is `max_iter / eta`; with `s`.",
    "s": "How many bands, each `eta` times the one before.",
    "eta": "At a band a run must be among the best 1/`eta` that got so far; 3 by default.",
    "strict": "Whether a run is judged by its value at the band, the default, or by its best.",
}

MACROS: Mapping[str, str] = {
    "env": "`/usr/bin/env`, on Unix.",
    "interpreter": "`python`.",
    "program": "The script.",
    "args": "`--name=value` for each parameter.",
    "args_no_hyphens": "`name=value`.",
    "args_no_equals": "`--name value`.",
    "args_no_boolean_flags": "`--name` for true, nothing for false.",
    "args_append_hydra": "`+name=value`.",
    "args_override_hydra": "`++name=value`.",
    "args_json": "One word of JSON.",
    "args_json_file": "The name of a file of JSON.",
}
"""Of `command`, each as `${name}`; `${envvar:NAME}` is a variable of the environment."""

ENDS = ("min", "max")
DISTRIBUTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "constant": (("value",), "Always `value`."),
    "categorical": (("values",), "One of the list, all as likely."),
    "categorical_w_probabilities": (
        ("values", "probabilities"),
        "One of the list, each as likely as its probability says; they add up to 1.",
    ),
    "int_uniform": (ENDS, "A whole number, both ends included."),
    "uniform": (ENDS, "A number, equal steps as likely."),
    "q_uniform": ((*ENDS, "q"), "The same, rounded to a multiple of `q`."),
    "log_uniform_values": (ENDS, "A number, equal factors as likely: for learning rates."),
    "q_log_uniform_values": ((*ENDS, "q"), "The same, rounded to a multiple of `q`."),
    "inv_log_uniform_values": (ENDS, "Its inverse is drawn as by `log_uniform_values`."),
    "log_uniform": (ENDS, "Deprecated by W&B: `min` and `max` are exponents of e. A warning says "
                    "what they come to."),
    "q_log_uniform": ((*ENDS, "q"), "Deprecated in the same way; rounded to a multiple of `q`."),
    "inv_log_uniform": (ENDS, "Deprecated in the same way; exponents of the inverse."),
    "normal": (("mu", "sigma"), "A normal distribution."),
    "q_normal": (("mu", "sigma", "q"), "The same, rounded to a multiple of `q`."),
    "log_normal": (("mu", "sigma"), "e to the power of a normal distribution."),
    "q_log_normal": (("mu", "sigma", "q"), "The same, rounded to a multiple of `q`."),
    "beta": (("a", "b"), "A beta distribution, between 0 and 1."),
    "q_beta": (("a", "b", "q"), "The same, rounded to a multiple of `q`."),
}  # fmt: skip
"""Every distribution of W&B's schema: all that may stand beside its name, and what it draws."""
DEFAULTS: Mapping[str, float] = {"mu": 0.0, "sigma": 1.0, "a": 1.0, "b": 1.0, "q": 1.0}
"""Fields that may be left out."""
BY_EXPONENTS = {"log_uniform", "q_log_uniform", "inv_log_uniform"}
"""W&B calls these deprecated: their `min` and `max` are exponents of e."""
