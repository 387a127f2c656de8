"""Declare every hyperparameter of a run once, in the class `Config`.

The command-line options, their help, the checks of values and the table in
docs/hyperparameters.md come from that class. To add a hyperparameter, add a field;
a test then names the page to write again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import get_type_hints

from fundamentallm.config.fields import (
    ConfigError,
    Hyperparameter,
    ImpossibleCombinationError,
    hyperparameter,
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Hyperparameters of a run, checked on construction and immutable.

    Numbers may be given as text, as on the command line (`Config(learning_rate="1e-4")`).
    Steps are optimizer steps everywhere. 0 (or "") means off.

    Raises:
        ConfigError: A value has the wrong type or is impossible.
        ImpossibleCombinationError: Two values, each possible, exclude each other.
    """

    # --- Model ---
    model_dim: int = hyperparameter(
        128,
        "Width of the embedding and of every layer.",
        group="Model",
        typical=(64, 1024),
        possible="[1, 65536]",
        also_called=("dim", "d_model", "n_embd", "width", "hidden_size"),
    )
    num_layers: int = hyperparameter(
        6,
        "Number of transformer layers.",
        group="Model",
        typical=(2, 24),
        possible="[1, 1000]",
        also_called=("layers", "n_layer", "depth"),
    )
    num_heads: int = hyperparameter(
        8,
        "Attention heads a layer; must divide --model-dim.",
        group="Model",
        typical=(2, 16),
        possible="[1, 65536]",
        also_called=("heads", "n_head"),
    )
    dropout: float = hyperparameter(
        0.1,
        "Drop this fraction of embeddings and layer outputs in training.",
        group="Model",
        typical=(0.0, 0.3),
        possible="[0, 1)",
    )
    attention_dropout: float = hyperparameter(
        0.0,
        "Drop this fraction of attention weights in training; slow on a CPU.",
        group="Model",
        typical=(0.0, 0.3),
        possible="[0, 1)",
    )
    # --- Sequence ---
    max_seq_len: int = hyperparameter(
        256,
        "Tokens in a training sequence: the model's context.",
        group="Sequence",
        typical=(128, 2048),
        possible="[2, 1000000]",
        also_called=("seq_len", "block_size", "context_length", "sequence_length"),
    )
    tokenizer: str = hyperparameter(
        "char",
        "Split the text into characters, or into bytes of UTF-8.",
        group="Sequence",
        choices=("char", "byte"),
    )
    val_split: float = hyperparameter(
        0.1,
        "Keep this fraction of the text, at its end, for validation.",
        group="Sequence",
        typical=(0.01, 0.3),
        possible="(0, 1)",
        also_called=("validation_split", "val_fraction"),
    )
    # --- Training ---
    learning_rate: float = hyperparameter(
        1e-3,
        "Peak learning rate.",
        group="Training",
        typical=(1e-5, 1e-2),
        possible="(0, 1000]",
        also_called=("lr", "max_lr", "peak_lr"),
    )
    batch_size: int = hyperparameter(
        32,
        "Sequences in a batch.",
        group="Training",
        typical=(8, 128),
        possible="[1, 1000000]",
        also_called=("bs",),
    )
    epochs: int = hyperparameter(
        20,
        "Passes over the training text.",
        group="Training",
        typical=(5, 100),
        possible="[1, 1000000]",
        also_called=("num_epochs", "max_epochs"),
    )
    gradient_accumulation: int = hyperparameter(
        1,
        "Average the gradients of this many batches into one step.",
        group="Training",
        possible="[1, 1000000]",
        also_called=("gradient_accumulation_steps", "grad_accum", "accumulation"),
    )
    gradient_clip: float = hyperparameter(
        1.0,
        "Clip the gradient to this norm; 0 does not clip.",
        group="Training",
        possible="[0, inf)",
        also_called=("grad_clip", "clip", "max_grad_norm"),
    )
    weight_decay: float = hyperparameter(
        0.1,
        "Weight decay of the matrices, as in AdamW.",
        group="Training",
        possible="[0, 1000]",
        also_called=("wd",),
    )
    beta2: float = hyperparameter(
        0.99,
        "Adam's decay rate of squared gradients.",
        group="Training",
        possible="[0, 1)",
    )
    mixed_precision: bool = hyperparameter(
        False,
        "Compute in bfloat16 if the hardware has it, or float16 on a GPU; weights stay float32.",
        group="Training",
        also_called=("amp", "bf16", "fp16"),
    )
    compile: str = hyperparameter(
        "auto",
        "Compile the model with torch.compile; auto compiles long runs on a GPU.",
        group="Training",
        choices=("auto", "true", "false"),
    )
    # --- Learning-rate schedule ---
    lr_schedule: str = hyperparameter(
        "constant",
        "Change the learning rate over the run by this schedule.",
        group="Schedule",
        choices=("constant", "cosine", "step", "exponential", "linear", "wsd"),
        also_called=("schedule", "scheduler", "lr_scheduler"),
    )
    warmup_steps: int = hyperparameter(
        0,
        "Raise the learning rate to its peak over this many steps.",
        group="Schedule",
        possible="[0, inf)",
        also_called=("warmup", "warmup_iters"),
    )
    lr_decay: float = hyperparameter(
        0.0,
        "Decay by this factor: step (0 means 0.1), or exponential each epoch (0 means 0.96).",
        group="Schedule",
        possible="[0, 1]",
        also_called=("gamma", "decay"),
    )
    lr_steps: str = hyperparameter(
        "",
        "Multiply by --lr-decay at these steps, in the step schedule: 10000,20000.",
        group="Schedule",
        also_called=("milestones",),
    )
    min_lr_ratio: float = hyperparameter(
        0.1,
        "End cosine, linear and wsd schedules at this fraction of the peak.",
        group="Schedule",
        possible="[0, 1]",
        also_called=("min_lr",),
    )
    decay_fraction: float = hyperparameter(
        0.2,
        "Decay over this last fraction of the run, in the wsd schedule.",
        group="Schedule",
        possible="(0, 1]",
        also_called=("cooldown_fraction", "decay_frac"),
    )
    # --- Run ---
    eval_every: int = hyperparameter(
        0,
        "Evaluate every N steps; 0 evaluates once an epoch.",
        group="Run",
        possible="[0, inf)",
        also_called=("eval_interval",),
    )
    early_stopping: bool = hyperparameter(
        False,
        "Stop after --patience evaluations in a row without a new best val_loss.",
        group="Run",
    )
    patience: int = hyperparameter(
        5,
        "Evaluations without a new best after which early stopping ends the run.",
        group="Run",
        possible="[1, inf)",
    )
    max_steps: int = hyperparameter(
        0,
        "Stop after N steps, if --epochs does not end first; 0 sets no limit.",
        group="Run",
        possible="[0, inf)",
        also_called=("steps", "max_iters", "num_steps"),
    )
    max_minutes: float = hyperparameter(
        0.0,
        "Stop after N minutes of training; 0 sets no limit.",
        group="Run",
        possible="[0, inf)",
        also_called=("minutes", "max_time"),
    )
    seed: int = hyperparameter(
        0,
        "Seed of weights, batches and dropout.",
        group="Run",
        possible="[0, 4294967295]",
    )

    def __post_init__(self) -> None:
        for known in HYPERPARAMETERS.values():
            object.__setattr__(self, known.name, known.parse(getattr(self, known.name)))
        _parse_lr_steps(self.lr_steps)
        if self.lr_schedule == "step" and not self.lr_steps:
            raise ImpossibleCombinationError(
                "--lr-schedule step needs --lr-steps, e.g. --lr-steps 10000,20000"
            )
        if self.model_dim % self.num_heads:
            fitting = _nearest_divisors(self.model_dim, self.num_heads)
            raise ImpossibleCombinationError(
                f"--num-heads {self.num_heads} does not divide --model-dim {self.model_dim}; "
                f"the nearest that do: {' and '.join(map(str, fitting))}"
            )

    @property
    def lr_milestones(self) -> tuple[int, ...]:
        """`lr_steps` as rising numbers."""
        return _parse_lr_steps(self.lr_steps)

    @property
    def tokens_per_step(self) -> int:
        """Training tokens of an optimizer step."""
        return self.batch_size * self.gradient_accumulation * self.max_seq_len

    def warnings(self) -> list[str]:
        """Return a line for each value outside its documented range."""
        found = (known.warning(getattr(self, name)) for name, known in HYPERPARAMETERS.items())
        return [line for line in found if line]


def _parse_lr_steps(text: str) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        steps = (0,)
    if list(steps) != sorted(set(steps)) or any(step < 1 for step in steps):
        raise ConfigError(f"--lr-steps: got {text!r}; give {HYPERPARAMETERS['lr_steps'].accepts}")
    return steps


def _nearest_divisors(number: int, wanted: int) -> list[int]:
    """Return the divisors of `number` next below and above `wanted`."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return below + above


def _read_declarations() -> dict[str, Hyperparameter]:
    types = get_type_hints(Config)
    return {
        f.name: Hyperparameter(
            name=f.name, type=types[f.name], default=getattr(Config, f.name), **f.metadata
        )
        for f in fields(Config)
    }


HYPERPARAMETERS: Mapping[str, Hyperparameter] = _read_declarations()

CONSTRAINED = (("model_dim", "num_heads"), ("lr_schedule", "lr_steps"))
"""Pairs of hyperparameters that may exclude each other: `__post_init__` refuses those."""
