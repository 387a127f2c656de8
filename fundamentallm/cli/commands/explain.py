"""`fundamentallm explain`: what a sweep found, in words."""

from __future__ import annotations

from dataclasses import asdict

import click

from fundamentallm.cli.claims import show_claims
from fundamentallm.cli.json_output import json_option, show_json
from fundamentallm.cli.result_sources import (
    metric_option,
    read_sources,
    show_notes,
    sources_argument,
)
from fundamentallm.errors import FundamentallmError

NOTHING = "no run has finished, so there is nothing to explain yet"


@click.command()
@sources_argument(many=True)
@metric_option
@json_option
def explain(sources: tuple[str, ...], metric: str, as_json: bool) -> int:
    """Explain what a sweep found, and how sure that is.

    It says what won, what mattered and what to try next.
    SWEEP_OR_RUNS are folders of sweeps or runs, or sweeps on W&B: ENTITY/PROJECT/SWEEP.
    """
    results = read_sources(sources, metric)
    from fundamentallm.report.explain import explain as explain_results

    claims = explain_results(results)
    if not claims:
        raise FundamentallmError(f"{results.title}: {'; '.join(results.notes) or NOTHING}")
    if as_json:
        show_json([asdict(claim) for claim in claims])
    else:
        show_claims(claims)
    show_notes(results)
    return 0
