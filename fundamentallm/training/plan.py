"""What a run will do, fixed before its first step: how many steps, and what happens after which."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from fundamentallm.config.hyperparameters import HYPERPARAMETERS, Config
from fundamentallm.training import lr_schedules

SAMPLE_TIMES = 10  # the model writes about as often in a run, whatever the run's length

WORTH_COMPILING = 5_000
"""Steps that save on a GPU what a minute of compiling costs: a guess, not measured."""

TOKENS_AT_ONCE = 4096
"""Of a batch, on a CPU, so that memory does not grow with the batch. Nearly as fast as all at once
(docs/dev/experiments.md)."""


def sequences_at_once(config: Config, *, on_cpu: bool) -> int:
    """In how large parts the sequences of a step are worked through.

    The update is that of the whole, but for rounding and for the order in which dropout draws.
    """
    fitting = max(1, TOKENS_AT_ONCE // config.max_seq_len)
    return min(config.batch_size, fitting) if on_cpu else config.batch_size


def compiles(config: Config, total_steps: int, *, on_cuda: bool) -> bool:
    """Whether a run is to be compiled. Its length alone decides, so that it can be told again.

    On a CPU that never pays: kernels.c is faster than what torch.compile makes
    (docs/dev/performance.md).
    """
    if config.compile == "auto":
        return on_cuda and total_steps >= WORTH_COMPILING and find_spec("triton") is not None
    return config.compile == "true"


@dataclass(frozen=True)
class Plan:
    """The course of a run over a text that fills `batches_per_epoch` batches.

    Steps are optimizer steps; with accumulation an epoch need not be a whole number of them.
    """

    config: Config
    batches_per_epoch: int

    @property
    def steps_per_epoch(self) -> float:
        """Optimizer steps in an epoch."""
        return self.batches_per_epoch / self.config.gradient_accumulation

    @property
    def total_steps(self) -> int:
        """Steps of the whole run, unless early stopping or the clock ends it before."""
        batches = self.batches_per_epoch * self.config.epochs
        steps = -(-batches // self.config.gradient_accumulation)  # up, in whole numbers
        return min(steps, self.config.max_steps) if self.config.max_steps else steps

    @property
    def last_step_by(self) -> str:
        """The hyperparameter that `total_steps` comes from."""
        return "max_steps" if self.total_steps == self.config.max_steps else "epochs"

    def epoch(self, step: int) -> float:
        """Epochs done after `step` steps."""
        return step / self.steps_per_epoch

    def learning_rate(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return lr_schedules.learning_rate(
            self.config, step, total_steps=self.total_steps, steps_per_epoch=self.steps_per_epoch
        )

    def evaluates_after(self, step: int) -> bool:
        """Whether `step` steps complete an epoch, or a stretch of `eval_every` steps."""
        if self.config.eval_every:
            return step % self.config.eval_every == 0
        batches = step * self.config.gradient_accumulation  # whole numbers: no rounding
        before = batches - self.config.gradient_accumulation
        return batches // self.batches_per_epoch > before // self.batches_per_epoch

    def samples_after(self, step: int, last_sampled: int) -> bool:
        """Whether a tenth of the run has passed since the model last wrote."""
        tenth = [SAMPLE_TIMES * s // self.total_steps for s in (last_sampled, step)]
        return tenth[1] > tenth[0]

    def warnings(self) -> list[str]:
        """A line for each setting that cannot do what it was given for."""
        config, total = self.config, self.total_steps
        lines: list[str] = []
        if config.warmup_steps >= total:
            lines.append(
                f"--warmup-steps {config.warmup_steps} is not shorter than the run, {total} steps: "
                "the learning rate never leaves its warm-up"
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
                f"{self.batches_per_epoch} batches of an epoch: a step reads more than all the text"
            )
        if config.eval_every > total:
            lines.append(
                f"--eval-every {config.eval_every} is longer than the run, {total} steps: "
                "it is scored once, at its end"
            )
        return lines

    def _uses(self) -> dict[str, tuple[str, bool]]:
        """Hyperparameters that count only with another: with which, and whether it is so."""
        schedule = self.config.lr_schedule
        return {
            "lr_steps": ("--lr-schedule step", schedule == "step"),
            "lr_decay": (
                "--lr-schedule step or exponential",
                schedule in ("step", "exponential"),
            ),
            "min_lr_ratio": (
                "--lr-schedule cosine or linear",
                schedule in ("cosine", "linear"),
            ),
            "patience": ("--early-stopping", self.config.early_stopping),
        }
