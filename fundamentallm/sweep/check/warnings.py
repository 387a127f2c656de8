"""What a sweep may not mean as its author thinks: warnings, each a small rule."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from fundamentallm.config.fields import ConfigError
from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.data.unknown_characters import describe_unscored
from fundamentallm.sweep.file.diagnostics import Diagnostics, Key
from fundamentallm.sweep.file.distributions import Categorical, Continuous, IntUniform
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile
from fundamentallm.sweep.search.base import every_point, length_of
from fundamentallm.sweep.search.space import (
    SearchSpace,
    fitting_heads,
    hyperparameter_name,
    values_by_key,
)

if TYPE_CHECKING:
    from fundamentallm.data.text import Text

LINEAR_TO = 100  # times that max may be min before linear is likely not meant
RATES = re.compile(r"learning_?rate|weight_?decay|(^|_)(lr\d*|wd|eps|epsilon|l1|l2|lambda)$")
"""In names of what is compared by factors, in anybody's program."""
DRAWS = 2_000
MOST_LISTED = 5_000
LENGTHS = ("epochs", "max_steps", "max_minutes")
A_STEP = ("batch_size", "gradient_accumulation", "max_seq_len")
"""Whose product is the tokens of a step."""
NOT_SEARCHED = {
    "eval_every": "it changes how often a run is looked at, and so the best of those looks",
    "patience": "it changes when a run ends, not what it learns by then",
    "max_minutes": "how far a run gets in a minute depends on what else the machine does",
    "compile": "it changes the speed alone",
}


def check_any(sweep: SweepFile, findings: Diagnostics) -> None:
    """Add a warning for what is likely not meant, whatever program the sweep runs."""
    for parameter in sweep.parameters:
        if (ends := linear_where_logs_are_meant(sweep, parameter)) is not None:
            low, high = ends
            findings.warn(
                parameter.key,
                f"from {low:g} to {high:g} in equal steps: nine draws of ten lie above "
                f"{low + (high - low) / 10:.2g}; for equal factors write distribution: "
                "log_uniform_values",
            )


def linear_where_logs_are_meant(
    sweep: SweepFile, parameter: Parameter
) -> tuple[float, float] | None:
    """The ends of a uniform range over factors of 100 and more, where that is unlikely meant.

    It is where no distribution is given, and for what is nearly always searched in logs.
    """
    distribution = parameter.distribution
    if not (isinstance(distribution, Continuous) and distribution.kind == "uniform"):
        return None
    name = re.sub(r"\W", "_", parameter.path[-1].lower())
    bare = "distribution" not in parameter.entry(sweep.content)
    low, high = distribution.bounds
    in_logs = RATES.search(name) or (bare and name in HYPERPARAMETERS)
    return (low, high) if in_logs and low > 0 and high / low >= LINEAR_TO else None


def check_meaning(
    points: SearchSpace, findings: Diagnostics, characters: int | None = None
) -> None:
    """Add a warning for everything that our trainer can run and is likely not meant.

    What concerns several parameters at once is left out while one of them is wrong.
    `characters`: of the text, where it is known.
    """
    for parameter in points.sweep.parameters:
        if hyperparameter_name(parameter) in HYPERPARAMETERS:
            _outside_documented_range(parameter, findings)
            if not findings.is_wrong(parameter.key):
                _better_not_searched(points, parameter, findings)
    if not findings.is_wrong(("parameters",)):
        _impossible_combinations(points, findings)
        _bands_after_the_end(points, findings, characters)


def unscored(points: SearchSpace, text: Text) -> list[str]:
    """A line about the characters of the text that its runs cannot be scored on, if there are any.

    By the split and the tokenizer of the run that is nearest to the defaults.
    """
    from fundamentallm.data.vocabulary import unknown_in_validation

    settings = points.settings(points.defaults())
    names = [name for name in ("tokenizer", "val_split") if name in settings]
    unknown = unknown_in_validation(text, Config(**{name: settings[name] for name in names}))
    return [describe_unscored(text.name, unknown.total(), unknown)] if unknown else []


def size(points: SearchSpace) -> tuple[int | None, str]:
    """How many runs the sweep makes, None if it never ends; and that in words."""
    sweep = points.sweep
    listed = every_point(sweep.parameters, points.is_possible)
    if sweep.method == "grid":
        lengths = [length_of(p.distribution.grid() or ()) for p in points.searched]
        whole = prod(lengths)
        possible = whole if listed is None else len(listed)
        runs = min(possible, sweep.run_cap or possible)
        by = " x ".join(map(str, lengths)) or "1"
        left_out = f" without {whole - possible} that cannot be" if possible < whole else ""
        cut = f", of which run_cap allows {runs}" if runs < possible else ""
        return runs, f"{possible} runs, a grid of {by}{left_out}{cut}"
    if listed and (sweep.run_cap is None or len(listed) < sweep.run_cap):
        before = (
            f"before its run_cap of {sweep.run_cap}"
            if sweep.run_cap
            else "although it has no run_cap"
        )
        return len(listed), (
            f"{len(listed)} runs, {sweep.method}: only so many are possible that differ, so it "
            f"ends {before}; W&B would repeat some of them"
        )
    if sweep.run_cap is None:
        return None, f"{sweep.method} without run_cap: it never ends by itself"
    return sweep.run_cap, f"{sweep.run_cap} runs, {sweep.method}"


def share_impossible(points: SearchSpace) -> float:
    """Of the points that the sweep may draw, how many can be no run."""
    grids = [p.distribution.grid() for p in points.sweep.parameters]
    count = prod(len(grid) if grid is not None else MOST_LISTED + 1 for grid in grids)
    names = [p.name for p in points.sweep.parameters]
    if points.sweep.method == "grid" and count <= MOST_LISTED:
        drawn = [dict(zip(names, each, strict=True)) for each in product(*(g or () for g in grids))]
    else:
        dice = random.Random(0)
        drawn = [
            {p.name: p.distribution.quantile(dice.random()) for p in points.sweep.parameters}
            for _ in range(DRAWS)
        ]
    return sum(not points.is_possible(values) for values in drawn) / len(drawn)


def evaluations(points: SearchSpace, characters: int | None = None) -> tuple[float, float] | None:
    """The fewest and the most evaluations of a run on a text of so many characters.

    None if that depends on the clock, or on a text that is not given.
    """
    ends = {name: _ends(points, name) for name in (*LENGTHS, *A_STEP, "eval_every", "val_split")}
    epochs, steps, every = ends["epochs"], ends["max_steps"], ends["eval_every"]
    if ends["max_minutes"][1] or (every[1] and not every[0]):
        return None
    if characters is None:
        if every[0] and steps[0]:
            return math.ceil(steps[0] / every[1]), math.ceil(steps[1] / every[0])
        return None if every[0] or steps[1] else epochs
    trained = [characters * (1 - share) for share in reversed(ends["val_split"])]
    an_epoch = [
        math.ceil(tokens / prod(ends[name][side] for name in A_STEP))
        for tokens, side in zip(trained, (1, 0), strict=True)
    ]
    length = [min(epochs[i] * an_epoch[i], steps[i] or math.inf) for i in (0, 1)]
    if every[0]:
        return math.ceil(length[0] / every[1]), math.ceil(length[1] / every[0])
    return math.ceil(length[0] / an_epoch[0]), math.ceil(length[1] / an_epoch[1])


# --- Rules: each adds at most one warning for what it looks at ---


def _outside_documented_range(parameter: Parameter, findings: Diagnostics) -> None:
    known = HYPERPARAMETERS[hyperparameter_name(parameter)]
    distribution = parameter.distribution
    candidates: Mapping[Key, Any]
    if isinstance(distribution, Categorical):
        candidates = values_by_key(parameter, distribution)
    else:
        candidates = dict(zip((("min",), ("max",)), extremes(parameter), strict=True))
    for place, value in candidates.items():
        here = (*parameter.key, *place)
        line = known.warning(value) if isinstance(value, int | float) else None
        if line is not None and not findings.is_wrong(here):
            findings.warn(here, line)


def _better_not_searched(points: SearchSpace, parameter: Parameter, findings: Diagnostics) -> None:
    name = hyperparameter_name(parameter)
    if parameter.is_constant:
        return
    if name in NOT_SEARCHED:
        findings.warn(parameter.key, f"better not searched: {NOT_SEARCHED[name]}; give one value")
    elif name in ("epochs", "max_steps") and _ends(points, "early_stopping")[1]:
        findings.warn(
            parameter.key,
            "better not searched beside early_stopping, which finds the length by itself; give "
            "one large value",
        )
    elif name in ("epochs", "max_steps") and points.sweep.method != "grid":
        findings.warn(
            parameter.key,
            "the longest run nearly always wins, so the search looks there and learns little "
            "else; give one value, and lengthen the best with fundamentallm refine",
        )
    elif name == "seed" and points.sweep.method != "grid":
        findings.warn(
            parameter.key,
            f"{points.sweep.method} would search for a lucky seed; give one value, and repeat the "
            "best over seeds with fundamentallm refine --seeds",
        )


def _impossible_combinations(points: SearchSpace, findings: Diagnostics) -> None:
    groups = points.together()
    if not groups:
        return
    share = share_impossible(points)
    if not share:
        return
    names = groups[0][0]
    key = next(p.key for p in points.sweep.parameters if p.name == names[-1])
    why = f"{' and '.join(names)} do not go together"
    if len(names) == 1:
        why = f"not every {names[0]} goes with what is fixed"
    mend = "; --repaired FILE writes the sweep without them" if fitting_heads(points) else ""
    findings.warn(
        key,
        f"{share:.0%} of the points cannot be a run, for {why}; "
        f"left out here, tried in vain on W&B{mend}",
    )


def _bands_after_the_end(
    points: SearchSpace, findings: Diagnostics, characters: int | None
) -> None:
    hyperband, count = points.sweep.hyperband, evaluations(points, characters)
    if hyperband is None or count is None:
        return
    fewest, most = count
    first = min(hyperband.bands)
    key = ("early_terminate",)
    if first >= most:
        findings.warn(
            key,
            f"the first cut falls after {first} evaluations, when the run has ended: it makes "
            f"{most:g}; lower min_iter, or evaluate more often with eval_every",
        )
    elif first >= fewest:
        findings.warn(
            key,
            f"the first cut falls after {first} evaluations, and the shortest runs make only "
            f"{fewest:g}; they are never cut",
        )


# --- What the rules look at ---


def extremes(parameter: Parameter) -> Sequence[Any]:
    """Every value of a list; both ends of a range, or nearly, where it has none."""
    distribution = parameter.distribution
    if isinstance(distribution, Categorical):
        return distribution.values
    if isinstance(distribution, IntUniform):
        return distribution.low, distribution.high
    if isinstance(distribution, Continuous) and not distribution.is_endless:
        low, high = distribution.bounds
        return float(low), float(high)
    return distribution.quantile(0.01), distribution.quantile(0.99)


def _ends(points: SearchSpace, name: str) -> tuple[float, float]:
    """The least and the largest value that runs can have for a hyperparameter."""
    for parameter in points.sweep.parameters:
        if hyperparameter_name(parameter) == name:
            numbers: list[float] = []
            for value in extremes(parameter):
                with suppress(ConfigError):  # the very end of a range, which no run may have
                    parsed = HYPERPARAMETERS[name].parse(value)
                    numbers += [] if isinstance(parsed, str) else [float(parsed)]
            return (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    value = points.fixed.get(name, getattr(Config, name))
    return float(value), float(value)
