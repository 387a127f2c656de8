"""Sweep file, read as W&B reads it, with all errors of the file at once.

Source: schema and code of W&B's own `sweeps` package, version 0.3.0.
tests/sweep/file/test_sweep_file.py and .ci/check_sweeps.py compare the results with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from fundamentallm.errors import one_line
from fundamentallm.sweep.file.diagnostics import Diagnostics, SweepError
from fundamentallm.sweep.file.distributions import Continuous
from fundamentallm.sweep.file.hyperband import Hyperband, read_hyperband, whole
from fundamentallm.sweep.file.parameters import Parameter, read_parameters
from fundamentallm.sweep.file.scheduler import check_scheduler, hosted_method
from fundamentallm.sweep.file.schema import (
    ALSO_CALLED,
    FIELDS,
    GOALS,
    IMPUTES,
    MACROS,
    METHODS,
    METRIC_FIELDS,
    NOT_HERE,
    TEXT_FIELDS,
)
from fundamentallm.sweep.file.yaml_reader import parse_sweep_yaml, read_sweep_yaml

MACRO = re.compile(r"\$\{([^{}]*)\}")
ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
"""The only macro that W&B replaces inside a word too."""


def is_macro(word: str) -> bool:
    """Return whether W&B replaces the whole word, or drops it if it knows no such macro."""
    return word.startswith("${") and word.endswith("}")


@dataclass(frozen=True)
class Metric:
    """Metric by which a sweep compares its runs."""

    name: str
    goal: str = "minimize"
    target: float | None = None
    """Value at which no new run starts, once a run has reached it."""
    impute: str = "worst"
    """Score of a failed run: its `latest` value, its `best`, or the `worst` of all runs."""
    impute_while_running: str | None = None
    """Score of a run in progress, likewise; None leaves it to the sampler."""

    @property
    def sign(self) -> int:
        """Return 1 if lower is better, else -1."""
        return 1 if self.goal == "minimize" else -1

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best value; None without values."""
        return min(values, key=lambda value: self.sign * value, default=None)


@dataclass(frozen=True)
class SweepFile:
    """Parsed sweep file."""

    file: str
    text: str
    """Text of the file."""
    content: Mapping[str, Any]
    """Content of the YAML."""
    method: str
    """The file's method; for `custom` with our search, the method of that search."""
    parameters: tuple[Parameter, ...]
    """All parameters in W&B's order, with constants."""
    metric: Metric | None
    hyperband: Hyperband | None
    run_cap: int | None
    name: str
    program: str
    command: tuple[str, ...]
    """Words of the command; empty if the file gives none."""
    diagnostics: Diagnostics
    """Errors and warnings of the file."""

    @property
    def ranks_by(self) -> Metric:
        """Return the metric, or `val_loss` if the file gives none."""
        return self.metric or Metric("val_loss")

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values nested as in the file, as W&B hands them to a run.

        Names are sorted. A multiple of a whole `q` is a whole number, as a batch size has to be.
        """
        nested: dict[str, Any] = {}
        for parameter in self.parameters:
            inner = nested
            for word in parameter.path[:-1]:
                inner = inner.setdefault(word, {})
            value, distribution = values[parameter.name], parameter.distribution
            if isinstance(distribution, Continuous) and distribution.draws_whole_numbers:
                value = int(value) if math.isfinite(value) else value
            inner[parameter.path[-1]] = _sorted(value)
        return nested


def _sorted(value: Any) -> Any:
    """Return a value whose mappings have their keys sorted, at every level."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value, key=str)}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def examine_sweep(path: str | Path, root: Path | None = None) -> SweepFile:
    """Read a sweep file as far as possible; its errors are in `diagnostics`.

    Args:
        path: Path of the file.
        root: Folder below which no link is followed; None if the user named the file itself.

    Raises:
        SweepError: It is not a mapping in YAML, or cannot be read.
    """
    text, content, diagnostics = read_sweep_yaml(path, root)
    return _sweep(text, content, diagnostics)


def read_sweep(path: str | Path, root: Path | None = None) -> SweepFile:
    """Read a sweep file to run it; `root` as in `examine_sweep`.

    Raises:
        SweepError: It cannot be read, or an error makes its meaning ambiguous; the message has a
            line for each. Errors that only W&B makes do not count.
    """
    sweep = examine_sweep(path, root)
    sweep.diagnostics.raise_ambiguous()
    return sweep


def examine_mapping(config: Mapping[str, Any], name: str) -> SweepFile:
    """Read a sweep that Python gives as a mapping, called `name` in messages, as far as possible.

    Raises:
        SweepError: A value is not plain data.
    """
    try:
        content = json.loads(json.dumps(config))  # as wandb.sweep sends it
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise SweepError(
            f"{name}: {one_line(error)}; give plain numbers, texts, lists and mappings"
        ) from None
    content, diagnostics = parse_sweep_yaml(text, name)
    sweep = _sweep(text, content, diagnostics)
    diagnostics.forget_lines()
    return sweep


def parse_sweep(text: str, file: str) -> SweepFile:
    """Parse the text of a sweep file, called `file` in messages; raise as `read_sweep`."""
    content, diagnostics = parse_sweep_yaml(text, file)
    sweep = _sweep(text, content, diagnostics)
    diagnostics.raise_ambiguous()
    return sweep


def _sweep(text: str, content: dict[str, Any], diagnostics: Diagnostics) -> SweepFile:
    _check_fields(content, diagnostics)
    method = _method(content, diagnostics)
    hyperband = None
    if "early_terminate" in content:
        hyperband = read_hyperband(content["early_terminate"], diagnostics)
    stops_early = content.get("early_terminate") is not None
    needs = "method bayes" if method == "bayes" else "early_terminate" if stops_early else ""
    metric = _metric(content["metric"], diagnostics, needs) if "metric" in content else None
    if needs and "metric" not in content:
        diagnostics.error((), f"{needs} needs a metric, e.g. metric: {{name: val_loss}}")
    parameters = read_parameters(content.get("parameters"), diagnostics)
    _check_command(content, parameters, diagnostics)
    if method == "grid":
        for parameter in parameters:
            if parameter.distribution.grid() is None:
                diagnostics.error(
                    parameter.key,
                    f"a grid cannot hold {parameter.distribution.kind}; give values, a range of "
                    "whole numbers, or q_uniform",
                )
    elif content.get("run_cap") is None and method in METHODS:
        is_finite = all(each.distribution.support() is not None for each in parameters)
        where = " on W&B" if is_finite else ""
        diagnostics.warn(
            ("method",), f"{method} never ends{where} without a limit; give run_cap, or --count"
        )
    if method == "bayes" and parameters and all(each.is_constant for each in parameters):
        _nothing_to_search(parameters, diagnostics)
    return SweepFile(
        file=diagnostics.file,
        text=text,
        content=content,
        method=method,
        parameters=tuple(parameters),
        metric=metric,
        hyperband=hyperband,
        run_cap=whole(content.get("run_cap")),
        name=str(content.get("name") or Path(diagnostics.file).stem),
        program=str(content.get("program") or ""),
        command=tuple(str(word) for word in _command(content)),
        diagnostics=diagnostics,
    )


def _nothing_to_search(parameters: Sequence[Parameter], diagnostics: Diagnostics) -> None:
    """All is fixed: W&B's bayes fails over constants, and takes lists of one value."""
    if all(each.distribution.kind == "constant" for each in parameters):
        diagnostics.error(("parameters",), "bayes has nothing to search; give a parameter a range")
    else:
        diagnostics.warn(("parameters",), "every list has one value, so all runs are the same")


def _command(content: Mapping[str, Any]) -> list[Any]:
    command = content.get("command")
    return command if isinstance(command, list) else []


def _check_fields(content: Mapping[str, Any], diagnostics: Diagnostics) -> None:
    """The fields that are only looked at, and those that W&B does not know."""
    for name in content:
        if name not in FIELDS:
            near = [ALSO_CALLED[name]] if name in ALSO_CALLED else get_close_matches(name, FIELDS)
            hint = f"; did you mean {near[0]}?" if near else ""
            diagnostics.warn((name,), f"not a field of W&B's format, and has no effect here{hint}")
    for name in TEXT_FIELDS:
        if name in content and not isinstance(content[name], str):
            diagnostics.warn((name,), f"got {content[name]!r}, but W&B's schema requires text")
    is_launched = bool({"job", "image_uri"} & content.keys())
    for name, owner in NOT_HERE.items():
        if name in content:
            owner = NOT_HERE["job"] if name == "scheduler" and is_launched else owner
            if name == "scheduler" and hosted_method(content) is not None:
                continue
            diagnostics.warn((name,), f"is for {owner}; it has no effect on your own machines")
    if "scheduler" in content and not is_launched:
        check_scheduler(content, diagnostics)
    cap = content.get("run_cap")
    if cap is None and "run_cap" in content:
        diagnostics.warn(("run_cap",), "is empty; give a whole number above 0, or remove it")
    elif cap is not None and (type(whole(cap)) is not int or cap < 1):
        diagnostics.error(("run_cap",), f"got {cap!r}; give a whole number above 0")
    if "metrics" in content:
        diagnostics.warn(
            ("metrics",), "W&B takes several metrics only with method custom; give one metric"
        )


def _check_command(
    content: Mapping[str, Any], parameters: Sequence[Parameter], diagnostics: Diagnostics
) -> None:
    command = content.get("command", [])
    if not isinstance(command, list):
        diagnostics.error(
            ("command",), 'give a list of words, e.g. [python, "${program}", "${args}"]'
        )
    words = _command(content)
    for index, word in enumerate(words):
        key = ("command", index)
        macro = MACRO.fullmatch(word) if isinstance(word, str) else None
        if isinstance(word, dict | list) or word is None:
            diagnostics.error(key, f"got {word!r}; give a word")
        elif macro is not None and macro[1] not in MACROS and not ENVIRONMENT.fullmatch(word):
            near = get_close_matches(macro[1], MACROS, n=1)
            hint = f"; did you mean ${{{near[0]}}}?" if near else ""
            diagnostics.warn(key, f"W&B drops {word}{hint}")
        elif macro is None and is_macro(str(word)) and not ENVIRONMENT.search(word):
            diagnostics.warn(key, f"W&B drops {word}; give each macro a word of its own")
        elif macro is None:
            known = {*MACROS, *(name for each in parameters for name in (each.name, each.path[-1]))}
            for inner in MACRO.finditer(str(word)):
                if inner[1] in known:
                    diagnostics.warn(
                        key,
                        f"W&B replaces {inner[0]} only if it is the whole word; the program gets "
                        "this word unchanged",
                    )


def _method(content: Mapping[str, Any], diagnostics: Diagnostics) -> str:
    method = hosted_method(content) or content.get("method")
    if method == "custom":
        diagnostics.error(
            ("method",), "only wandb sweep-scheduler runs custom; give grid, random or bayes"
        )
    elif method is None:
        diagnostics.error((), "method is missing; give grid, random or bayes")
    elif not isinstance(method, str) or method not in METHODS:
        near = get_close_matches(str(method), METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else "give grid, random or bayes"
        diagnostics.error(("method",), f"W&B has no method {method}; {hint}")
    return str(method)


def _metric(content: object, diagnostics: Diagnostics, needs: str) -> Metric | None:
    """Read the metric; what is wrong is an error if the sweep `needs` it, else a warning.

    W&B uses it for bayes and hyperband, and then fails over every field not in its schema.
    """
    key = ("metric",)
    note = diagnostics.error if needs else diagnostics.warn
    note_clear = diagnostics.refused_by_wandb if needs else diagnostics.warn
    if not isinstance(content, dict):
        note(key, f"got {content!r}; give a mapping with a name: {{name: val_loss}}")
        return None
    for name in content:
        if name not in METRIC_FIELDS:
            near = get_close_matches(name, METRIC_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            does = f"has no such field, so {needs} fails" if needs else "ignores it"
            note_clear((*key, name), f"W&B {does}{hint}")
    name, goal = content.get("name"), content.get("goal", "minimize")
    if not isinstance(name, str) or not name:
        note((*key, "name"), "give the name of what the program logs, e.g. val_loss")
        return None
    if goal not in GOALS:
        diagnostics.warn(
            (*key, "goal"), f"got {goal!r}, which W&B reads as minimize; give minimize or maximize"
        )
        goal = "minimize"
    impute = content.get("impute", "worst")
    if impute not in IMPUTES:
        diagnostics.warn(
            (*key, "impute"), f"got {impute!r}, which W&B reads as worst; give {', '.join(IMPUTES)}"
        )
        impute = "worst"
    target = content.get("target")
    if "target" in content and target is None:
        note_clear((*key, "target"), "is empty; give a number, or remove it")
    elif target is not None and (type(target) not in (int, float) or not math.isfinite(target)):
        note((*key, "target"), f"got {target!r}; give a number")
        target = None
    while_running = content.get("impute_while_running", "false")
    if while_running is False:
        note_clear((*key, "impute_while_running"), 'got false; W&B wants it in quotes: "false"')
    elif while_running not in (*IMPUTES, "false"):
        note((*key, "impute_while_running"), f"got {while_running!r}; give {', '.join(IMPUTES)}")
    running = while_running if while_running in IMPUTES else None
    return Metric(name, goal, target, impute, running)
