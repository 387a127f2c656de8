"""Learning-rate range test: one short run whose rate rises from far too low to far too high.

Source: Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3; smoothing
and stopping as in Gugger's description of it (2018).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset, training_batch
from fundamentallm.errors import type_and_message
from fundamentallm.files.atomic import DiskError
from fundamentallm.machine.device import peak_memory_gb, pick_device
from fundamentallm.status import RunStatus
from fundamentallm.trackers.base import Number, Tracker
from fundamentallm.training.evaluate import perplexity
from fundamentallm.training.isolation import run_alone
from fundamentallm.training.train_step import OutOfMemoryError, TrainStep, with_advice

LOWEST, HIGHEST = 1e-6, 1.0
STEPS = 200
SMOOTHING = 0.9
MIN_STEPS = 20  # steps before the test may end
BLOW_UP_RATIO = 1.25  # times the least smoothed loss


@dataclass(frozen=True)
class RangeTest:
    """Range in which to search for the learning rate."""

    low: float
    """Rate at which the loss begins to fall clearly."""
    high: float
    """Rate at which the loss is lowest, just before it rises; a full run needs less."""
    fell: bool
    """True if the loss fell; otherwise the range is that of the whole test."""
    stopped: bool = False
    """True if the test was interrupted."""


def find_learning_rate(
    config: Config,
    dataset: Dataset,
    *,
    device: str = "auto",
    trackers: Sequence[Tracker] = (),
    stop_requested: Callable[[], str] = lambda: "",
) -> RangeTest:
    """Train while the rate rises, by the same factor each step, until the loss blows up.

    Args:
        config: The hyperparameters; its learning rate and schedule are not used.
        dataset: The text, prepared for `config`.
        device: auto, cpu, cuda, cuda:N or mps.
        trackers: Receive every step.
        stop_requested: Called before every step; the test ends if it returns a reason.

    Raises:
        DeviceError: The device does not exist here.
        OutOfMemoryError: A step does not fit this machine.
        DiskError: A tracker cannot write a file.
    """
    torch_device = pick_device(device)
    settings = {**vars(config), "data": dataset.name, "data_sha256": dataset.sha256}
    for tracker in trackers:
        tracker.start(settings, total_steps=STEPS, step=0, facts={})
    began = time.perf_counter()
    rates: list[float] = []
    losses: list[float] = []

    def finish(status: RunStatus, stopped_by: str) -> RangeTest:
        suggestion = suggest(rates, losses)
        low, high = suggestion or (LOWEST, HIGHEST)
        summary = {
            "status": status,
            "stopped_by": stopped_by,
            "step": len(losses),
            "total_steps": len(losses),
            "seconds": time.perf_counter() - began,
            "vocabulary_size": len(dataset.vocabulary),
            "range_test": {"low": low, "high": high, "fell": suggestion is not None},
        }
        for tracker in trackers:
            tracker.finish(summary)
        return RangeTest(low, high, suggestion is not None, status == RunStatus.INTERRUPTED)

    try:
        with run_alone(config, torch_device):
            train_step = TrainStep(len(dataset.vocabulary), config, torch_device)
            for step in range(STEPS):
                if stopped_by := stop_requested():
                    return finish(RunStatus.INTERRUPTED, stopped_by)
                rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
                row = _take_step(train_step, dataset, step, rate)
                if not math.isfinite(row["train_loss"]):
                    break
                rates.append(rate)
                losses.append(row["train_loss"])
                for tracker in trackers:
                    tracker.log(row, step=step + 1)
                smooth = smoothed(losses)
                if step >= MIN_STEPS and smooth[-1] > BLOW_UP_RATIO * min(smooth):
                    break
    except BaseException as error:
        error = with_advice(error)
        oom = isinstance(error, OutOfMemoryError)
        why = str(error) if oom else type_and_message(error)
        with suppress(DiskError):  # `error` itself may be one
            finish(RunStatus.OOM if oom else RunStatus.FAILED, why)
        raise error
    return finish(RunStatus.DONE, "the end of the range test")


def _take_step(
    train_step: TrainStep, dataset: Dataset, step: int, rate: float
) -> dict[str, Number]:
    """Update once and return the row of metrics."""
    windows = training_batch(dataset.train, train_step.config, step)
    before = time.perf_counter()
    loss, norm = train_step.step(windows, rate)
    value = loss.item()
    row = {
        "train_loss": value,
        "train_perplexity": perplexity(value),
        "optim/learning_rate": rate,
        "perf/tokens_per_second": windows[:, 1:].numel() / (time.perf_counter() - before),
        "perf/memory_gb": peak_memory_gb(train_step.device),
    }
    if math.isfinite(float(norm)):
        row["optim/grad_norm"] = float(norm)
    return row


def smoothed(losses: Sequence[float]) -> list[float]:
    """Return exponential means of `losses`, corrected for their start."""
    mean, means = 0.0, []
    for count, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        means.append(mean / (1 - SMOOTHING**count))
    return means


def suggest(rates: Sequence[float], losses: Sequence[float]) -> tuple[float, float] | None:
    """Return the range to search; None if the loss never fell.

    It begins where the smoothed loss has fallen by a tenth of its whole fall, and ends where the
    loss is lowest.
    """
    if len(losses) < MIN_STEPS:
        return None
    smooth = smoothed(losses)
    start = statistics.fmean(losses[:5])
    least = min(range(len(smooth)), key=smooth.__getitem__)
    fall = start - smooth[least]
    if fall <= 0.01 * start:
        return None
    begins = next(i for i, loss in enumerate(smooth) if start - loss >= 0.1 * fall)
    low, high = rates[begins], rates[least]
    if low * 3 > high:  # too narrow to search
        low = high / 10
    return float(f"{low:.1g}"), float(f"{high:.1g}")
