"""Every hyperparameter of a run, declared once, in the class `Config`.

The command-line options, their help, the checks of values and the table in
docs/hyperparameters.md are all read off that class. To add a hyperparameter, add one
field there; a test then names the page to write again.
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
    """One run's hyperparameters, checked on construction and never changed after.

    Text is taken for numbers, as on the command line (`Config(learning_rate="1e-4")`).
    Steps are optimizer steps everywhere. 0 (or "") means off.

    Raises:
        ConfigError: A value is of the wrong type or not possible.
        ImpossibleCombinationError: Two that are possible do not fit together.
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
        "Attention heads in a layer; must divide --model-dim.",
        group="Model",
        typical=(2, 16),
        possible="[1, 65536]",
        also_called=("heads", "n_head"),
    )
    dropout: float = hyperparameter(
        0.1,
        "Share of the embeddings and of every layer's outputs dropped in training.",
        group="Model",
        typical=(0.0, 0.3),
        possible="[0, 1)",
    )
    attention_dropout: float = hyperparameter(
        0.0,
        "Share of the attention weights dropped in training; slow on a CPU.",
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
        "What a token is: a character seen in training, or a byte of UTF-8.",
        group="Sequence",
        choices=("char", "byte"),
    )
    val_split: float = hyperparameter(
        0.1,
        "Share of the text, at its end, kept for validation.",
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
        "Batches whose gradients are averaged into one optimizer step.",
        group="Training",
        possible="[1, 1000000]",
        also_called=("gradient_accumulation_steps", "grad_accum", "accumulation"),
    )
    gradient_clip: float = hyperparameter(
        1.0,
        "Largest norm of the gradient; 0 leaves it as it is.",
        group="Training",
        possible="[0, inf)",
        also_called=("grad_clip", "clip", "max_grad_norm"),
    )
    weight_decay: float = hyperparameter(
        0.1,
        "Decay of the weight matrices, as in AdamW.",
        group="Training",
        possible="[0, 1000]",
        also_called=("wd",),
    )
    beta2: float = hyperparameter(
        0.99,
        "Adam's memory of squared gradients.",
        group="Training",
        possible="[0, 1)",
    )
    mixed_precision: bool = hyperparameter(
        False,
        "Compute in bfloat16 where the hardware has it, or float16 on a GPU; weights stay float32.",
        group="Training",
        also_called=("amp", "bf16", "fp16"),
    )
    compile: str = hyperparameter(
        "auto",
        "Compile the model with torch.compile; auto does so for long runs on a GPU.",
        group="Training",
        choices=("auto", "true", "false"),
    )
    # --- Learning-rate schedule ---
    lr_schedule: str = hyperparameter(
        "constant",
        "Shape of the learning rate over the run.",
        group="Schedule",
        choices=("constant", "cosine", "step", "exponential", "linear"),
        also_called=("schedule", "scheduler", "lr_scheduler"),
    )
    warmup_steps: int = hyperparameter(
        0,
        "Steps over which the learning rate first rises to its peak.",
        group="Schedule",
        possible="[0, inf)",
        also_called=("warmup", "warmup_iters"),
    )
    lr_decay: float = hyperparameter(
        0.0,
        "Factor of the step schedule (0 means 0.1), and of exponential each epoch (0 means 0.96).",
        group="Schedule",
        possible="[0, 1]",
        also_called=("gamma", "decay"),
    )
    lr_steps: str = hyperparameter(
        "",
        "Steps at which the step schedule multiplies by --lr-decay: 10000,20000.",
        group="Schedule",
        also_called=("milestones",),
    )
    min_lr_ratio: float = hyperparameter(
        0.1,
        "Where the cosine and linear schedules end, as a share of the peak.",
        group="Schedule",
        possible="[0, 1]",
        also_called=("min_lr",),
    )
    # --- Run ---
    eval_every: int = hyperparameter(
        0,
        "Steps between evaluations; 0 evaluates once an epoch.",
        group="Run",
        possible="[0, inf)",
        also_called=("eval_interval",),
    )
    early_stopping: bool = hyperparameter(
        False,
        "Stop when --patience evaluations in a row bring no new best val_loss.",
        group="Run",
    )
    patience: int = hyperparameter(
        5,
        "Evaluations without a new best that early stopping waits for.",
        group="Run",
        possible="[1, inf)",
    )
    max_steps: int = hyperparameter(
        0,
        "Stop after this many steps, if --epochs does not end first; 0 sets no limit.",
        group="Run",
        possible="[0, inf)",
        also_called=("steps", "max_iters", "num_steps"),
    )
    max_minutes: float = hyperparameter(
        0.0,
        "Stop after this many minutes of training; 0 sets no limit.",
        group="Run",
        possible="[0, inf)",
        also_called=("minutes", "max_time"),
    )
    seed: int = hyperparameter(
        0,
        "Seed of the weights, the batches and the dropout.",
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
        """`lr_steps` as numbers, rising."""
        return _parse_lr_steps(self.lr_steps)

    def warnings(self) -> list[str]:
        """A line for each value outside its documented range."""
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
    """The divisors of `number` on both sides of `wanted`."""
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
"""Hyperparameters of which not every combination is possible: what `__post_init__` refuses."""
