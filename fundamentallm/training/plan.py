"""Plan of a run, fixed before its first step: the number of steps, and what follows which."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.training import lr_schedules

SAMPLE_TIMES = 10
"""About how often the model writes a sample in a run of any length."""

WORTH_COMPILING = 5_000
"""Steps after which compiling, about a minute on a GPU, has paid off: a guess, not measured."""

SHORT_DECAY = 0.9
"""Share of its decay that a run must have time for; else it enters in the middle of a decay."""

TOKENS_AT_ONCE = 4096
"""Tokens of a batch that a CPU processes at once, so that memory does not grow with the batch.
Nearly as fast as the whole batch (docs/dev/experiments.md)."""


def sequences_at_once(config: Config, *, on_cpu: bool) -> int:
    """Return the number of sequences of a step to process at once.

    The update is the same as for the whole batch, except for rounding and dropout's random draws.
    """
    fitting = max(1, TOKENS_AT_ONCE // config.max_seq_len)
    return min(config.batch_size, fitting) if on_cpu else config.batch_size


def compiles(config: Config, total_steps: int, *, on_cuda: bool) -> bool:
    """Return whether to compile the model; `auto` depends on the run's length alone.

    Compiling never pays on a CPU: kernels.c is faster than compiled code
    (docs/dev/performance.md).
    """
    if config.compile == "auto":
        return on_cuda and total_steps >= WORTH_COMPILING and find_spec("triton") is not None
    return config.compile == "true"


@dataclass(frozen=True)
class Plan:
    """Plan of a run on a text that fills `batches_per_epoch` batches.

    Steps are optimizer steps; with accumulation an epoch may not be a whole number of them.
    """

    config: Config
    batches_per_epoch: int
    last_step: int = 0
    """Last step, fixed during the run so that it ends in time; 0 if it is not."""
    most_seconds: float = math.inf
    """Training time of the run, if it is less than `max_minutes`."""

    @property
    def seconds(self) -> float:
        """Longest training time of the run; infinite without a limit."""
        return min(60 * self.config.max_minutes or math.inf, self.most_seconds)

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps per epoch."""
        return self.batches_per_epoch / self.config.gradient_accumulation

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, unless early stopping or `max_minutes` ends it sooner."""
        batches = self.batches_per_epoch * self.config.epochs
        steps = -(-batches // self.config.gradient_accumulation)  # rounded up
        return min(each for each in (steps, self.config.max_steps, self.last_step) if each)

    @property
    def last_step_by(self) -> str:
        """Hyperparameter that determines `total_steps`."""
        if self.total_steps == self.last_step:
            return "max_minutes"
        return "max_steps" if self.total_steps == self.config.max_steps else "epochs"

    @property
    def decay_start(self) -> int:
        """First step of wsd's decay; `total_steps` without one."""
        if self.config.lr_schedule != "wsd":
            return self.total_steps
        return lr_schedules.decay_start(self.config, self.total_steps)

    def last_step_in_time(self, step: int, seconds: float) -> int:
        """Return the last step of a wsd run, so that its decay ends with its time.

        It is known once the stable part of the time is spent: the decay begins now, and takes
        its fraction of the steps. Of a run that lost time the decay is shorter.

        Args:
            step: Steps done.
            seconds: Training time so far.

        Returns:
            The last step; 0 if it is not known yet, or if the decay has begun.
        """
        config, stable = self.config, 1 - self.config.decay_fraction
        if config.lr_schedule != "wsd" or not stable or self.last_step or step >= self.decay_start:
            return 0
        if seconds < self.seconds * stable:
            return 0
        end = round(step / stable)
        in_time = step + round((self.seconds - seconds) * step / seconds)
        is_late = self.most_seconds < math.inf and in_time < step + SHORT_DECAY * (end - step)
        return max(in_time, step + 1) if is_late and step else end

    def last_step_by_deadline(self, last_step: int, step: int, seconds: float) -> int:
        """Return `last_step`, or an earlier one after `step` that `most_seconds` allow."""
        if math.isinf(self.most_seconds) or not seconds:
            return last_step
        left = max(self.most_seconds - seconds, 0.0)
        return min(last_step, step + max(1, math.ceil(left * step / seconds)))

    def epoch(self, step: int) -> float:
        """Epochs completed after `step` steps."""
        return step / self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        return lr_schedules.learning_rate(
            self.config, step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )

    def evaluates_after(self, step: int) -> bool:
        """Return whether an evaluation follows step `step`."""
        if self.config.eval_every:
            return step % self.config.eval_every == 0
        batches = step * self.config.gradient_accumulation  # integers: no rounding
        before = batches - self.config.gradient_accumulation
        return batches // self.batches_per_epoch > before // self.batches_per_epoch

    def samples_after(self, step: int, last_sampled: int) -> bool:
        """Return whether a tenth of the run has passed since the last sample."""
        tenth = [SAMPLE_TIMES * s // self.total_steps for s in (last_sampled, step)]
        return tenth[1] > tenth[0]

    def warnings(self) -> list[str]:
        """Return a line for each setting that has no effect."""
        config, total = self.config, self.total_steps
        lines: list[str] = []
        if config.warmup_steps >= total:
            lines.append(
                f"--warmup-steps {config.warmup_steps} is not shorter than the run, {total} steps: "
                "the learning rate never leaves its warm-up"
            )
        stable = round(total * (1 - config.decay_fraction))
        if config.lr_schedule == "wsd" and stable < config.warmup_steps < total:
            lines.append(
                f"--warmup-steps {config.warmup_steps} is longer than the stable part, "
                f"{stable} steps: the decay starts late and is shorter than --decay-fraction says"
            )
        late = [step for step in config.lr_milestones if step >= total]
        if config.lr_schedule == "step" and late:
            lines.append(f"--lr-steps {late[0]} comes after the run's end, {total} steps")
        for name, (only_with, used) in self._uses().items():
            known = HYPERPARAMETERS[name]
            if not used and getattr(config, name) != known.default:
                lines.append(f"{known.flag} does nothing without {only_with}")
        if config.gradient_accumulation > self.batches_per_epoch:
            lines.append(
                f"--gradient-accumulation {config.gradient_accumulation} is more than the "
                f"{self.batches_per_epoch} batches of an epoch: a step reads more than the text"
            )
        if config.eval_every > total:
            lines.append(
                f"--eval-every {config.eval_every} is longer than the run, {total} steps: "
                "it is evaluated once, at its end"
            )
        return lines

    def _uses(self) -> dict[str, tuple[str, bool]]:
        """Return hyperparameters that need another: which one, and whether it is set."""
        schedule = self.config.lr_schedule
        return {
            "lr_steps": ("--lr-schedule step", schedule == "step"),
            "lr_decay": (
                "--lr-schedule step or exponential",
                schedule in ("step", "exponential"),
            ),
            "min_lr_ratio": (
                "--lr-schedule cosine, linear or wsd",
                schedule in ("cosine", "linear", "wsd"),
            ),
            "decay_fraction": ("--lr-schedule wsd", schedule == "wsd"),
            "patience": ("--early-stopping", self.config.early_stopping),
        }
