"""Warnings about a sweep that may not do what its author means, one rule each."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.data.unknown_characters import describe_unscored
from fundamentallm.metrics import runs_text
from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.distributions import Categorical, Continuous, IntUniform
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.schema import ENDS
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import every_configuration, length_of
from fundamentallm.sweep.search.space import (
    SearchSpace,
    fitting_heads,
    hyperparameter_name,
    hyperparameter_names,
    listed_settings,
    spread,
)

if TYPE_CHECKING:
    from fundamentallm.data.text import Text

LEAST_RATIO = 100
"""Ratio of max to min from which a linear scale is unlikely to be meant."""
RATES = re.compile(r"learning_?rate|weight_?decay|(^|_)(lr\d*|wd|eps|epsilon|l1|l2|lambda)$")
"""Names of parameters that are usually searched on a log scale, in any program."""
DRAWS = 2_000
MOST_LISTED = 5_000
LENGTHS = ("epochs", "max_steps", "max_minutes")
STEP_PARAMETERS = ("batch_size", "gradient_accumulation", "max_seq_len")
"""Parameters whose product is the number of tokens of a step."""
NOT_SEARCHED = {
    "eval_every": "more evaluations give a better best score without a better model",
    "patience": "it changes when a run ends, not what it learns by then",
    "max_minutes": "how far a run gets in a minute depends on the machine's other work",
    "compile": "it changes only the speed",
}


def check_any(sweep: SweepFile, diagnostics: Diagnostics) -> None:
    """Add warnings that apply to any program."""
    for parameter in sweep.parameters:
        if (ends := linear_where_logs_are_meant(sweep, parameter)) is not None:
            low, high = ends
            diagnostics.warn(
                parameter.key,
                f"from {low:g} to {high:g} on a linear scale: nine of ten draws lie above "
                f"{low + (high - low) / 10:.2g}; for a log scale write distribution: "
                "log_uniform_values",
            )


def linear_where_logs_are_meant(
    sweep: SweepFile, parameter: Parameter
) -> tuple[float, float] | None:
    """Return the ends of a uniform range over a factor of 100 or more that is likely a mistake.

    It is if no distribution is given, or if the parameter is usually searched on a log scale.
    """
    distribution = parameter.distribution
    if not (isinstance(distribution, Continuous) and distribution.kind == "uniform"):
        return None
    name = re.sub(r"\W", "_", parameter.path[-1].lower())
    bare = "distribution" not in parameter.entry(sweep.content)
    low, high = distribution.bounds
    in_logs = RATES.search(name) or (bare and name in HYPERPARAMETERS)
    return (low, high) if in_logs and low > 0 and high / low >= LEAST_RATIO else None


def check_meaning(
    space: SearchSpace, diagnostics: Diagnostics, characters: int | None = None
) -> None:
    """Add warnings about a sweep of our trainer.

    Rules for several parameters are skipped while one of them is wrong.

    Args:
        space: Search space of the sweep.
        diagnostics: Receives the warnings.
        characters: Length of the text, if known.
    """
    for parameter in space.sweep.parameters:
        _outside_documented_range(parameter, diagnostics)
        if not (parameter.has_mappings or diagnostics.is_wrong(parameter.key)):
            _better_not_searched(space, parameter, diagnostics)
    if not diagnostics.is_wrong(("parameters",)):
        _impossible_combinations(space, diagnostics)
        _bands_after_the_end(space, diagnostics, characters)


def unscored(space: SearchSpace, text: Text) -> list[str]:
    """Return a line about characters of the text that runs cannot be scored on, if any.

    Uses split and tokenizer of the configuration nearest to the defaults.
    """
    from fundamentallm.data.vocabulary import unknown_in_validation

    settings = space.settings(space.defaults())
    names = [name for name in ("tokenizer", "val_split") if name in settings]
    unknown = unknown_in_validation(text, Config(**{name: settings[name] for name in names}))
    return [describe_unscored(text.name, unknown.total(), unknown)] if unknown else []


def size(space: SearchSpace) -> tuple[int | None, str]:
    """Return the number of runs (None if the sweep never ends), and a description of it."""
    sweep = space.sweep
    listed = every_configuration(sweep.parameters, space.is_possible)
    if sweep.method == "grid":
        lengths = [length_of(p.distribution.grid() or ()) for p in space.searched]
        whole = prod(lengths)
        possible = whole if listed is None else len(listed)
        runs = min(possible, sweep.run_cap or possible)
        by = " x ".join(map(str, lengths)) or "1"
        left_out = f" without {whole - possible} invalid ones" if possible < whole else ""
        cut = f", of which run_cap allows {runs}" if runs < possible else ""
        return runs, f"{runs_text(possible)}, a grid of {by}{left_out}{cut}"
    if listed and (sweep.run_cap is None or len(listed) < sweep.run_cap):
        before = (
            f"before its run_cap of {sweep.run_cap}"
            if sweep.run_cap
            else "although it has no run_cap"
        )
        return len(listed), (
            f"{runs_text(len(listed))}, {sweep.method}: no more different configurations exist, "
            f"so it ends {before}; W&B would repeat some of them"
        )
    if sweep.run_cap is None:
        return None, f"{sweep.method} without run_cap: it never ends"
    return sweep.run_cap, f"{runs_text(sweep.run_cap)}, {sweep.method}"


def share_impossible(space: SearchSpace) -> float:
    """Return the share of the sweep's configurations that are impossible."""
    grids = [p.distribution.grid() for p in space.sweep.parameters]
    count = prod(len(grid) if grid is not None else MOST_LISTED + 1 for grid in grids)
    names = [p.name for p in space.sweep.parameters]
    if space.sweep.method == "grid" and count <= MOST_LISTED:
        configurations = [
            dict(zip(names, each, strict=True)) for each in product(*(g or () for g in grids))
        ]
    else:
        dice = random.Random(0)
        configurations = [
            {p.name: p.distribution.quantile(dice.random()) for p in space.sweep.parameters}
            for _ in range(DRAWS)
        ]
    return sum(not space.is_possible(values) for values in configurations) / len(configurations)


def evaluations(space: SearchSpace, characters: int | None = None) -> tuple[float, float] | None:
    """Return the fewest and the most evaluations of a run on a text of so many characters.

    None if they depend on a time limit, or on a text that is not given.
    """
    ends = {
        name: _ends(space, name) for name in (*LENGTHS, *STEP_PARAMETERS, "eval_every", "val_split")
    }
    epochs, steps, every = ends["epochs"], ends["max_steps"], ends["eval_every"]
    if ends["max_minutes"][1] or (every[1] and not every[0]):
        return None
    if characters is None:
        if every[0] and steps[0]:
            return math.ceil(steps[0] / every[1]), math.ceil(steps[1] / every[0])
        return None if every[0] or steps[1] else epochs
    trained = [characters * (1 - share) for share in reversed(ends["val_split"])]
    an_epoch = [
        math.ceil(tokens / prod(ends[name][side] for name in STEP_PARAMETERS))
        for tokens, side in zip(trained, (1, 0), strict=True)
    ]
    length = [min(epochs[i] * an_epoch[i], steps[i] or math.inf) for i in (0, 1)]
    if every[0]:
        return math.ceil(length[0] / every[1]), math.ceil(length[1] / every[0])
    return math.ceil(length[0] / an_epoch[0]), math.ceil(length[1] / an_epoch[1])


# --- Rules: each adds at most one warning per parameter ---


def _outside_documented_range(parameter: Parameter, diagnostics: Diagnostics) -> None:
    candidates = list(listed_settings(parameter))
    if not isinstance(parameter.distribution, Categorical):
        name, ends = hyperparameter_name(parameter), zip(ENDS, extremes(parameter), strict=True)
        candidates = [((*parameter.key, end), name, value) for end, value in ends]
    for key, name, value in candidates:
        known = HYPERPARAMETERS.get(name)
        line = known.warning(value) if known and isinstance(value, int | float) else None
        if line is not None and not diagnostics.is_wrong(key):
            diagnostics.warn(key, line)


def _better_not_searched(
    space: SearchSpace, parameter: Parameter, diagnostics: Diagnostics
) -> None:
    name = hyperparameter_name(parameter)
    if parameter.is_constant:
        return
    if name in NOT_SEARCHED:
        diagnostics.warn(
            parameter.key, f"better not searched: {NOT_SEARCHED[name]}; give one value"
        )
    elif name in ("epochs", "max_steps") and _ends(space, "early_stopping")[1]:
        diagnostics.warn(
            parameter.key,
            "better not searched together with early_stopping, which finds the length itself; give "
            "one large value",
        )
    elif name in ("epochs", "max_steps") and space.sweep.method != "grid":
        diagnostics.warn(
            parameter.key,
            "the longest run nearly always wins, so the search learns little else; give one "
            "value, and train the best for longer (fundamentallm refine, on your machine)",
        )
    elif name == "seed" and space.sweep.method != "grid":
        diagnostics.warn(
            parameter.key,
            f"{space.sweep.method} would search for a lucky seed; give one value, and repeat the "
            "best with several seeds (fundamentallm refine, on your machine)",
        )


def _impossible_combinations(space: SearchSpace, diagnostics: Diagnostics) -> None:
    groups = space.together()
    if not groups:
        return
    share = share_impossible(space)
    if not share:
        return
    names = groups[0][0]
    key = next(p.key for p in space.sweep.parameters if p.name == names[-1])
    why = f"some values of {' and '.join(names)} exclude each other"
    if len(names) == 1:
        why = f"some values of {names[0]} are impossible with the fixed settings"
    hint = "; --repaired FILE writes the sweep without them" if fitting_heads(space) else ""
    diagnostics.warn(
        key,
        f"{share:.0%} of the configurations are impossible, because {why}; they are left out "
        f"here, and fail on W&B{hint}",
    )


def _bands_after_the_end(
    space: SearchSpace, diagnostics: Diagnostics, characters: int | None
) -> None:
    hyperband, count = space.sweep.hyperband, evaluations(space, characters)
    if hyperband is None or count is None:
        return
    fewest, most = count
    first = min(hyperband.bands)
    key = ("early_terminate",)
    if first >= most:
        diagnostics.warn(
            key,
            f"the first band is at {first} evaluations, but a run makes only {most:g}; lower "
            "min_iter, or evaluate more often with eval_every",
        )
    elif first >= fewest:
        diagnostics.warn(
            key,
            f"the first band is at {first} evaluations, but the shortest runs make only "
            f"{fewest:g}; they are never stopped early",
        )


# --- Values that the rules use ---


def extremes(parameter: Parameter) -> Sequence[Any]:
    """Return every value of a list, both ends of a range, or outer quantiles without ends."""
    distribution = parameter.distribution
    if isinstance(distribution, Categorical):
        return distribution.values
    if isinstance(distribution, IntUniform):
        return distribution.low, distribution.high
    if isinstance(distribution, Continuous) and not distribution.is_unbounded:
        low, high = distribution.bounds
        return float(low), float(high)
    return distribution.quantile(0.01), distribution.quantile(0.99)


def _ends(space: SearchSpace, name: str) -> tuple[float, float]:
    """Return the least and the largest value of a hyperparameter in the sweep."""
    default = space.fixed.get(name, getattr(Config, name))
    for parameter in space.sweep.parameters:
        if name in hyperparameter_names(parameter):
            numbers: list[float] = []
            for each in extremes(parameter):
                value = spread(parameter, each).get(name, default)
                with suppress(ConfigError):  # the end of a range may be impossible
                    parsed = HYPERPARAMETERS[name].parse(value)
                    numbers += [] if isinstance(parsed, str) else [float(parsed)]
            return (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    return float(default), float(default)
