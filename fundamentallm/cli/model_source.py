"""Model that a command line names: a checkpoint, a run's best, or that of a sweep's best run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fundamentallm.cli.messages import display_path, notify
from fundamentallm.cli.result_sources import read_sources
from fundamentallm.errors import FundamentallmError
from fundamentallm.metrics import runs_text, score_text
from fundamentallm.sweep.store.sweep_folder import is_sweep


def find_model(source: str | Path, tell: Callable[[str], None] = notify) -> Path:
    """Return the path of the checkpoint that `source` names.

    Args:
        source: A checkpoint, the folder of a run, whose best.pt is taken, or of a sweep, whose best
            run is taken.
        tell: Receives a line that names the run taken from a sweep.

    Raises:
        CheckpointError: There is no such file, or no checkpoint in the folder.
        FundamentallmError: The sweep has no run with a model of ours.
    """
    from fundamentallm.training.checkpoint import find_checkpoint

    path = Path(source)
    if is_sweep(path):
        path = _best_run(path, tell)
    return find_checkpoint(path)


def _best_run(sweep: Path, tell: Callable[[str], None]) -> Path:
    results = read_sources([str(sweep)], "")
    best = results.best
    if best is None:
        from fundamentallm.sweep.store.records import why_unranked

        why = why_unranked(Counter(run.status for run in results.observations))
        raise FundamentallmError(f"{sweep}: {why or 'no run has a score'}, so there is no model")
    if best.program:
        raise FundamentallmError(
            f"{sweep}: its runs are of another program, whose models only that program knows"
        )
    run = sweep / best.name
    if not os.path.isdir(run):
        raise FundamentallmError(
            f"{sweep}: the folder of its best run, {best.name}, is not here; copy it from the "
            "machine that trained it, or give another run"
        )
    tell(
        f"{display_path(run)}: best of {runs_text(len(results.observations))}, "
        f"{results.metric.name} {score_text(best.score)}"
    )
    return run
