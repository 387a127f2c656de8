"""Continue an earlier run in the folder of a longer one, where both are the same so far."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

import torch

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset
from fundamentallm.files.atomic import replace_text
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.files.samples import Sample, format_sample
from fundamentallm.status import RunStatus
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.plan import Plan, compiles
from fundamentallm.training.state import TrainingState

LOG = logging.getLogger(__name__)

MOST_COMPARED = 10_000_000
"""Most steps whose learning rates are compared, which takes seconds."""


@dataclass(frozen=True)
class Start:
    """Start of a run, as an earlier one left it."""

    total_steps: int
    last: Checkpoint
    best: Checkpoint | None
    rows: Sequence[dict[str, Any]]
    samples: Sequence[tuple[int, Sample]]


def adopt(
    source: RunFolder, folder: RunFolder, config: Config, dataset: Dataset, device: torch.device
) -> Checkpoint | None:
    """Copy the start of an earlier run to `folder`, and return the checkpoint to continue from.

    It is the start of the new run too if only the length differs, and if every step so far has the
    same learning rate in both. Of `last.pt` and `trunk.pt`, the first is taken for which that
    holds. The files are those that the new run would have written itself. `last.pt` comes last: a
    run that is killed before it starts again from nothing.

    Args:
        source: Folder of the earlier run.
        folder: Folder of the new run, which holds none yet.
        config: Hyperparameters of the new run.
        dataset: Text of the new run.
        device: Device of the new run.

    Returns:
        The checkpoint; None if nothing can be reused, and then the log says why.

    Raises:
        DiskError: A file cannot be written.
    """
    reason = ""
    for file in ("last", "trunk"):
        try:
            start = _read_start(source, file, config, dataset, device)
        except CheckpointError as error:
            if not reason or source.trunk.exists():
                reason = str(error).removeprefix("--resume: ")
        else:
            _write_start(start, folder)
            return start.last
    LOG.warning("%s is not reused: %s", _name(source), reason)
    return None


def _read_start(
    source: RunFolder, file: str, config: Config, dataset: Dataset, device: torch.device
) -> Start:
    """Read the start of a run from an earlier one, as the new one would have written it.

    Raises:
        CheckpointError: It is not the start of the new run, or a file is missing or damaged.
    """
    found = Checkpoint.load(source.last if file == "last" else source.trunk, source.root)
    found.check_continues(config, dataset)
    state = TrainingState.of(found.progress)
    rows = [row for row in source.rows() if row["step"] <= state.step]
    plan = Plan(config, dataset.batches_per_epoch(config))
    _check_same_start(found.config, state, rows, plan)
    if missing := found.missing_from(source):
        raise CheckpointError(missing)
    own = {"config": config, "data": {"name": dataset.name, "sha256": dataset.sha256}, "best": {}}
    best = None
    if state.best_step:
        best = Checkpoint.load(source.best, source.root) if file == "last" else found.best_so_far()
        best.build_model()  # raises if its weights do not fit
        if best.progress.get("step") != state.best_step:
            raise CheckpointError(f"{source.best}: not the best model of step {state.best_step:,}")
    samples = [each for each in source.read_samples() if each[0] <= state.step]
    sampled = _sampled(rows, {at for at, _ in samples}, plan)

    def steps_before(end: int) -> dict[str, Any]:
        return {"last_step": 0, "sampled_step": max((s for s in sampled if s < end), default=0)}

    state = replace(
        state,
        **steps_before(state.step + 1),
        threads=0,  # as many as a new run
        compiled=compiles(config, plan.total_steps, on_cuda=device.type == "cuda"),
        reused_from=_name(source),
        reused_steps=state.step,
        reused_seconds=state.seconds,
    )
    if best is not None:
        progress = {**best.progress, **steps_before(state.best_step)}
        best = replace(best, **own, progress=progress)
    last = replace(found, **own, progress=asdict(state))
    kept = [each for each in samples if each[0] in sampled]
    return Start(plan.total_steps, last, best, rows, kept)


def _check_same_start(
    before: Config, state: TrainingState, rows: Sequence[dict[str, Any]], plan: Plan
) -> None:
    """Check that every step of the state is one that the new run takes too.

    Raises:
        CheckpointError: The new run is shorter, or a step has another learning rate. The rows show
            a rate that an earlier change of length left behind.
    """
    if state.step > MOST_COMPARED:
        raise CheckpointError(f"it has more than {MOST_COMPARED:,} steps")
    if state.step > plan.total_steps:
        raise CheckpointError(
            f"it has {state.step:,} steps, and this run only {plan.total_steps:,}"
        )
    after = plan.config
    if after.early_stopping and not (before.early_stopping and after.patience >= before.patience):
        raise CheckpointError("this run may stop earlier, by --early-stopping")
    old = Plan(before, plan.batches_per_epoch, state.last_step)
    planned = ((step, old.learning_rate(step)) for step in range(state.step))
    name = "optim/learning_rate"
    used = ((row["step"] - 1, row[name]) for row in rows if name in row)
    for step, rate in chain(planned, used):
        if rate != plan.learning_rate(step):
            raise CheckpointError(f"step {step + 1:,} has another learning rate in this run")


def _sampled(rows: Sequence[dict[str, Any]], present: set[int], plan: Plan) -> list[int]:
    """Return the steps of the samples that the new run would have written, if they are present."""
    sampled = [0]
    for step in (row["step"] for row in rows if "val_loss" in row):
        if step in present and plan.samples_after(step, sampled[-1]):
            sampled.append(step)
    return sampled[1:]


def _write_start(start: Start, folder: RunFolder) -> None:
    # The summary first: it proves that the files beside it belong to a run.
    folder.write_summary({"status": RunStatus.RUNNING, "total_steps": start.total_steps})
    if start.best is not None:
        start.best.save(folder.best, folder.root)
    rows = "".join(json.dumps(row) + "\n" for row in start.rows)
    replace_text(folder.metrics, rows, folder.root)
    if start.samples:
        samples = "".join(format_sample(at, sample) for at, sample in start.samples)
        replace_text(folder.samples, samples, folder.root)
    start.last.save(folder.last, folder.root)


def _name(source: RunFolder) -> str:
    """Return the names of the run's folder and the one that it is in, e.g. `c/run-0003`."""
    return "/".join(source.path.absolute().parts[-2:])
