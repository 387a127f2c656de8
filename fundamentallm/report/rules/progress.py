"""Progress of the sweep: runs that are missing or unfinished."""

from __future__ import annotations

from collections import Counter

from fundamentallm.config.hyperparameters import HYPERPARAMETERS
from fundamentallm.metrics import runs_text
from fundamentallm.report.results import Results
from fundamentallm.report.rules.claim import Claim, Evidence, count_text
from fundamentallm.status import FAULTS, IN_PROGRESS, OVER, RunStatus
from fundamentallm.sweep.check.warnings import size
from fundamentallm.sweep.refine import is_refined
from fundamentallm.sweep.search.space import hyperparameter_names
from fundamentallm.sweep.store.records import progress_text, status_counts


def in_progress(evidence: Evidence) -> list[Claim]:
    """Report runs that have not ended or started; other claims ignore them."""
    results = evidence.results
    if not progress_of(results):
        return []
    warning = "these results cover only runs that have ended, and may change"
    if not results.ranked:
        warning = "nothing can be said before one has ended"
    return [Claim("in_progress", "in_progress", f"{stand_of(results)}; {warning}")]


def stand_of(results: Results) -> str:
    """Return how many runs there are, by status, and how far a sweep in progress is.

    `8 runs: 7 done, 1 diverged`, or `12 of 40 runs, 2 running: 9 done, 3 stopped early`.
    """
    statuses = Counter(run.status for run in results.observations)
    progress = progress_of(results)
    if progress:
        del statuses[RunStatus.RUNNING]
    runs = progress or runs_text(statuses.total())
    return f"{runs}: {status_counts(statuses)}" if statuses else runs


def progress_of(results: Results) -> str:
    """Return how far a sweep in progress is: `12 of 40 runs, 2 running`; "" if it has ended."""
    statuses = Counter(run.status for run in results.observations)
    asked, made = runs_asked_for(results), statuses.total()
    missing = asked is not None and made < asked and not reached_target(results)
    if not (missing or any(statuses[status] for status in IN_PROGRESS)):
        return ""
    over = sum(statuses[status] for status in OVER)
    limit = None if asked is None or made > asked else asked
    return progress_text(over, limit, statuses[RunStatus.RUNNING])


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
