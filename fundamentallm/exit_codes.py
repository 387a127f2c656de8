"""Exit codes: the contract with shells, schedulers and agents."""

from __future__ import annotations

from fundamentallm.status import RunStatus, is_stopped_early

DONE = 0
FAILED = 1
BAD_INPUT = 2
HUNG_UP = 129  # 128 + SIGHUP, as shells count
INTERRUPTED = 130  # 128 + SIGINT
PREEMPTED = 143  # 128 + SIGTERM


def of_run(status: str, stopped_by: str, *, in_sweep: bool) -> int:
    """Return the exit code of a run that ended with `status` of summary.json.

    In a sweep, a diverged, an impossible and an early-stopped run are results like any other; an
    agent that sees three failures in its first minute gives up.
    """
    if is_stopped_early(status, stopped_by):
        return DONE
    if status == RunStatus.INTERRUPTED:
        signals = {"SIGHUP": HUNG_UP, "SIGINT": INTERRUPTED, "SIGTERM": PREEMPTED}
        return signals.get(stopped_by, FAILED)
    if status == RunStatus.DIVERGED:
        return DONE if in_sweep else FAILED
    if status == RunStatus.REFUSED:
        return BAD_INPUT
    return DONE if status in (RunStatus.DONE, RunStatus.IMPOSSIBLE) else FAILED
