"""A sweep file, read as W&B reads it: `Sweep`, and every mistake in the file at once.

Source: the schema and the code of W&B's own `sweeps` package, version 0.3.0, whose answers
tests/test_spec.py and .ci/check_sweeps.py hold this against.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fundamentallm.sweep.findings import Finding, Findings, Key
from fundamentallm.sweep.format import (
    FIELDS,
    GOALS,
    IMPUTES,
    MACROS,
    METHODS,
    METRIC_FIELDS,
    NOT_HERE,
    TEXT_FIELDS,
)
from fundamentallm.sweep.parameters import Parameter, read_parameters
from fundamentallm.sweep.stopping import Hyperband, read_hyperband, whole
from fundamentallm.sweep.sweep_yaml import parse_sweep_yaml, read_sweep_yaml


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
class Sweep:
    """A sweep file."""

    file: str
    text: str
    """The file as it was written."""
    content: Mapping[str, Any]
    """The file as YAML."""
    lines: dict[Key, int]
    """Of the file, where each key stands."""
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
    warnings: tuple[Finding, ...]

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


def read_sweep(path: str | Path) -> Sweep:
    """Read a sweep file.

    Raises:
        SweepError: It cannot be read, or W&B would refuse it: every mistake, a line each.
    """
    text, content, findings = read_sweep_yaml(path)
    return _sweep(text, content, findings)


def parse_sweep(text: str, file: str) -> Sweep:
    """The same from the file's text, called `file` in messages."""
    content, findings = parse_sweep_yaml(text, file)
    return _sweep(text, content, findings)


def _sweep(text: str, content: dict[str, Any], findings: Findings) -> Sweep:
    _check_fields(content, findings)
    method = _method(content, findings)
    metric = _metric(content.get("metric"), findings) if "metric" in content else None
    hyperband = None
    if "early_terminate" in content:
        hyperband = read_hyperband(content["early_terminate"], findings)
    if metric is None and "metric" not in content:
        needs = "method bayes" if method == "bayes" else "early_terminate" if hyperband else ""
        if needs:
            findings.error((), f"{needs} needs a metric, e.g. metric: {{name: val_loss}}")
    parameters = read_parameters(content.get("parameters"), findings)
    if method == "grid":
        for parameter in parameters:
            if parameter.distribution.grid() is None:
                findings.error(
                    parameter.key,
                    f"a grid cannot hold {parameter.distribution.kind}; give values, a range of "
                    "whole numbers, or q_uniform",
                )
    elif method == "bayes" and parameters and all(each.is_constant for each in parameters):
        findings.error(("parameters",), "bayes has nothing to search; give a parameter a range")
    elif content.get("run_cap") is None and not findings.errors:
        findings.warn(("method",), f"{method} never ends by itself; give run_cap, or --count")
    findings.raise_errors()
    return Sweep(
        file=findings.file,
        text=text,
        content=content,
        lines=findings.lines,
        method=method,
        parameters=tuple(parameters),
        metric=metric,
        hyperband=hyperband,
        run_cap=whole(content.get("run_cap")),
        name=content.get("name") or Path(findings.file).stem,
        program=content.get("program", ""),
        command=tuple(str(word) for word in content.get("command", ())),
        warnings=tuple(findings.warnings),
    )


def _check_fields(content: Mapping[str, Any], findings: Findings) -> None:
    """The fields that are only looked at, and those that W&B does not know."""
    for name in content:
        if name not in FIELDS:
            near = get_close_matches(name, FIELDS, n=1)
            hint = f"did you mean {near[0]}?" if near else "take it out"
            findings.error((name,), f"W&B's sweep format has no such field; {hint}")
    for name in TEXT_FIELDS:
        if name in content and not isinstance(content[name], str):
            findings.error((name,), f"got {content[name]!r}; give text")
    for name, owner in NOT_HERE.items():
        if name in content:
            findings.warn((name,), f"belongs to {owner}; it has no meaning on your own machines")
    cap = content.get("run_cap", 1)
    if type(whole(cap)) is not int or cap < 1:
        findings.error(("run_cap",), f"got {cap!r}; give a whole number above 0")
    if "metrics" in content:
        findings.error(("metrics",), "W&B takes several metrics with method custom alone")
    command = content.get("command", [])
    if not isinstance(command, list):
        findings.error(("command",), "give a list of words, e.g. [${env}, python, ${program}]")
        command = []
    for index, word in enumerate(command):
        macro = word[2:-1] if isinstance(word, str) and word[:2] == "${" else None
        if isinstance(word, dict | list) or word is None:
            findings.error(("command", index), f"got {word!r}; give a word")
        elif macro is not None and macro not in MACROS and not macro.startswith("envvar:"):
            near = get_close_matches(macro, MACROS, n=1)
            hint = f"; did you mean ${{{near[0]}}}?" if near else ""
            findings.warn(("command", index), f"W&B leaves {word} out{hint}")
    program_used = not command or "${program}" in command
    if program_used and not content.get("program"):
        findings.error(("program",), "is missing; give the script that a run starts: train.py")


def _method(content: Mapping[str, Any], findings: Findings) -> str:
    method = content.get("method")
    if method == "custom":
        findings.error(("method",), "custom runs on W&B Launch alone; give grid, random or bayes")
    elif method is None:
        findings.error((), "method is missing; give grid, random or bayes")
    elif not isinstance(method, str) or method not in METHODS:
        near = get_close_matches(str(method), METHODS, n=1)
        hint = f"did you mean {near[0]}?" if near else "give grid, random or bayes"
        findings.error(("method",), f"W&B has no method {method}; {hint}")
    return str(method)


def _metric(content: object, findings: Findings) -> Metric | None:
    key = ("metric",)
    if not isinstance(content, dict):
        findings.error(key, f"got {content!r}; give a mapping with a name")
        return None
    for name in content:
        if name not in METRIC_FIELDS:
            near = get_close_matches(name, METRIC_FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            findings.warn((*key, name), f"W&B takes no notice of it{hint}")
    name, goal = content.get("name"), content.get("goal", "minimize")
    if not isinstance(name, str) or not name:
        findings.error((*key, "name"), "give the name of what the program logs, e.g. val_loss")
        return None
    if goal not in GOALS:
        findings.warn((*key, "goal"), f"got {goal!r}, which W&B takes for minimize; give one")
        goal = "minimize"
    impute = content.get("impute", "worst")
    if impute not in IMPUTES:
        findings.warn((*key, "impute"), f"got {impute!r}, which W&B takes for worst; give one")
        impute = "worst"
    target = content.get("target")
    if target is not None and (type(target) not in (int, float) or not math.isfinite(target)):
        findings.error((*key, "target"), f"got {target!r}; give a number")
        target = None
    while_running = content.get("impute_while_running", "false")
    if while_running not in (*IMPUTES, "false", False):
        findings.error(
            (*key, "impute_while_running"), f"got {while_running!r}; give {', '.join(IMPUTES)}"
        )
    running = while_running if while_running in IMPUTES else None
    return Metric(name, goal, target, impute, running)
