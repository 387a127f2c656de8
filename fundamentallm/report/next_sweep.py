"""The next sweep: narrower around the best, or wider where the best is at an edge.

Source: Google's tuning playbook, which narrows a search in rounds and widens it where the best
points lie at its boundary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from fundamentallm.config.fields import Hyperparameter, shown
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.metrics import score_text
from fundamentallm.report.effects import MIN_RUNS_TO_FIT, Effect
from fundamentallm.report.explain import explain
from fundamentallm.report.factors import Factor
from fundamentallm.report.read_runs import ReportError
from fundamentallm.report.results import Results, missing_metric_note
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.report.rules.parameters import has_room, possible_ends
from fundamentallm.report.rules.progress import progress_of, stand_of
from fundamentallm.status import RunStatus
from fundamentallm.sweep.check.warnings import LEAST_RATIO, extremes
from fundamentallm.sweep.file.diagnostics import SweepError
from fundamentallm.sweep.file.distributions import Continuous, IntUniform
from fundamentallm.sweep.file.parameters import Parameter
from fundamentallm.sweep.file.sweep_file import SweepFile, parse_sweep
from fundamentallm.sweep.file.yaml_writer import Commented, sweep_text
from fundamentallm.sweep.refine import is_refined
from fundamentallm.sweep.search.space import SearchSpace, fitting_heads, hyperparameter_names
from fundamentallm.sweep.store.records import why_unranked

ZOOM = 0.5
"""Share of the old range that the new one covers, around the best."""
WIDEN = 0.5
"""Share of the old range that is added beyond the edge."""
LONGER = 2
WHOLE_STEPS = {"model_dim": 16, "max_seq_len": 16}
"""Steps to which listed numbers are rounded; other whole numbers to 1."""


def next_sweep(results: Results) -> str:
    """Return the text of a sweep file, with a comment on each changed line.

    Raises:
        ReportError: The runs belong to no sweep, too few have finished, or nothing in
            the sweep should change.
    """
    if results.sweep is None:
        raise ReportError(f"{results.title}: no sweep file found; give one sweep")
    if is_refined(results.sweep):
        raise ReportError(
            f"{results.title}: this sweep only repeats the best of another one; "
            "give the folder of that one"
        )
    if not results.ranked:
        statuses = Counter(run.status for run in results.observations)
        why = why_unranked(statuses)
        if statuses[RunStatus.RUNNING]:
            why = f"no run has finished yet ({stand_of(results)})"
        why = why or missing_metric_note(results.runs, results.metric, results.sweep)
        raise ReportError(f"{results.title}: {why}")
    evidence = Evidence(results)
    if evidence.surface is None:
        runs = len(evidence.compared.comparable)
        found = f"{runs} runs with a {results.metric.name}"
        if runs < MIN_RUNS_TO_FIT:
            found += (
                f" that can be compared are too few to learn from; {MIN_RUNS_TO_FIT} are needed"
                f" ({stand_of(evidence.results)})"
            )
        else:
            found += " differ in no setting that can be compared, so there is nothing to learn"
        raise ReportError(f"{results.title}: {found}")
    return _Next(results, evidence).text()


class _Next:
    """Builder of the next sweep."""

    def __init__(self, results: Results, evidence: Evidence) -> None:
        assert results.sweep is not None
        self.sweep: SweepFile = results.sweep
        self.results, self.evidence = results, evidence
        self.claims = explain(results, evidence)
        self.effects = {
            effect.factor.name: effect
            for effect in (evidence.surface.effects if evidence.surface else ())
        }
        self.content: dict[str, Any] = deepcopy(dict(self.sweep.content))
        swept = {n for each in self.sweep.parameters for n in hyperparameter_names(each)}
        self.flags = {
            name: value
            for name, value in results.fixed.items()
            if not results.is_foreign
            and name in HYPERPARAMETERS
            and name not in swept
            and value != HYPERPARAMETERS[name].default
        }
        """Hyperparameters that all runs shared and the sweep does not set."""

    def text(self) -> str:
        """Return the whole file."""
        self.content.pop("name", None)
        self.content = {"name": f"{Path(self.results.title).name}-next", **self.content}
        for name, parameter in self.results.parameters.items():
            known = name in HYPERPARAMETERS or parameter.has_mappings
            if not (self.results.is_foreign or known):
                continue
            if parameter.is_constant:
                self._lengthen(parameter, name)
            elif name in self.effects:
                self._move_parameter(parameter, self.effects[name])
        if self.sweep.method != "grid" and self.sweep.run_cap is None:
            cap = max(8, len(self.results.observations))
            self.content["run_cap"] = Commented(
                cap, "as many as before; without it the sweep never ends"
            )
        self._leave_out_impossible()
        if self.content["parameters"] == self.sweep.content["parameters"]:
            progress = progress_of(self.results)
            so_far = f" ({progress})" if progress else ""
            raise ReportError(
                f"{self.results.title}: nothing stood out in "
                f"{len(self.evidence.compared.comparable)} runs{self.evidence.when}{so_far}, so "
                f"the next sweep would be the same; {self._repeat}, or search more runs or other "
                "values"
            )
        heading = (
            f"The next sweep after {self.results.title}, which found {self.results.metric.name} "
            f"{score_text(self.results.best_score)} in {len(self.results.observations)} runs."
        )
        for claim in self.claims:
            if claim.rule in ("in_progress", "stopped"):
                heading += f" {claim.says[0].upper()}{claim.says[1:]}."
        if self.flags:
            words = (f"{HYPERPARAMETERS[n].flag} {value}" for n, value in self.flags.items())
            heading += f" Its runs also had these flags, after --: {' '.join(words)}"
        return sweep_text(self.content, heading)

    @property
    def _repeat(self) -> str:
        """Advice to repeat the best."""
        by = " (fundamentallm refine)" if self.results.refinable else ""
        return f"repeat the best with more seeds{by}"

    def _claim(self, rule: str, about: str = "") -> Claim | None:
        said = (c for c in self.claims if c.rule == rule and (not about or c.about == about))
        return next(said, None)

    # --- One parameter ---

    def _lengthen(self, parameter: Parameter, name: str) -> None:
        entry = parameter.entry(self.content)
        if self.results.is_foreign or parameter.has_mappings:
            return
        if name not in ("epochs", "max_steps"):
            return
        length = int(parameter.distribution.quantile(0.5))
        if length and self._claim("still_falling"):
            why = f"was {length}: val_loss was still falling at the end of most runs"
            changed = Commented(LONGER * length, why)
        elif length > 1 and (early := self._claim("best_early")) and early.verdict == "early":
            why = f"was {length}: the best step was in the first tenth of most runs"
            changed = Commented(length // LONGER, why)
        else:
            return
        entry.clear()  # it may have been a list of one
        entry["value"] = changed

    def _move_parameter(self, parameter: Parameter, effect: Effect) -> None:
        """Narrow or widen one parameter that matters."""
        entry, edge = parameter.entry(self.content), self._claim("edge", effect.factor.name)
        if edge is not None and not has_room(self.results, effect.factor, edge.verdict):
            edge = None  # then closer to the end, not past it
        if "values" in entry:
            self._move_values(entry, effect, edge)
        elif isinstance(parameter.distribution, Continuous | IntUniform) and "min" in entry:
            self._move_range(entry, parameter.distribution, effect, edge)

    def _move_values(self, entry: dict[str, Any], effect: Effect, edge: Claim | None) -> None:
        factor, levels = effect.factor, list(effect.factor.levels)
        if not factor.is_numeric or any(isinstance(level, bool) for level in levels):
            near = [
                level
                for level, (_, loss) in zip(levels, effect.curve, strict=True)
                if loss <= min(each for _, each in effect.curve) + effect.error
            ]
            if len(near) < len(levels):
                least = min(loss for _, loss in effect.curve)
                gone = ", ".join(
                    f"{shown(level)} (by {score_text(loss - least)})"
                    for level, (_, loss) in zip(levels, effect.curve, strict=True)
                    if level not in near
                )
                entry["values"] = Commented(near, f"left out as worse: {gone}")
                entry.pop("probabilities", None)
            return
        best = min(levels, key=lambda level: abs(level - effect.best))  # of many it lies between
        if edge is not None:
            values = self._beyond(factor.name, levels, edge.verdict, in_logs=factor.in_logs)
            why = f"widened: {shown(best)} was the best and at the edge"
        else:
            index = levels.index(best)
            around = levels[max(0, index - 1) : index + 2]
            values = [
                _between(other, best, in_logs=factor.in_logs) for other in around if other != best
            ]
            why = f"closer to {shown(best)}, the best of {len(levels)}"
        moved = {self._possible(factor, v, best) for v in values}
        values = sorted(moved | {best})
        if len(values) > 1 and values != levels:
            entry["values"] = Commented(values, why)
            entry.pop("probabilities", None)

    def _beyond(self, name: str, levels: Sequence[float], side: str, *, in_logs: bool) -> list:
        """Return two steps beyond the end of a list; of two levels in logs, also the one before."""
        ordered = list(levels) if side == "high" else list(reversed(levels))
        end, before = ordered[-1], ordered[-2]
        if in_logs:
            ratio = end / before
            if not self._is_inside(name, end):  # where few have been: in smaller steps
                ratio = math.sqrt(ratio)
            return [before, end * ratio, end * ratio**2][1 - (len(levels) == 2) :]
        step = end - before
        return [end + step, end + 2 * step]

    def _move_range(
        self,
        entry: dict[str, Any],
        distribution: Continuous | IntUniform,
        effect: Effect,
        edge: Claim | None,
    ) -> None:
        """Move a range around the best, or past the edge; in logs where the search was."""
        factor = effect.factor
        whole = isinstance(distribution, IntUniform)
        low, high = (distribution.low, distribution.high) if whole else distribution.bounds
        in_logs = not whole and (distribution.in_logs or (low > 0 and high / low >= LEAST_RATIO))
        at = math.log if in_logs else float
        span, best = at(high) - at(low), at(min(max(effect.best, low), high))  # q may round out
        if edge is None:
            new = (best - ZOOM / 2 * span, best + ZOOM / 2 * span)
            new = (max(new[0], at(low)), min(new[1], at(high)))
            source = "the fitted optimum" if effect.is_supported else "the value of the best run"
            why = f"closer to {shown(effect.best)}, {source}"
        elif edge.verdict == "high":
            new = (at(high) - span / 2, at(high) + WIDEN * span)
            why = f"widened: the best was at the largest tried, {shown(high)}"
        else:
            new = (at(low) - WIDEN * span, at(low) + span / 2)
            why = f"widened: the best was at the smallest tried, {shown(low)}"
        values = [math.exp(end) if in_logs else end for end in new]
        at_edge = low if edge is not None and edge.verdict == "low" else high
        values = [
            old
            if math.isclose(old, value, rel_tol=1e-9)
            else self._possible(factor, value, at_edge)
            for old, value in zip((low, high), values, strict=True)
        ]
        if values[0] >= values[1]:
            return
        kind, q = entry.get("distribution", ""), None if whole else distribution.q
        entry.clear()
        if in_logs and not kind.endswith("_values"):
            kind = "q_log_uniform_values" if q else "log_uniform_values"
        if kind:
            entry["distribution"] = kind
        for name, old, value in zip(("min", "max"), (low, high), values, strict=True):
            same = math.isclose(old, value, rel_tol=1e-9)
            entry[name] = value if same else Commented(value, f"was {shown(old)}: {why}")
        if q and "q_" in kind:
            entry["q"] = q

    def _leave_out_impossible(self) -> None:
        """Remove values of num_heads that do not divide every width.

        If fewer than two are left, the file's own values stay.
        """
        parsed = self._parsed()
        if self.results.is_foreign:
            return
        if fit := fitting_heads(SearchSpace(parsed, self.flags)):
            heads = self.results.parameters["num_heads"]
            entry = heads.entry(self.content)
            entry.clear()
            if len(fit) > 1:
                entry["values"] = Commented(fit, "those that divide every model_dim")
            else:
                entry |= heads.entry(self.sweep.content)

    def _parsed(self) -> SweepFile:
        """Parse the sweep as built so far.

        Raises:
            ReportError: Nothing is left to search.
        """
        try:
            plain = parse_sweep(sweep_text(self.content, ""), self.sweep.file)
        except SweepError:  # bayes without a range
            plain = None
        if plain is None or all(parameter.is_constant for parameter in plain.parameters):
            raise ReportError(
                f"{self.results.title}: only one value of each setting is left, so there is "
                f"nothing to search; {self._repeat}"
            )
        return plain

    # --- Possible values ---

    def _is_inside(self, name: str, value: float) -> bool:
        """Return whether a value lies inside the documented range, not at its end."""
        typical = None if self.results.is_foreign else HYPERPARAMETERS[name].typical
        return typical is None or typical[0] < value < typical[1]

    def _possible(self, factor: Factor, value: float, edge: float) -> float:
        """Round and clip a value; to the documented range too if `edge` is inside it."""
        if not self.results.is_foreign:
            inside = self._is_inside(factor.name, edge)
            return _clipped(HYPERPARAMETERS[factor.name], value, inside=inside, edge=edge)
        tried = _ends(self.results.parameters[factor.name])
        low, high = possible_ends(self.results, factor.name, *tried)
        whole = all(isinstance(end, int) for end in tried)
        rounded = _rounded(value, whole=whole)
        return type(rounded)(min(max(rounded, low), high))


def _between(a: float, b: float, *, in_logs: bool) -> float:
    return math.sqrt(a * b) if in_logs else (a + b) / 2


def _ends(parameter: Parameter) -> tuple[float, float]:
    """Return the least and the largest number of a parameter."""
    numbers = [value for value in extremes(parameter) if type(value) in (int, float)]
    return min(numbers), max(numbers)


def _rounded(value: float, *, whole: bool, step: int = 1) -> float:
    """Round to two digits, near 1 to two digits of 1 - value; whole numbers to a step."""
    if whole:
        return round(value / step) * step
    if 0.9 < value < 1:
        return round(1 - float(f"{1 - value:.2g}"), 12)
    return float(f"{value:.2g}")


def _clipped(known: Hyperparameter, value: float, *, inside: bool, edge: float) -> float:
    """Round, and clip to the possible range, and to the documented one if `inside` it."""
    step = WHOLE_STEPS.get(known.name, 1)
    value = _rounded(value, whole=known.type is int, step=step)
    value = max(step, value) if known.type is int else value
    if known.typical is not None and inside:
        value = min(max(value, known.typical[0]), known.typical[1])
    if known.possible is None or value in known.possible:
        return value
    low, high = known.possible.ends
    clipped = min(max(value, low), high)
    if clipped in known.possible:
        return known.type(clipped)
    return known.type((clipped + edge) / 2)  # the end itself is not possible: half way there
