"""The training loop: from a text and a `Config` to a trained model."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from fundamentallm.config.hyperparameters import Config
from fundamentallm.data.dataset import Dataset, prepare, training_batch
from fundamentallm.data.text import Text
from fundamentallm.data.unknown_characters import summary_of_unknown
from fundamentallm.errors import type_and_message
from fundamentallm.files.atomic import DiskError
from fundamentallm.files.run_folder import RunFolder
from fundamentallm.machine.device import is_out_of_memory, peak_memory_gb, pick_device
from fundamentallm.model.native import kernels, team
from fundamentallm.model.sampling import continue_text
from fundamentallm.status import RunStatus
from fundamentallm.trackers.base import Number, ProgressTracker, Tracker
from fundamentallm.training.checkpoint import Checkpoint, CheckpointError
from fundamentallm.training.evaluate import perplexity, score, uniform_guess
from fundamentallm.training.isolation import run_alone
from fundamentallm.training.plan import Plan, compiles
from fundamentallm.training.state import LOG_EVERY, Result, TrainingState
from fundamentallm.training.train_step import OutOfMemoryError, TrainStep, with_advice

LOG = logging.getLogger(__name__)

LEAST_SECONDS = 1e-3
"""Training time after its end: one step, so that there is a model."""


class StopRequestedError(Exception):
    """The run was asked to stop; caught in this module."""


class DivergedError(Exception):
    """A loss is not finite; caught in this module."""


def train(
    config: Config,
    text: str | Dataset,
    *,
    folder: RunFolder | None = None,
    trackers: Sequence[Tracker] = (),
    device: str = "auto",
    checkpoint: Checkpoint | None = None,
    stop_requested: Callable[[], str] = lambda: "",
    end_by: float = math.inf,
) -> Result:
    """Train a model on `text` and evaluate it on the last `val_split`.

    Runs in several threads take turns.

    Args:
        config: The hyperparameters.
        text: The text, or a dataset prepared from it for `config`.
        folder: Folder for `best.pt`, `last.pt` and `trunk.pt`; without one nothing is saved.
        trackers: Receive every row of metrics and every sample.
        device: auto, cpu, cuda, cuda:N or mps.
        checkpoint: A `last.pt` to resume: bit for bit on a CPU with the same number of threads.
        stop_requested: Called before every step and during an evaluation. If it returns a reason,
            the run is saved and ends, with that reason as its `stopped_by`.
        end_by: Time of `time.time` by which the run should end, if that is before `max_minutes`.

    Raises:
        DataError: The text is too short.
        DeviceError: The device does not exist here.
        CheckpointError: `checkpoint` has another text or other hyperparameters.
        DiskError: A file cannot be written; the last checkpoint is still there.
        OutOfMemoryError: A step does not fit this machine.
    """
    dataset = prepare(Text.of(text), config) if isinstance(text, str) else text
    torch_device = pick_device(device)
    progress = None
    if checkpoint is not None:
        checkpoint.check_continues(config, dataset)
        progress = TrainingState.of(checkpoint.progress)
        if checkpoint.config.max_minutes != config.max_minutes:
            progress.last_step = 0
    with run_alone(config, torch_device, progress.threads if progress else 0):
        loop = TrainLoop(config, dataset, torch_device, folder, trackers, progress)
        loop.limit_time(max(end_by - time.time(), LEAST_SECONDS))
        if checkpoint is not None:
            loop.train_step.load_state_dict(checkpoint.model, checkpoint.training)
        return loop.run(stop_requested)


class TrainLoop:
    """State of one run while it trains."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        device: torch.device,
        folder: RunFolder | None,
        trackers: Sequence[Tracker],
        progress: TrainingState | None,
    ) -> None:
        self.config, self.dataset = config, dataset
        self.device, self.folder, self.trackers = device, folder, trackers
        self.plan = Plan(config, dataset.batches_per_epoch(config))
        self.progress = p = progress or self.new_state()
        p.threads = p.threads or team()
        self.plan = replace(self.plan, last_step=p.last_step)
        self.train_step = TrainStep(len(dataset.vocabulary), config, device, compiled=p.compiled)
        self.model = self.train_step.model
        self.pending: list[Tensor] = []  # losses not yet fetched from the device
        self.grad_norm = torch.tensor(p.grad_norm)
        self.row: dict[str, Number] = {}
        self.stopped_by = ""

    def limit_time(self, seconds: float) -> None:
        """Limit the training time from here on; a decay that has begun is shortened."""
        p = self.progress
        self.plan = replace(self.plan, most_seconds=p.seconds + seconds)
        if p.last_step:
            p.last_step = self.plan.last_step_by_deadline(p.last_step, p.step, p.seconds)
            self.plan = replace(self.plan, last_step=p.last_step)

    def new_state(self) -> TrainingState:
        """Return the state of a new run, with decisions that a resumed run keeps."""
        guess = math.log(len(self.dataset.vocabulary))
        total, on_cuda = self.plan.total_steps, self.device.type == "cuda"
        return TrainingState(
            best_val_loss=guess,
            val_loss=guess,
            scored_step=0,
            threads=team(),
            compiled=compiles(self.config, total, on_cuda=on_cuda),
        )

    def run(self, stop_requested: Callable[[], str]) -> Result:
        """Train from the state `progress` until a limit, a request or an error ends the run."""
        p = self.progress
        self.stop_requested = stop_requested
        self.start_trackers()
        if self.device.type == "cpu":
            kernels()  # build them now: `max_minutes` counts training alone
        self.started = time.perf_counter() - p.seconds
        self.row_started = time.perf_counter()
        try:
            status = self.take_steps()
            guess = math.log(len(self.dataset.vocabulary))
            if status == RunStatus.DONE and (
                why := p.never_better_than(guess, self.config.warmup_steps)
            ):
                status, self.stopped_by = RunStatus.DIVERGED, why
        except DivergedError as loss:
            status, self.stopped_by = RunStatus.DIVERGED, str(loss)
        except BaseException as error:
            error = with_advice(error)
            oom = isinstance(error, OutOfMemoryError)
            why = str(error) if oom else type_and_message(error)
            with suppress(DiskError):  # `error` itself may be one
                self.finish(RunStatus.OOM if oom else RunStatus.FAILED, why)
            raise error
        return self.finish(status, self.stopped_by)

    def take_steps(self) -> RunStatus:
        """Take steps; return `done` at the end, or `interrupted` if asked to stop."""
        p = self.progress
        try:
            self.stopped_by = self.limit_reached()
            unscored = (
                self.stopped_by and 0 <= p.scored_step < p.step
            )  # resumed, with a shorter length
            if p.evaluating or unscored:  # stopped during its evaluation, or before it
                self.close_step(due=True)
            while not self.stopped_by:
                self.check_stop()
                if p.step == self.plan.decay_start > 0:
                    self.save_trunk()
                self.take_step()
                self.end_in_time()
                self.stopped_by = self.limit_reached()
                self.close_step(due=bool(self.stopped_by) or self.plan.evaluates_after(p.step))
        except StopRequestedError as asked:
            self.stopped_by = str(asked)
            self.save("last")
            return RunStatus.INTERRUPTED
        return RunStatus.DONE

    def start_trackers(self) -> None:
        """Start every tracker."""
        config = vars(self.config) | {"data": self.dataset.name, "data_sha256": self.dataset.sha256}
        for tracker in self.trackers:
            tracker.start(
                dict(config),
                total_steps=self.plan.total_steps,
                step=self.progress.step,
                facts=self.facts(),
            )

    def facts(self) -> dict[str, object]:
        """Return sizes and device of the run, which are known from its start."""
        return {
            "parameters": sum(weights.numel() for weights in self.model.parameters()),
            "vocabulary_size": len(self.dataset.vocabulary),
            "device": str(self.device),
        }

    def check_stop(self) -> None:
        """Raise StopRequestedError if the run was asked to stop."""
        if reason := self.stop_requested():
            raise StopRequestedError(reason)

    def close_step(self, *, due: bool) -> None:
        """Log a row if one is due after a step; if `due`, also evaluate and save."""
        p = self.progress
        if due or p.step % LOG_EVERY == 0:
            self.measure_step()
        if due:
            p.evaluating = True
            self.evaluate()
            p.evaluating = False
        if self.row:
            self.log()
        if due:
            self.save("last")

    def take_step(self) -> None:
        """Update the weights once."""
        step = self.progress.step
        windows = training_batch(self.dataset.train, self.config, step)
        loss, self.grad_norm = self.train_step.step(windows, self.plan.learning_rate(step))
        self.pending.append(loss)
        self.progress.compiled = self.train_step.compiled  # compiling may have failed
        self.progress.step += 1
        self.progress.seconds = time.perf_counter() - self.started

    def end_in_time(self) -> None:
        """Fix the last step of a wsd run once the stable part of its minutes is spent."""
        p = self.progress
        if last_step := self.plan.last_step_in_time(p.step, p.seconds):
            p.last_step = last_step
            self.plan = replace(self.plan, last_step=last_step)
            if p.step > self.plan.decay_start:  # late: it enters in the middle of the decay
                self.save_trunk()
            for tracker in self.trackers:
                if isinstance(tracker, ProgressTracker):
                    tracker.set_total(self.plan.total_steps)

    def limit_reached(self) -> str:
        """Return the hyperparameter that ends the run now, or ""."""
        p, config = self.progress, self.config
        if p.step >= self.plan.total_steps:
            return self.plan.last_step_by
        # Time cuts no decay that was to end in time; one over the whole run was not.
        decays = p.last_step or (p.step >= self.plan.decay_start and config.decay_fraction < 1)
        if p.seconds >= self.plan.seconds and not decays:
            return "max_minutes"
        if config.early_stopping and p.evaluations_since_best >= config.patience:
            return "early_stopping"
        return ""

    def fetch_losses(self) -> None:
        """Fetch pending losses from the device, which waits for it.

        Raises:
            DivergedError: A loss is not finite.
        """
        p = self.progress
        if self.pending:
            p.losses = (
                p.losses + torch.stack(self.pending).tolist()
            )  # a new list: a checkpoint holds the old one
            self.pending.clear()
            now = time.perf_counter()
            p.row_seconds += now - self.row_started
            self.row_started = now
        for index, loss in enumerate(p.losses):
            if not math.isfinite(loss):
                step = p.step - len(p.losses) + index + 1
                raise DivergedError(f"train_loss is {loss} at step {step}")

    def measure_step(self) -> None:
        """Start a row of metrics with those of the last steps."""
        self.fetch_losses()
        p, c = self.progress, self.config
        if not p.losses:  # logged already
            return
        loss = sum(p.losses) / len(p.losses)
        seconds = p.row_seconds or p.seconds / p.step * len(p.losses)  # 0 in old checkpoints
        p.train_loss, p.grad_norm = loss, float(self.grad_norm)
        self.row = {
            "train_loss": loss,
            "train_perplexity": perplexity(loss),
            "optim/learning_rate": self.plan.learning_rate(p.step - 1),
            "optim/grad_norm": p.grad_norm,
            "perf/tokens_per_second": c.tokens_per_step * len(p.losses) / seconds,
            "perf/memory_gb": peak_memory_gb(self.device),
        }
        if not math.isfinite(self.row["optim/grad_norm"]):  # float16 skips such a step
            del self.row["optim/grad_norm"]

    def evaluate(self) -> None:
        """Score the validation part, save the best model, and count evaluations since it.

        Raises:
            DivergedError: The loss is not finite.
        """
        p, data = self.progress, self.dataset
        characters = data.val_characters * len(data.scored) / len(data.val)
        self.model.eval()
        scored = None
        while scored is None:
            try:
                scored = score(
                    self.model, data.scored, characters, self.config, self.device,
                    tick=self.check_stop,
                )  # fmt: skip
            except (MemoryError, RuntimeError) as error:
                if not (is_out_of_memory(error) and self.train_step.make_room()):
                    raise
        if not math.isfinite(scored.loss):
            raise DivergedError(f"val_loss is {scored.loss} at step {p.step}")
        p.val_loss, p.scored_step = scored.loss, p.step
        p.evaluations += 1
        p.evaluations_since_best += 1
        if scored.loss < p.best_val_loss or not p.best_step:
            p.best_val_loss, p.best_step, p.evaluations_since_best = scored.loss, p.step, 0
            self.save("best")
        self.stopped_by = self.stopped_by or self.limit_reached()
        self.row |= {**scored.metrics, "best_val_loss": p.best_val_loss}
        if self.stopped_by or self.plan.samples_after(p.step, p.sampled_step):
            p.sampled_step = p.step
            sample = continue_text(self.model, data.vocabulary, data.val, seed=self.config.seed)
            for tracker in self.trackers:
                tracker.log_samples([sample], step=p.step)
        self.model.train()

    def log(self) -> None:
        """Pass the row to the trackers and start the next."""
        step = self.progress.step
        tokens = step * self.config.tokens_per_step
        row = {"epoch": self.plan.epoch(step), "tokens": tokens, **self.row}
        for tracker in self.trackers:
            tracker.log(row, step=step)
        self.row = {}
        self.progress.losses, self.progress.row_seconds = [], 0.0
        self.row_started = time.perf_counter()

    def save_trunk(self) -> None:
        """Write `trunk.pt`: the state before the decay, with the best model so far."""
        if self.folder is None:
            return
        best: dict[str, Any] = {}
        if self.progress.best_step:
            try:
                saved = Checkpoint.load(self.folder.best, self.folder.root)
            except CheckpointError as error:
                LOG.warning("%s; no %s is written", error, self.folder.trunk.name)
                return
            best = {"model": saved.model, "progress": saved.progress}
        self.save("trunk", best)

    def save(self, name: str, best: Mapping[str, Any] | None = None) -> None:
        """Write `best.pt`, for inference, or `last.pt` or `trunk.pt`, to continue training."""
        if self.folder is None:
            return
        self.fetch_losses()  # never save a state that has diverged
        training = {} if name == "best" else self.train_step.state_dict()
        if name != "best":
            self.folder.sync()  # a run resumed from here does not write its rows again
        checkpoint = Checkpoint(
            config=self.config, vocabulary=self.dataset.vocabulary,
            data={"name": self.dataset.name, "sha256": self.dataset.sha256},
            model=self.model.state_dict(), progress=asdict(self.progress), training=training,
            best=dict(best or {}),
        )  # fmt: skip
        files = {"best": self.folder.best, "last": self.folder.last, "trunk": self.folder.trunk}
        checkpoint.save(files[name], self.folder.root)
        self.row_started = time.perf_counter()

    def finish(self, status: RunStatus, stopped_by: str) -> Result:
        """Finish every tracker and return the result."""
        p, data = self.progress, self.dataset
        result = Result(status, stopped_by, p.step, p.best_val_loss, p.best_step, p.val_loss)
        guess = uniform_guess(len(data.vocabulary), data.val_characters / len(data.val))
        reused = {"reused_from": p.reused_from, "reused_steps": p.reused_steps}
        summary: Mapping[str, object] = {
            **asdict(result),
            **({} if p.best_step else guess.metrics),  # a sweep needs a score, whatever its metric
            "total_steps": self.plan.total_steps,
            "seconds": time.perf_counter() - self.started - p.reused_seconds,
            **(reused if p.reused_from else {}),
            **self.facts(),
            "characters_per_token": guess.characters_per_token,
            **summary_of_unknown(data.unknown),
            "threads": team(),
            "precision": str(self.train_step.precision).removeprefix("torch."),
            "kernels": self.device.type == "cpu" and not p.compiled and kernels() is not None,
            "compiled": p.compiled,
            "graphed": self.train_step.graphed,
        }
        with ExitStack() as stack:  # finish all, even if one raises
            for tracker in reversed(self.trackers):
                stack.callback(tracker.finish, summary)
        return result
