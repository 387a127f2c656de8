"""A sweep file, read as W&B reads it: `SweepFile`, and every mistake in the file at once.

Source: the schema and the code of W&B's own `sweeps` package, version 0.3.0, whose answers
tests/sweep/file/test_sweep_file.py and .ci/check_sweeps.py hold this against.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fundamentallm.sweep.file.diagnostics import Diagnostics
from fundamentallm.sweep.file.hyperband import Hyperband, read_hyperband, whole
from fundamentallm.sweep.file.parameters import Parameter, read_parameters
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
"""The one macro that W&B replaces inside a word too."""


@dataclass(frozen=True)
class Metric:
    """What a sweep compares its runs by."""

    name: str
    goal: str = "minimize"
    target: float | None = None
    """No new run is begun once one has reached it."""
    impute: str = "worst"
    """What a failed run counts as: its `latest` value, its `best`, or the `worst` of all."""
    impute_while_running: str | None = None
    """The same for a run in progress; None leaves that to the sampler."""

    @property
    def sign(self) -> int:
        """1 if less is better, else -1."""
        return 1 if self.goal == "minimize" else -1

    def best(self, values: Iterable[float]) -> float | None:
        """The best of some values, if there are any."""
        return min(values, key=lambda value: self.sign * value, default=None)


@dataclass(frozen=True)
class SweepFile:
    """A sweep file."""

    file: str
    text: str
    """The file as it was written."""
    content: Mapping[str, Any]
    """The file as YAML."""
    method: str
    parameters: tuple[Parameter, ...]
    """In W&B's order, constants among them."""
    metric: Metric | None
    hyperband: Hyperband | None
    run_cap: int | None
    name: str
    program: str
    command: tuple[str, ...]
    """Empty if the file gives none."""
    findings: Diagnostics
    """What is wrong with the file, or may not be meant."""

    @property
    def ranks_by(self) -> Metric:
        """The metric, or what stands in for one that is not given."""
        return self.metric or Metric("val_loss")

    def nested(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values by `Parameter.name`, nested as the file is: what W&B's `wandb.config` holds."""
        nested: dict[str, Any] = {}
        for parameter in self.parameters:
            place = nested
            for word in parameter.path[:-1]:
                place = place.setdefault(word, {})
            place[parameter.path[-1]] = values[parameter.name]
        return nested


def examine_sweep(path: str | Path, root: Path | None = None) -> SweepFile:
    """Read a sweep file as far as it can be understood; its mistakes are in `findings`.

    `root`: below it no link is followed; None if the user named the file itself.

    Raises:
        SweepError: It cannot be read as a mapping at all.
    """
    text, content, findings = read_sweep_yaml(path, root)
    return _sweep(text, content, findings)


def read_sweep(path: str | Path, root: Path | None = None) -> SweepFile:
    """Read a sweep file that somebody has begun, or means to; `root` as of `examine_sweep`.

    Raises:
        SweepError: It cannot be read, or a mistake leaves open what it means: every one, a line
            each. What W&B alone refuses is no reason.
    """
    sweep = examine_sweep(path, root)
    sweep.findings.raise_unclear()
    return sweep


def parse_sweep(text: str, file: str) -> SweepFile:
    """The same from the file's text, called `file` in messages."""
    content, findings = parse_sweep_yaml(text, file)
    sweep = _sweep(text, content, findings)
    findings.raise_unclear()
    return sweep


def _sweep(text: str, content: dict[str, Any], findings: Diagnostics) -> SweepFile:
    _check_fields(content, findings)
    method = _method(content, findings)
    hyperband = None
    if "early_terminate" in content:
        hyperband = read_hyperband(content["early_terminate"], findings)
    stops_early = content.get("early_terminate") is not None
    needs = "method bayes" if method == "bayes" else "early_terminate" if stops_early else ""
    metric = _metric(content["metric"], findings, needs) if "metric" in content else None
    if needs and "metric" not in content:
        findings.error((), f"{needs} needs a metric, e.g. metric: {{name: val_loss}}")
    parameters = read_parameters(content.get("parameters"), findings)
    _check_command(content, parameters, findings)
    if method == "grid":
        for parameter in parameters:
            if parameter.distribution.grid() is None:
                findings.error(
                    parameter.key,
                    f"a grid cannot hold {parameter.distribution.kind}; give values, a range of "
                    "whole numbers, or q_uniform",
                )
    elif content.get("run_cap") is None and method in METHODS:
        findings.warn(("method",), f"{method} never ends by itself; give run_cap, or --count")
    if method == "bayes" and parameters and all(each.is_constant for each in parameters):
        _nothing_to_search(parameters, findings)
    return SweepFile(
        file=findings.file,
        text=text,
        content=content,
        method=method,
        parameters=tuple(parameters),
        metric=metric,
        hyperband=hyperband,
        run_cap=whole(content.get("run_cap")),
        name=str(content.get("name") or Path(findings.file).stem),
        program=str(content.get("program") or ""),
        command=tuple(str(word) for word in _command(content)),
        findings=findings,
    )


def _nothing_to_search(parameters: Sequence[Parameter], findings: Diagnostics) -> None:
    """All is fixed: W&B's bayes fails over constants, and takes lists of one value."""
    if all(each.distribution.kind == "constant" for each in parameters):
        findings.error(("parameters",), "bayes has nothing to search; give a parameter a range")
    else:
        findings.warn(("parameters",), "every list has one value, so all runs are the same")


def _command(content: Mapping[str, Any]) -> list[Any]:
    command = content.get("command")
    return command if isinstance(command, list) else []


def _check_fields(content: Mapping[str, Any], findings: Diagnostics) -> None:
    """The fields that are only looked at, and those that W&B does not know."""
    for name in content:
        if name not in FIELDS:
            near = [ALSO_CALLED[name]] if name in ALSO_CALLED else get_close_matches(name, FIELDS)
            hint = f"; did you mean {near[0]}?" if near else ""
            findings.warn((name,), f"not a field of W&B's format, and has no effect here{hint}")
    for name in TEXT_FIELDS:
        if name in content and not isinstance(content[name], str):
            findings.warn((name,), f"got {content[name]!r}, where W&B's schema wants text")
    for name, owner in NOT_HERE.items():
        if name in content:
            findings.warn((name,), f"belongs to {owner}; it has no meaning on your own machines")
    cap = content.get("run_cap")
    if cap is None and "run_cap" in content:
        findings.warn(("run_cap",), "is empty; give a whole number above 0, or take it out")
    elif cap is not None and (type(whole(cap)) is not int or cap < 1):
        findings.error(("run_cap",), f"got {cap!r}; give a whole number above 0")
    if "metrics" in content:
        findings.warn(
            ("metrics",), "W&B takes several metrics with method custom alone; give one metric"
        )


def _check_command(
    content: Mapping[str, Any], parameters: Sequence[Parameter], findings: Diagnostics
) -> None:
    command = content.get("command", [])
    if not isinstance(command, list):
        findings.error(("command",), "give a list of words, e.g. [${env}, python, ${program}]")
    words = _command(content)
    for index, word in enumerate(words):
        key = ("command", index)
        macro = MACRO.fullmatch(word) if isinstance(word, str) else None
        if isinstance(word, dict | list) or word is None:
            findings.error(key, f"got {word!r}; give a word")
        elif macro is not None and macro[1] not in MACROS and not ENVIRONMENT.fullmatch(word):
            near = get_close_matches(macro[1], MACROS, n=1)
            hint = f"; did you mean ${{{near[0]}}}?" if near else ""
            findings.warn(key, f"W&B leaves {word} out{hint}")
        elif macro is None:
            known = {*MACROS, *(name for each in parameters for name in (each.name, each.path[-1]))}
            for inner in MACRO.finditer(str(word)):
                if inner[1] in known:
                    findings.warn(
                        key,
                        f"W&B replaces {inner[0]} only where it is the whole word; this word "
                        "reaches the program as it stands",
                    )
    program_used = not words or "${program}" in words
    if program_used and not content.get("program"):
        findings.warn(
            ("program",),
            "is missing; W&B starts such a sweep from Python alone: wandb.agent(ID, function=...)",
        )


def _method(content: Mapping[str, Any], findings: Diagnostics) -> str:
    method = content.get("method")
    if method == "custom":
        findings.error(
            ("method",), "wandb sweep-scheduler alone runs custom; give grid, random or bayes"
        )
    elif method is None:
        findings.error((), "method is missing; give grid, random or bayes")
    elif not isinstance(method, str) or method not in METHODS:
        near = get_close_matches(str(method), METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else "give grid, random or bayes"
        findings.error(("method",), f"W&B has no method {method}; {hint}")
    return str(method)


def _metric(content: object, findings: Diagnostics, needs: str) -> Metric | None:
    """The metric. What of it is wrong is a mistake if the sweep `needs` it for something.

    W&B looks at it for bayes and hyperband, and fails over all that its schema does not know.
    """
    key = ("metric",)
    note = findings.error if needs else findings.warn
    note_clear = findings.refuse if needs else findings.warn
    if not isinstance(content, dict):
        note(key, f"got {content!r}; give a mapping with a name: {{name: val_loss}}")
        return None
    for name in content:
        if name not in METRIC_FIELDS:
            near = get_close_matches(name, METRIC_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            does = f"has no such field, and {needs} fails over it" if needs else "ignores it"
            note_clear((*key, name), f"W&B {does}{hint}")
    name, goal = content.get("name"), content.get("goal", "minimize")
    if not isinstance(name, str) or not name:
        note((*key, "name"), "give the name of what the program logs, e.g. val_loss")
        return None
    if goal not in GOALS:
        findings.warn((*key, "goal"), f"got {goal!r}, which W&B takes for minimize; give one")
        goal = "minimize"
    impute = content.get("impute", "worst")
    if impute not in IMPUTES:
        findings.warn((*key, "impute"), f"got {impute!r}, which W&B takes for worst; give one")
        impute = "worst"
    target = content.get("target")
    if "target" in content and target is None:
        note_clear((*key, "target"), "is empty; give a number, or take it out")
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
