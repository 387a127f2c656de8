"""Progress of the sweep: runs that are missing or unfinished."""

from __future__ import annotations

from collections import Counter

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Claim, Evidence, count_text
from fundamentallm.status import FAULTS, RunStatus
from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.refine import is_refined
from fundamentallm.sweep.search.space import hyperparameter_names
from fundamentallm.sweep.store.records import status_counts


def in_progress(evidence: Evidence) -> list[Claim]:
    """Report runs that have not ended or started; other claims ignore them."""
    results = evidence.results
    statuses = [run.status for run in results.observations]
    asked, made = runs_asked_for(results), len(statuses)
    missing = asked is not None and made < asked and not reached_target(results)
    if not results.ranked or not (missing or RunStatus.UNFINISHED in statuses):
        return []
    of = f" of {asked}" if missing else ""
    stand = status_counts(Counter(statuses))
    says = f"{made}{of} runs so far: {stand}; these results cover only them and may change"
    return [Claim("in_progress", "in_progress", says)]


def failed(evidence: Evidence) -> list[Claim]:
    """Report runs that failed, with the most frequent reason; other claims leave them out."""
    runs = evidence.results.observations
    reasons = Counter(
        str(run.summary.get("stopped_by") or run.status) for run in runs if run.status in FAULTS
    )
    if not reasons:
        return []
    ((reason, _),) = reasons.most_common(1)
    which = "" if len(reasons) == 1 else "most often "
    says = f"{count_text(reasons.total(), len(runs))} failed, {which}by: {reason[:200]}"
    return [Claim("failed", "failed", says)]


def runs_asked_for(results: Results) -> int | None:
    """Return the number of runs that the sweep file asks for; None if endless or unknown.

    Unknown too if there are more: `sweep --seeds` repeats configurations as often as needed.
    """
    if results.sweep is None or is_refined(results.sweep):
        return None
    swept = {name for each in results.sweep.parameters for name in hyperparameter_names(each)}
    known = {n: v for n, v in results.fixed.items() if n in HYPERPARAMETERS and n not in swept}
    space = results.space(known)
    asked = None if space is None else size(space)[0]
    return None if asked is None or asked < len(results.observations) else asked


def reached_target(results: Results) -> bool:
    """Return whether a run has reached the metric's target, which ends the sweep."""
    target, best = results.metric.target, next(iter(results.ranked), None)
    if target is None or best is None:
        return False
    return results.metric.sign * (best.score or 0.0) <= results.metric.sign * target
