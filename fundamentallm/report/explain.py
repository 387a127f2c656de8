"""Explain a sweep: all rules, in the order of decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from fundamentallm.report.results import Results
from fundamentallm.report.rules.budget import more_runs
from fundamentallm.report.rules.caveats import (
    held_fixed,
    other_losses,
    repeated,
    stopped,
    unfair_rate,
)
from fundamentallm.report.rules.claim import Claim, Evidence
from fundamentallm.report.rules.length import best_early, overfitting, still_falling, underfitting
from fundamentallm.report.rules.parameters import edge, matters
from fundamentallm.report.rules.progress import failed, in_progress
from fundamentallm.report.rules.stability import clipping, divergence, instability
from fundamentallm.report.rules.winner import winner

Rule = Callable[[Evidence], list[Claim]]
RULES: tuple[Rule, ...] = (
    in_progress,
    failed,
    other_losses,
    winner,
    matters,
    edge,
    divergence,
    still_falling,
    best_early,
    overfitting,
    underfitting,
    clipping,
    instability,
    more_runs,
    repeated,
    stopped,
    unfair_rate,
    held_fixed,
)
LOSS_RULES = (matters, edge, more_runs)
"""Rules that attribute differences in loss to settings, which differing texts forbid."""

TRAINER_RULES = (
    *(divergence, still_falling, best_early, overfitting, underfitting, clipping, instability),
    unfair_rate,
)
"""Rules about our trainer, in whose metrics and names another program means other things."""

HEADINGS = {
    "in_progress": "Not finished",
    "failed": "Failed runs",
    "other_losses": "Not comparable",
    "winner": "The best",
    "matters": "What mattered",
    "edge": "Edges of the search",
    "divergence": "Divergence",
    "still_falling": "Length of the runs",
    "best_early": "Length of the runs",
    "overfitting": "Overfitting",
    "underfitting": "Underfitting",
    "clipping": "Gradient clipping",
    "instability": "Early instability",
    "more_runs": "More runs?",
    "repeated": "Caveats",
    "stopped": "Caveats",
    "unfair_rate": "Caveats",
    "held_fixed": "Caveats",
}


def explain(results: Results, evidence: Evidence | None = None) -> list[Claim]:
    """Return the claims of all rules, in their order."""
    evidence = evidence or Evidence(results)
    if not evidence.results.runs:
        return []
    left_out = LOSS_RULES if other_losses(evidence) else ()
    left_out += TRAINER_RULES if evidence.results.is_foreign else ()
    rules = [rule for rule in RULES if rule not in left_out]
    return [claim for rule in rules for claim in rule(evidence)]


def by_heading(claims: Iterable[Claim]) -> dict[str, list[str]]:
    """Return what the claims say by their heading, in their order."""
    said: dict[str, list[str]] = {}
    for claim in claims:
        said.setdefault(HEADINGS[claim.rule], []).append(claim.says)
    return said
