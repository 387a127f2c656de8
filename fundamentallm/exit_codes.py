"""What a process tells the one that started it: the contract with shells, schedulers, agents."""

from __future__ import annotations

from fundamentallm.status import RunStatus

DONE = 0
FAILED = 1
BAD_INPUT = 2
HUNG_UP = 129  # 128 + SIGHUP, as shells count
INTERRUPTED = 130  # 128 + SIGINT
PREEMPTED = 143  # 128 + SIGTERM

EARLY = ("hyperband", "wandb")
"""What may stop a run of a sweep that is not worth going on with; what it reached is a result."""


def of_run(status: str, stopped_by: str, *, in_sweep: bool) -> int:
    """The exit code of a run that ended with `status`, as summary.json has it.

    In a sweep a diverged run or an impossible point is a result like others: an agent that
    sees three failures in its first minute gives up. So is a run that was stopped early.
    """
    if status == RunStatus.INTERRUPTED:
        signals = {"SIGHUP": HUNG_UP, "SIGINT": INTERRUPTED, "SIGTERM": PREEMPTED}
        return (signals | dict.fromkeys(EARLY, DONE)).get(stopped_by, FAILED)
    if status == RunStatus.DIVERGED:
        return DONE if in_sweep else FAILED
    if status == RunStatus.REFUSED:
        return BAD_INPUT
    return DONE if status in (RunStatus.DONE, RunStatus.IMPOSSIBLE) else FAILED
