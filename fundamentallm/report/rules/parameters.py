"""Settings that mattered, and best values at the edge of the search."""

from __future__ import annotations

import math

from fundamentallm.config.fields import shown
from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.metrics import score_text
from fundamentallm.report.effects import Effect
from fundamentallm.report.factors import Factor
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.status import RunStatus
from fundamentallm.sweep.check.warnings import extremes

EDGE = 0.1
"""Distance from an end, as a share of the range, that counts as at it."""
MIN_T = 2.0
LARGEST_T = 1000  # beyond it, results hold no noise at all
"""Smallest t value that counts as falling towards an edge."""


def matters(evidence: Evidence) -> list[Claim]:
    """Report settings with a certain effect and its size, and settings without one.

    Source: effects.py. That an effect was not found does not mean that there is none; so say the
    American Statistical Association's statement on p-values (2016) and Google's tuning playbook,
    which asks for more points before a setting is called unimportant.
    """
    surface = evidence.surface
    if surface is None:
        return []
    claims = [_matters_claim(effect, evidence) for effect in surface.effects]
    for effect, others in surface.together:
        names = ", ".join([effect.factor.name, *(factor.name for factor in others)])
        says = (
            f"{names}: from worst to best they move {evidence.metric}{evidence.when} by "
            f"{score_text(effect.size)}, but they changed together, so their effects cannot be "
            "told apart"
        )
        claims.append(Claim("matters", "together", says, names))
    if surface.undecided:
        names = ", ".join(factor.name for factor in surface.undecided)
        beside = f" from {evidence.sigma_source}" if evidence.sigma else ""
        runs = f"{len(surface.runs)} runs{evidence.when}"
        says = f"{names}: no effect stands out{beside}, in {runs}"
        claims.append(Claim("matters", "undecided", says, names))
    return claims


def _matters_claim(effect: Effect, evidence: Evidence) -> Claim:
    name, size = effect.factor.name, effect.size
    times = f", {size / evidence.sigma:.0f} times {evidence.sigma_source}" if evidence.sigma else ""
    says = (
        f"{name} matters: from worst to best it moves {evidence.metric}{evidence.when} by "
        f"{score_text(size)} ± {score_text(effect.error)}{times}; "
        f"p {_p_text(effect.p)}; {_best_text(effect, evidence)}"
    )
    return Claim("matters", "matters", says, name)


def _best_text(effect: Effect, evidence: Evidence) -> str:
    """Return the best value of a list, or the range of the best runs' values.

    The fitted optimum is named only if these values surround it.
    """
    if effect.factor.is_listed or not effect.factor.is_numeric:
        return f"best: {shown(effect.best)}"
    surface = evidence.surface
    others = surface is not None and len(surface.effects) + len(surface.together) > 1
    adjusted = ", adjusted for the other settings" if others else ""
    low, high = map(shown, effect.near_values)
    if effect.near == 1:
        return f"the best run has {low}{adjusted}"
    says = f"{effect.near} runs within {score_text(effect.margin)} of the best have {low} to "
    says += f"{high}{adjusted}"
    return f"{says}; fitted optimum {shown(effect.optimum)}" if effect.is_supported else says


def edge(evidence: Evidence) -> list[Claim]:
    """Report that the best value of a setting is the smallest or largest tried.

    Source: Google's tuning playbook, "Identifying bad search space boundaries": if the best points
    cluster at the edge of the space, it should be widened there. Not said where runs diverged
    beyond.
    """
    surface = evidence.surface
    claims: list[Claim] = []
    for effect in surface.effects if surface is not None else ():
        factor = effect.factor
        if not factor.is_numeric:
            continue
        positions = [factor.position(value) for value in (effect.optimum, effect.winner)]
        near = 0.0 if factor.is_listed else EDGE
        sides = (
            ("low", effect.low_edge_t, max(positions) <= near),
            ("high", effect.high_edge_t, min(positions) >= 1 - near),
        )
        for side, t, is_at_edge in sides:
            if is_at_edge and t >= MIN_T and not _diverged_beyond(evidence, effect, side):
                claims.append(_at_edge(effect, side, t, evidence))
    return claims


def _at_edge(effect: Effect, side: str, t: float, evidence: Evidence) -> Claim:
    name = effect.factor.name
    value = shown(effect.factor.levels[0 if side == "low" else -1])
    which, to = ("smallest", "below") if side == "low" else ("largest", "above")
    advice = f"widen the range {to} it"
    if not has_room(evidence.results, effect.factor, side):
        advice = f"no value {to} the range is possible, so search closer to that end"
    says = (
        f"the best {name} is near the {which} tried, {value}: {evidence.metric}{evidence.when} "
        f"{'falls' if evidence.results.metric.sign > 0 else 'rises'} towards it "
        f"({f't = {t:.1f}' if t < LARGEST_T else f't above {LARGEST_T}'}); {advice}"
    )
    return Claim("edge", side, says, name)


def has_room(results: Results, factor: Factor, side: str) -> bool:
    """Return whether values beyond that end of the search are possible."""
    parameter = results.parameters.get(factor.name)
    tried: list[float] = [factor.levels[0], factor.levels[-1]]
    if parameter is not None:
        tried += [value for value in extremes(parameter) if type(value) in (int, float)]
    low, high = possible_ends(results, factor.name, min(tried), max(tried))
    return min(tried) > low if side == "low" else max(tried) < high


def possible_ends(results: Results, name: str, low: float, high: float) -> tuple[float, float]:
    """Return the ends of a setting's possible values, of which `low` and `high` are two.

    What another program takes is unknown: no number of another sign, no count below 1, and no share
    above 1 is tried.
    """
    if not results.is_foreign:
        known = HYPERPARAMETERS.get(name)
        ends = known.possible.ends if known is not None and known.possible is not None else None
        return ends or (-math.inf, math.inf)
    whole = isinstance(low, int) and isinstance(high, int)
    least = 1 if whole and low >= 1 else 0 if low >= 0 else -math.inf
    return least, 1 if low >= 0 and high <= 1 and not whole else math.inf


def _diverged_beyond(evidence: Evidence, effect: Effect, side: str) -> bool:
    """Return whether a run diverged at or beyond that end."""
    factor = effect.factor
    near = 0.0 if factor.is_listed else EDGE
    values = [
        run.settings[factor.name]
        for run in evidence.results.observations
        if (run.status == RunStatus.DIVERGED or evidence.results.is_capped(run))
        and isinstance(run.settings.get(factor.name), int | float)
    ]
    if factor.in_logs:
        values = [value for value in values if value > 0]
    positions = [factor.position(value) for value in values]
    return any(
        position >= 1 - near if side == "high" else position <= near for position in positions
    )


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
